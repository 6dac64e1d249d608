"""What does one page show of an audit, so that a person can judge each pair with their own eyes?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.audit.audit import KIND_TITLES, Audit
from cxr.audit.same_pictures import SIZE
from cxr.audit.shortcut_probes import REFERENCE, ShortcutProbes
from cxr.evaluation.report.figures import thumbnail_picture
from cxr.evaluation.report.page_template import template
from cxr.evaluation.report.parts import DRAWN, Card, Number, Part, Section, Table, strip
from cxr.evaluation.words import counted, number, read_estimate, with_limits
from cxr.files import write_atomically
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation

SHOWN = 100  # pairs on the page; all stand in the table beside it
_GAP = 8  # pixels between the pictures of a pair


def write_audit_page(
    audit: Audit,
    folder: Path,
    records: pd.DataFrame,
    pairs: pd.DataFrame | None,
    cache_dir: str | Path,
    *,
    thumbnails: bool = True,
) -> Path:
    """Write ``audit.html``: the verdict, the pairs side by side, who was joined, and the shortcut probes.

    One file, without script or network.

    Args:
        audit: what was found.
        folder: receives the page.
        records: the manifest that was audited.
        pairs: as `cxr.audit.same_pictures.SamePictures.pairs`; None where nobody looked.
        cache_dir: where the prepared images lie.
        thumbnails: show radiographs.

    Returns:
        Where it lies.
    """
    verdict = audit.verdict()
    sections = [_leaks(audit), _pairs(audit, records, pairs, cache_dir, thumbnails), _joins(audit)]
    if audit.shortcuts is not None:
        sections.append(_shortcuts(audit.shortcuts))
    page = template("sections.html.j2").render(
        footer="Written by cxr from the files themselves. Research only: no medical device.",
        sentence="",
        title="Audit",
        subtitle=(
            f"{counted(audit.num_images, 'image')} of {counted(audit.num_patients, 'patient')}, "
            f"{audit.split_kind} split. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by cxr."
        ),
        warnings=[line for line in verdict if line.split()[0].isupper()],
        facts=[line for line in verdict if not line.split()[0].isupper()],
        sections=[section for section in sections if section.parts],
    )
    path = folder / "audit.html"
    write_atomically(path, page)
    return path


def _leaks(audit: Audit) -> Section:
    section = Section("leaks", "Leaks", "Pictures and patients that stand on two sides of the split.")
    if len(audit.leaks):
        section.add(Part(tables=[_table(audit.leaks, "leaks.csv")]))
    return section


def _table(found: pd.DataFrame, file: str) -> Table:
    rows = [
        [
            str(row["image_a"]),
            str(row["image_b"]),
            KIND_TITLES[str(row["kind"])],
            number(None if np.isnan(row["score"]) else float(row["score"])),
            f"{row['split_a']} and {row['split_b']}",
            f"{row['label_a']} and {row['label_b']}" if row["label_differs"] else str(row["label_a"]),
        ]
        for row in found.head(SHOWN).to_dict("records")
    ]
    more = len(found) - len(rows)
    note = f"{counted(more, 'further pair')} in {file}." if more > 0 else f"Also in {file}."
    return Table("", ["image", "other image", "kind", Number("score"), "split", "label"], rows, note)


def _pairs(
    audit: Audit, records: pd.DataFrame, pairs: pd.DataFrame | None, cache_dir: str | Path, thumbnails: bool
) -> Section:
    section = Section(
        "pairs", "Same pictures", "Judge with your own eyes: what is shown side by side is held to be one picture."
    )
    if pairs is None or audit.pairs is None or not len(pairs):
        return section
    section.add(Part(tables=[_table(audit.pairs, "same_pictures.csv")]))
    if not thumbnails:
        return section
    shown = pairs[~pairs["kind"].isin(["path", "bytes"])].head(SHOWN)  # what is equal to the byte needs no eyes
    rows = np.unique(shown[["row_a", "row_b"]].to_numpy(np.int64))
    chosen = records.iloc[rows]
    images = prepare_images(
        chosen["path"].tolist(), chosen["sha256"].tolist(), Preparation(SIZE, "pad"), cache_dir, progress=False
    )
    pixels = {row: images.pixels[place] for row, place in zip(rows.tolist(), images.rows.tolist(), strict=True)}
    section.add(Part(cards=[_card(audit.pairs.iloc[k], shown.loc[k], pixels) for k in shown.index]))
    return section


def _card(described: pd.Series[Any], pair: pd.Series[Any], pixels: dict[int, Any]) -> Card:
    one, other = pixels[int(pair["row_a"])], pixels[int(pair["row_b"])]
    both = np.concatenate([one, np.full((len(one), _GAP), 255, np.uint8), other], axis=1)
    scale = f", side {pair['scale']:.2f}" if pair["kind"] == "crop" else ""
    terms = [
        ("images", f"{described['image_a']} | {described['image_b']}"),
        ("patients", f"{described['patient_a']} | {described['patient_b']}"),
        ("labels", f"{described['label_a']} | {described['label_b']}"),
        ("splits", f"{described['split_a']} | {described['split_b']}"),
        ("found as", f"{KIND_TITLES[str(pair['kind'])]}, score {pair['score']:.3f}{scale}"),
    ]
    return Card(thumbnail_picture(both, longest=both.shape[1]), terms)


def _joins(audit: Audit) -> Section:
    section = Section("patients", "Patients who became one", "They share a picture, so that no split divides them.")
    if audit.joins:
        rows = [[join.group, ", ".join(join.groups[1:]), f"{len(join.pairs):,}"] for join in audit.joins]
        section.add(Part(tables=[Table("", ["patient", "also called", Number("pairs between them")], rows)]))
    return section


def _shortcuts(found: ShortcutProbes) -> Section:
    section = Section(
        "shortcuts",
        "Shortcuts",
        f"What simple models learn of the label from what should not hold it; share: of what they learn from the "
        f"{REFERENCE}.",
    )
    rows = []
    for probe in found.probes:
        auroc, share = read_estimate("auroc", probe.auroc), read_estimate("share", probe.share)
        drawn = strip(share, 0.0, 1.0)
        flag = "flagged" if probe.flagged else ""
        rows.append([probe.name, with_limits(auroc), with_limits(share), drawn, flag, probe.verdict])
    columns = ["what is seen", *map(Number, ("AUROC", "share", DRAWN)), "found", "verdict"]
    note = "; ".join(f"{probe.name}: {probe.sees}" for probe in found.probes)
    section.add(Part(tables=[Table("", columns, rows, f"{note}.")]))
    return section
