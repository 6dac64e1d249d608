"""How good is the network?  The sections of a report that show metrics, confusion, curves and wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr.evaluation.report.contents import Contents
from cxr.evaluation.report.data import class_counts, training_sentences
from cxr.evaluation.report.figures import embed, thumbnail_picture
from cxr.evaluation.report.mistakes import Mistake
from cxr.evaluation.report.parts import DRAWN, Card, Number, Part, Picture, Section, Table, strip
from cxr.evaluation.words import (
    ABSENT,
    LOWER_IS_BETTER,
    SPLIT_TITLES,
    Estimate,
    estimates,
    limits,
    mapping,
    number,
    percent,
    read_estimate,
    title_of,
    verdict,
    with_limits,
)

Figures = Mapping[tuple[str, str], Sequence[Path]]
SIDE_BY_SIDE = (
    "auroc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "brier",
)
OF_FOLDS = ("auroc", "average_precision", "balanced_accuracy", "sensitivity", "specificity")


def pictures_of(figures: Figures, contents: Contents, section: str, name: str, missing: list[str]) -> list[Picture]:
    """The figures of an entry for a section; those that cannot be read are named among what is missing."""
    found = []
    for path in figures.get((section, name), ()):
        picture = embed(path, name, contents.entries.get(name))
        if picture is None:
            missing.append(f"figures/{path.name} is no PNG that can be read.")
        else:
            found.append(picture)
    return found


def metrics_section(contents: Contents) -> Section:
    section = Section(
        "metrics",
        "Metrics",
        "Every number with its 95 % interval, what a constant answer gets, and how many images it is about.",
    )
    if len(contents.entries) > 1:
        section.add(Part("Side by side", tables=[_side_by_side(contents)]))
    for name, entry in contents.entries.items():
        section.add(Part(title_of(name), tables=[_metrics_table(entry), *_folds(mapping(entry.get("folds")))]))
    if not contents.entries:
        section.missing.append("No metrics: no labelled image has been scored with this run.")
    return section


def _metrics_table(entry: Mapping[str, Any]) -> Table:
    rows = []
    reasons: dict[str, list[str]] = {}
    held = estimates(entry)
    for estimate in held:
        if estimate.reason:
            reasons.setdefault(estimate.reason, []).append(estimate.title)
        about = ABSENT if estimate.n is None else f"{estimate.n:,}"
        rows.append(
            [
                estimate.title,
                number(estimate.value) if estimate.value is not None else "undefined",
                limits(estimate),
                "" if estimate.name == "log_loss" else strip(estimate, 0.0, 1.0),
                number(estimate.baseline),
                verdict(estimate),
                about if estimate.patients is None else f"{about} of {estimate.patients:,}",
                estimate.method or ABSENT,
            ]
        )
    notes = _notes(entry)
    if any(estimate.name in LOWER_IS_BETTER and estimate.baseline is not None for estimate in held):
        notes.append("Of Brier score and log-loss: always giving the classes' shares of the training split.")
    notes += [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if not any(estimate.method for estimate in held):
        notes.append("No intervals: this entry was written by an older evaluation.")
    about = "images of patients" if any(estimate.patients is not None for estimate in held) else "n"
    numbers = map(Number, ("value", "95 % interval", DRAWN, "baseline"))
    return Table("", ["metric", *numbers, "against it", Number(about), "method"], rows, " ".join(notes))


def _notes(entry: Mapping[str, Any]) -> list[str]:
    """What the numbers are about."""
    notes = [f"Positive: {entry['positive']}."]
    if entry.get("threshold") is not None:
        notes.append(f"Called {entry['positive']} from a probability of {number(entry['threshold'])} on.")
    if entry.get("networks", 1) > 1:
        notes.append(f"The answers of {entry['networks']} networks.")
    if entry.get("tta", "none") != "none":
        notes.append(f"Each image was seen in several views (tta={entry['tta']}).")
    if entry.get("majority_class") is not None:
        of = entry.get("majority_of", "the training split")
        notes.append(f"Baseline: always answering {entry['majority_class']}, the commonest class of {of}.")
    return notes


def _folds(folds: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """One row per fold of a cross-validation; their spread is what another division of the patients would do."""
    rows = [
        [
            str(fold),
            f"{counts.get('images', 0):,}",
            *(with_limits(read_estimate(key, held.get(key))) for key in OF_FOLDS),
        ]
        for fold, held in folds.items()
        for counts in [mapping(held.get("counts"))]
    ]
    columns = ["fold", Number("images"), *(Number(Estimate(key).title) for key in OF_FOLDS)]
    return [Table("Each fold by itself; above, all folds together", columns, rows)] if rows else []


def _side_by_side(contents: Contents) -> Table:
    columns = [""]
    for name in contents.entries:
        columns.append(Number(f"{title_of(name)} ({'internal' if name in SPLIT_TITLES else 'other collection'})"))
    rows: list[list[str]] = []
    for title, key in (("images", "images"), ("patients", "patients"), ("positives", "positives")):
        rows.append([title, *(f"{entry['counts'][key]:,}" for entry in contents.entries.values())])
    rows.append(["prevalence", *(_prevalence(entry["counts"]) for entry in contents.entries.values())])
    for metric in SIDE_BY_SIDE:
        found = [read_estimate(metric, entry.get(metric)) for entry in contents.entries.values()]
        if any(estimate.value is not None for estimate in found):
            rows.append([Estimate(metric).title, *(with_limits(estimate) for estimate in found)])
    note = "The checkpoint was chosen on the validation split, so that its numbers are too good."
    return Table(
        "The run's own splits beside other collections", columns, rows, note if "val" in contents.entries else ""
    )


def _prevalence(counts: Mapping[str, int]) -> str:
    return percent(counts["positives"] / counts["images"]) if counts["images"] else ABSENT


def classes_section(contents: Contents, figures: Figures) -> Section:
    section = Section("classes", "Classes in each split")
    table = class_counts(contents)
    pictures = pictures_of(figures, contents, "classes", "", section.missing)
    for name in contents.entries:
        pictures += pictures_of(figures, contents, "classes", name, section.missing)
    section.add(Part(tables=[table] if table else [], pictures=pictures))
    if not section.parts:
        section.missing.append("No class counts: neither split.csv nor a figure of them is in the run.")
    return section


def training_section(contents: Contents, figures: Figures) -> Section:
    section = Section("training", "Training")
    pictures = pictures_of(figures, contents, "training", "", section.missing)
    section.add(Part(sentences=training_sentences(contents), pictures=pictures))
    if not pictures:
        section.missing.append("No training curves: figures/training_curves.png is not in the run.")
    return section


def confusion_section(contents: Contents, figures: Figures) -> Section:
    section = Section("confusion", "Confusion", "Rows: what the image shows. Columns: what the network called it.")
    for name, entry in contents.entries.items():
        pictures = pictures_of(figures, contents, "confusion", name, section.missing)
        matrix = entry.get("confusion_matrix")
        tables = []
        if matrix is not None:
            classes = matrix["classes"]
            rows = []
            for actual, line in zip(classes, matrix["counts"], strict=True):
                total = sum(line)
                cells = [f"{count:,} ({percent(count / total)})" if total else f"{count:,}" for count in line]
                rows.append([actual, *cells, f"{total:,}"])
            columns = ["actual", *(Number(f"called {predicted}") for predicted in classes), Number("all")]
            tables.append(Table("Counts, and share of the row", columns, rows))
        if not pictures:
            section.missing.append(f"No figure of the confusion matrix of {title_of(name)}.")
        section.add(Part(title_of(name), tables=tables, pictures=pictures))
    return section


def curves_section(contents: Contents, figures: Figures) -> Section:
    section = Section(
        "curves",
        "ROC and precision-recall",
        "What each threshold would give, with its interval as a band.",
    )
    for name, entry in contents.entries.items():
        pictures = pictures_of(figures, contents, "curves", name, section.missing)
        section.add(Part(title_of(name), pictures=pictures) if pictures else Part())
        counts = entry["counts"]
        if not pictures:
            one_sided = counts["positives"] in (0, counts["images"])
            why = read_estimate("auroc", entry.get("auroc")).reason or "a side has no image" if one_sided else ""
            section.missing.append(
                f"No ROC and no precision-recall curve of {title_of(name)}: {why or 'the figures are not in the run'}."
            )
    return section


def mistakes_section(contents: Contents, mistakes: Mapping[str, Sequence[Mistake]], *, thumbnails: bool) -> Section:
    section = Section(
        "mistakes",
        "Most confident mistakes",
        "The wrong answers that were given with the highest probability. Which is wrong, the label or the network?",
    )
    for name in contents.entries:
        found = mistakes.get(name, ())
        cards, rows = [], []
        for mistake in found:
            picture = None
            if thumbnails and mistake.pixels is not None:
                alt = f"Radiograph {mistake.image}: label {mistake.label}, called {mistake.predicted}"
                picture = replace(thumbnail_picture(mistake.pixels), alt=alt)
            terms = [
                ("called", f"{mistake.predicted}, {number(mistake.probability)}"),
                ("label", mistake.label),
                ("image", mistake.image),
                *([("patient", mistake.patient)] if mistake.patient else []),
            ]
            cards.append(Card(picture, terms))
            rows.append([mistake.image, mistake.patient, mistake.label, mistake.predicted, number(mistake.probability)])
        if any(card.picture is not None for card in cards):
            section.add(Part(title_of(name), cards=cards))
        elif rows:
            columns = ["image", "patient", "label", "called", Number("probability")]
            section.add(Part(title_of(name), tables=[Table("", columns, rows)]))
        else:
            held = (
                "was wrong" if contents.predictions(name) is not None else "can be named: its predictions are missing"
            )
            section.missing.append(f"No mistakes of {title_of(name)}: no image {held}.")
    if not thumbnails:
        section.missing.append("Radiographs were left out of this page.")
    return section
