"""What does one page show of the protocols, so that a person can judge them without the runs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cxr.evaluation.protocols.optimism import METRICS, Row
from cxr.evaluation.protocols.table import COMPARED, NOTES
from cxr.evaluation.protocols.verdicts import METRIC_TITLES, conclude, estimate_text, name_of
from cxr.evaluation.report.figures import picture_of
from cxr.evaluation.report.page_template import template
from cxr.evaluation.report.parts import Number, Part, Section, Table
from cxr.evaluation.words import ABSENT
from cxr.files import write_atomically

CAPTION = "Each protocol's area under the ROC curve with its interval, and its distance from the one by group."


def write_page(rows: Sequence[Row], commands: Mapping[str, str], figure: Path | None, path: Path) -> None:
    """Write ``protocols.html``: one file, without script or network.

    Args:
        rows: as measured.
        commands: what was run, in words -> the command.
        figure: a PNG file; None where nothing was drawn.
        path: of the page.
    """
    verdict = conclude(rows)
    bad = [line for line in verdict if line.split()[0].rstrip(":").isupper()]
    page = template("sections.html.j2").render(
        footer="Written by cxr. Research only: no medical device.",
        sentence="",
        title="Protocols",
        subtitle=f"One configuration, several ways of dividing. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by cxr.",
        warnings=bad,
        facts=[line for line in verdict if line not in bad],
        sections=[section for section in (_numbers(rows, figure), _rates(rows), _run(commands)) if section.parts],
    )
    write_atomically(path, page)


def _numbers(rows: Sequence[Row], figure: Path | None) -> Section:
    section = Section("protocols", "Protocols", " ".join(NOTES))
    columns = ["tested", *map(Number, ("networks", "images", "positive", "patients", "patients on two sides"))]
    for metric in COMPARED:
        columns += [Number(METRIC_TITLES[metric]), Number("optimism")]
    cells = []
    for row in rows:
        counts = (row.networks, row.num_images, row.num_positives, row.num_patients, row.num_leaks)
        numbers = []
        for metric in COMPARED:
            numbers.append(estimate_text(row.metrics.get(metric)) or ABSENT)
            numbers.append(estimate_text(row.optimism.get(metric), difference=True) or ABSENT)
        cells.append([name_of(row), *(f"{count:,}" for count in counts), *numbers])
    said = [f"{name_of(row)}: {row.reason}." for row in rows if row.reason is not None]
    said += [f"{name_of(row)}: {note}." for row in rows for note in row.notes]
    pictures = [] if figure is None else [picture_of(figure, CAPTION)]
    section.add(Part(tables=[Table("", columns, cells)], pictures=pictures, sentences=said))
    return section


def _rates(rows: Sequence[Row]) -> Section:
    section = Section(
        "rates",
        "Rates",
        "What is left where the images of a source or country are of one class: at a probability of 0.5.",
    )
    columns = ["tested"]
    for metric in METRICS[len(COMPARED) :]:
        columns += [Number(METRIC_TITLES[metric]), Number("by group"), Number("difference")]
    cells = []
    for row in rows:
        if row.reason is not None:
            continue
        numbers = []
        for metric in METRICS[len(COMPARED) :]:
            numbers.append(estimate_text(row.metrics.get(metric)) or ABSENT)
            numbers.append(estimate_text(row.by_group.get(metric)) or ABSENT)
            numbers.append(estimate_text(row.optimism.get(metric), difference=True) or ABSENT)
        cells.append([name_of(row), *numbers])
    if cells:
        section.add(Part(tables=[Table("", columns, cells)]))
    return section


def _run(commands: Mapping[str, str]) -> Section:
    section = Section("commands", "Commands", "What was run; each can be typed again.")
    section.add(Part(tables=[Table("", ["what", "command"], [[what, text] for what, text in commands.items()])]))
    return section
