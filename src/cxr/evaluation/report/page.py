"""What does one page show of a run, so that a person can judge it without the program, the network or the data?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr.evaluation.report.contents import Contents, read_contents
from cxr.evaluation.report.data import configuration_section, data_section, looks_section, versions_section
from cxr.evaluation.report.figures import RADIOGRAPHS, embed, find_figures
from cxr.evaluation.report.mistakes import Mistake, find_mistakes, keep_thumbnails
from cxr.evaluation.report.page_template import template
from cxr.evaluation.report.parts import Part, Section, strip
from cxr.evaluation.report.probabilities import calibration_section, operating_section
from cxr.evaluation.report.results import (
    Figures,
    classes_section,
    confusion_section,
    curves_section,
    metrics_section,
    mistakes_section,
    training_section,
)
from cxr.evaluation.report.sharing import Pseudonyms, private_figures, renamed, without_patients
from cxr.evaluation.report.shortcuts import (
    dependence_section,
    saliency_section,
    shortcuts_section,
    subgroups_section,
)
from cxr.evaluation.report.warnings import collect_warnings
from cxr.evaluation.words import (
    SPLIT_TITLES,
    Estimate,
    headline,
    limits,
    number,
    read_estimate,
    rest_of,
)
from cxr.files import write_atomically
from cxr.training.run_directory import STAMP, RunDirectory


def write_report(
    run: RunDirectory,
    *,
    names: Sequence[str] | None = None,
    mistakes: Mapping[str, Sequence[Mistake]] | None = None,
    thumbnails: bool = True,
) -> Path:
    """Write ``report.html`` into the run, from what lies there; an earlier one is replaced.

    One file: figures and thumbnails are part of it; no script, no network. What the run does not hold is left out and
    named at the end.

    Args:
        run: a run directory, or the folder that an evaluation of a lone checkpoint wrote to.
        names: splits and collections that are shown; None: all of ``metrics.json``.
        mistakes: by split or collection, the surest first; of the others they are found in ``predictions/``. Pixels
            that are given are kept in ``figures/mistakes``, for the reports to come.
        thumbnails: show radiographs (mistakes and Grad-CAM panels); False leaves all of them out.

    Returns:
        Where it lies.

    Raises:
        ConfigurationError: a name of which there is no entry in ``metrics.json``.
        DataError: ``metrics.json`` is damaged.
    """
    contents = read_contents(run, names)
    path = run.path / "report.html"
    write_atomically(path, render_report(contents, mistakes or {}, thumbnails=thumbnails))
    return path


def write_shared_report(run: RunDirectory, *, names: Sequence[str] | None = None) -> Path:
    """Write ``report_shared.html`` into the run: the report for those who may not see its patients.

    No radiograph, patient, file name or path, and no sentence that might hold one; a record has a name that
    ``record_names.csv`` in the run explains, see `cxr.evaluation.report.sharing`.

    Args:
        run, names: see `write_report`, which the predictions of the mistakes come from.

    Returns:
        Where it lies.

    Raises:
        ConfigurationError, DataError: see `write_report`.
    """
    pseudonyms = Pseudonyms(run)
    known = read_contents(run, names)
    figures = find_figures(known)
    for private in private_figures(known, figures):
        del figures[private]
    contents = without_patients(known, pseudonyms)
    wrong = {}
    for name in contents.entries:
        table = contents.predictions(name)
        wrong[name] = [] if table is None else renamed(find_mistakes(table), pseudonyms)
    path = run.path / "report_shared.html"
    page = _render(contents, figures, wrong, thumbnails=False)
    pseudonyms.write()
    write_atomically(path, page)
    return path


def render_report(contents: Contents, mistakes: Mapping[str, Sequence[Mistake]], *, thumbnails: bool) -> str:
    """The page as text; see `write_report`."""
    wrong = {}
    for name in contents.entries:
        table = None if name in mistakes else contents.predictions(name)
        found = list(mistakes.get(name, ())) if table is None else find_mistakes(table)
        wrong[name] = keep_thumbnails(contents.run, name, found) if thumbnails else found
    return _render(contents, find_figures(contents), wrong, thumbnails=thumbnails)


def _render(contents: Contents, figures: Figures, wrong: Mapping[str, Sequence[Mistake]], *, thumbnails: bool) -> str:
    sections = [
        metrics_section(contents),
        data_section(contents),
        classes_section(contents, figures),
        training_section(contents, figures),
        confusion_section(contents, figures),
        curves_section(contents, figures),
        calibration_section(contents, figures),
        operating_section(contents, figures),
        subgroups_section(contents, figures),
        dependence_section(contents, figures),
        shortcuts_section(contents),
        saliency_section(contents, figures, radiographs=thumbnails),
        mistakes_section(contents, wrong, thumbnails=thumbnails),
        _other_figures(contents, figures),
        looks_section(contents),
        configuration_section(contents),
        versions_section(contents),
    ]
    missing = [*contents.missing, *(text for section in sections for text in section.missing)]
    page: str = template("report.html.j2").render(
        **_head(contents),
        warnings=collect_warnings(contents),
        sections=[section for section in sections if section.parts],
        missing=list(dict.fromkeys(missing)),
    )
    return page


def title_of_run(contents: Contents) -> tuple[str, str]:
    """What the network tells apart, and which run it is of, in words."""
    entry = contents.entries.get(contents.primary or "", {})
    positive = entry.get("positive") or contents.setting("data.positive")
    title = f"{positive} against {rest_of(entry)}" if positive else "A run"
    named = [
        contents.setting("model.name"),
        f"trained on {contents.setting('data.name')}" if contents.setting("data.name") else None,
        f"experiment {contents.setting('name')}" if contents.setting("name") else None,
        f"run {contents.run.path.name}" if not contents.shared or STAMP.fullmatch(contents.run.path.name) else None,
    ]
    return title, ", ".join(str(part) for part in named if part)


def _head(contents: Contents) -> dict[str, Any]:
    title, subtitle = title_of_run(contents)
    name = contents.primary
    head: dict[str, Any] = {
        "title": title,
        "subtitle": subtitle,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "status": str(contents.status.get("status", "not recorded")),
        "figure": None,
        "sentence": "No labelled image has been scored with this run: there are predictions at most, and no metrics.",
        "consequences": [],
    }
    if name is None:
        return head
    entry = contents.entries[name]
    head["sentence"], head["consequences"] = headline(name, entry)
    if name == "val":
        head["consequences"] = [
            "The test split has not been scored. The checkpoint was chosen on these images, so that they flatter it.",
            *head["consequences"],
        ]
    elif name == "train":
        head["consequences"] = ["The network was fitted to these images: they say nothing of others."]
    elif name not in SPLIT_TITLES:
        head["consequences"] = ["The test split of the run has not been scored.", *head["consequences"]]
    auroc = read_estimate("auroc", entry.get("auroc"))
    if auroc.value is not None:
        head["figure"] = {"value": number(auroc.value), "limits": _limits(auroc), "strip": strip(auroc, 0.0, 1.0)}
    return head


def _limits(estimate: Estimate) -> str:
    if estimate.low is None:
        return "no interval"
    return f"95\N{NO-BREAK SPACE}% interval {limits(estimate)}"


def _other_figures(contents: Contents, figures: Figures) -> Section:
    section = Section("figures", "Further figures")
    for (key, name), paths in figures.items():
        unknown = key not in RADIOGRAPHS and (key == "other" or (not name and key not in ("training", "classes")))
        pictures = [embed(path, name, contents.entries.get(name)) for path in paths] if unknown else []
        section.add(Part(pictures=[picture for picture in pictures if picture is not None]))
    return section
