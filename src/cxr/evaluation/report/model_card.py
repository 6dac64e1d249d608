"""What must whoever is handed a network know of it?  A card that is filled from the run, and says what it lacks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

from cxr.evaluation.report.checklists import CLAIM, TRIPOD_AI, find_evidence, judge
from cxr.evaluation.report.contents import Contents, machine, read_contents, revision, versions
from cxr.evaluation.report.data import accounting, characteristics, class_counts
from cxr.evaluation.report.page import title_of_run
from cxr.evaluation.report.page_template import template
from cxr.evaluation.report.sharing import Pseudonyms, without_patients
from cxr.evaluation.report.warnings import collect_warnings
from cxr.evaluation.words import (
    ABSENT,
    estimates,
    headline,
    limits,
    mapping,
    mappings,
    number,
    read_estimate,
    title_of,
    verdict,
    visible,
    with_limits,
)
from cxr.files import write_atomically
from cxr.training.run_directory import RunDirectory

HUMAN = "[needs a human]"
# Sections of the configuration that say how the network came to be, in the order of its making.
SETTINGS = ("data.image_size", "data.aspect", "data.views", "data.classes", "augment", "balance", "loss", "model",
            "optimizer", "schedule", "trainer", "seed")  # fmt: skip
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
# A list, a heading or a rule, where it begins a cell or an item.
_BLOCK_START = re.compile(r"^\s*(?:[-+=#:]|\d+(?=[.)](?:\s|$)))")


def write_model_card(run: RunDirectory) -> Path:
    """Write ``model_card.md`` into the run, from what lies there; an earlier one is replaced.

    After the sections of Mitchell, Wu, Zaldivar et al., "Model cards for model reporting", 2019; then the items of
    CLAIM (2024 update) and TRIPOD+AI, each filled, in need of a human, or missing. What a person writes into the file
    is lost with the next evaluation: a copy is the place for it. It names no patient, file or place: it goes where the
    network goes, see `cxr.evaluation.report.sharing`.

    Args:
        run: a run directory, or the folder that an evaluation of a lone checkpoint wrote to.

    Returns:
        Where it lies.

    Raises:
        DataError: ``metrics.json`` is damaged.
    """
    contents = without_patients(read_contents(run), Pseudonyms(run))
    path = run.path / "model_card.md"
    write_atomically(path, _render(contents))
    return path


def _render(contents: Contents) -> str:
    title, subtitle = title_of_run(contents)
    evidence = find_evidence(contents)
    name = contents.primary
    text = template("model_card.md.j2", _safe).render(
        title=title,
        subtitle=subtitle,
        written=datetime.now(UTC).strftime("%Y-%m-%d"),
        human=Markup(f"**{HUMAN}**"),
        warnings=collect_warnings(contents),
        found=None if name is None else [headline(name, contents.entries[name])[0],
                                         *headline(name, contents.entries[name])[1]],
        model=_model_rows(contents),
        tables=[table for table in (accounting(contents), class_counts(contents), characteristics(contents)) if table],
        split=_split_sentences(contents),
        settings=_settings(contents),
        results=[_result(name, entry) for name, entry in contents.entries.items()],
        limits=_limits(contents),
        checklists=[
            ("CLAIM, 2024 update (Tejani et al. 2024)", judge(CLAIM, evidence)),
            ("TRIPOD+AI (Collins et al. 2024)", judge(TRIPOD_AI, evidence)),
        ],
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _model_rows(contents: Contents) -> list[tuple[str, str]]:
    entry = contents.entries.get(contents.primary or "", {})
    size = contents.setting("data.image_size")
    rows = [
        ("network", contents.setting("model.name")),
        ("parameters", f"{entry['parameters']:,}" if entry.get("parameters") else None),
        ("input", None if size is None else f"one grey radiograph, {size} x {size} pixels"),
        ("output", f"a probability of each class: {', '.join(entry['counts']['classes'])}" if entry else None),
        ("positive class", entry.get("positive") or contents.setting("data.positive")),
        ("checkpoint", entry.get("checkpoint")),
        ("SHA-256 of the checkpoint", entry.get("checkpoint_sha256")),
        ("epoch", None if entry.get("epoch") is None else str(entry["epoch"] + 1)),
        ("revision of the program (git)", revision(contents) or "not recorded"),
        ("machine of the training", machine(contents) or "not recorded"),
        *versions(contents),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _split_sentences(contents: Contents) -> list[str]:
    kind = contents.setting("data.split.kind")
    seed = contents.setting("data.split.seed")
    sentences = []
    if kind is not None:
        unit = contents.setting("data.split.unit")
        by = "" if unit in (None, "group") else f" by {unit}"
        value = contents.setting("data.split.value")
        of = "" if value is None else f", {contents.setting('data.split.column')} {value}"
        sentences.append(f"Kind: {kind}{by}{of}{'' if seed is None else f', seed {seed}'}.")
    if contents.split is not None:
        digest = hashlib.sha256(contents.run.split_path.read_bytes()).hexdigest()
        hashed = " It holds the SHA-256 of every image." if "sha256" in contents.split else ""
        sentences.append(f"Revision of the data: split.csv, SHA-256 {digest}.{hashed}")
    return sentences


def _settings(contents: Contents) -> list[tuple[str, str]]:
    rows = []
    for name in SETTINGS:
        value = contents.setting(name)
        if isinstance(value, dict):
            rows.append((name, ", ".join(f"{key}={_listed(each)}" for key, each in value.items() if each is not None)))
        elif value is not None:
            rows.append((name, _listed(value)))
    return rows


def _listed(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _result(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    counts = entry["counts"]
    calibration = mapping(entry.get("calibration"))
    after = mapping(calibration.get("after")) or mapping(calibration.get("before"))
    sentences = []
    for key, words in (("ece_equal_mass", "Calibration error"), ("slope", "Calibration slope")):
        estimate = read_estimate(key, after.get(key))
        if estimate.value is not None:
            sentences.append(f"{words}: {with_limits(estimate)}.")
    for point in mappings(entry.get("operating_points")):
        rates = [f"{key} {with_limits(read_estimate(key, point.get(key)))}" for key in ("sensitivity", "specificity")]
        threshold = number(read_estimate("", point.get("threshold")).value)
        chosen = title_of(str(point.get("chosen_on", "val"))).lower()
        sentences.append(f"{point.get('name', 'threshold')}: {threshold}, chosen on the {chosen}; {', '.join(rates)}.")
    return {
        "title": title_of(name),
        "counts": f"{counts['images']:,} images of {counts['patients']:,} patients, {counts['positives']:,} positive",
        "rows": [
            (
                estimate.title,
                number(estimate.value) if estimate.value is not None else f"undefined ({estimate.reason})",
                limits(estimate),
                number(estimate.baseline),
                verdict(estimate),
                ABSENT if estimate.n is None else f"{estimate.n:,}",
                estimate.method or ABSENT,
            )
            for estimate in estimates(entry)
        ],
        "sentences": sentences,
        "subgroups": [
            (
                f"{row.get('column')}: {row.get('value')}",
                f"{row.get('n', 0):,}",
                with_limits(estimate) if estimate.value is not None else str(row.get("note") or "undefined"),
            )
            for row in mappings(entry.get("subgroups"))
            for estimate in [read_estimate(str(row.get("metric", "")), row.get("estimate"))]
        ],
    }


def _limits(contents: Contents) -> list[str]:
    """What the run itself shows to be missing; a person adds the rest."""
    found = []
    if "test" not in contents.entries:
        found.append("The test split has not been scored.")
    if not contents.external:
        found.append("No other collection has been scored: nothing is known of another hospital or scanner.")
    if contents.split is not None and "source" in contents.split and contents.split["source"].nunique() == 1:
        found.append("All images come from one source.")
    if not any(mappings(entry.get("subgroups")) for entry in contents.entries.values()):
        found.append("No subgroups were measured.")
    if not any(mapping(entry.get("calibration")) for entry in contents.entries.values()):
        found.append("The calibration of the probabilities was not measured.")
    if not any(mapping(entry.get("saliency")) for entry in contents.entries.values()):
        found.append("Where the network looks was not examined.")
    return found


def _safe(value: object) -> object:
    """Text with nothing in it that Markdown or HTML would read as more than text, in one line."""
    if isinstance(value, Markup | Undefined):
        return value
    if value is None:
        raise TypeError("a template writes None")
    if not isinstance(value, str):
        return value
    text = _MARKUP.sub(r"\\\1", visible(value))
    # GitHub makes links of bare addresses, mentions and e-mail addresses.
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "&#64;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    text = re.sub(r"(?i)(https?|ftp)://", r"\1&#58;//", text)
    text = re.sub(r"(?i)\bwww\.", "www&#46;", text)
    start = _BLOCK_START.match(text)
    if start is None:
        return Markup(text)
    # Behind a number the point is what makes a list, at all else the character itself.
    place = start.end() if text[start.end() - 1].isdigit() else start.end() - 1
    return Markup(f"{text[:place]}\\{text[place:]}")
