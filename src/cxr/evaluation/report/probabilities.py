"""Can the probabilities be trusted, and what do the thresholds on them give?  Calibration and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxr.evaluation.report.contents import Contents
from cxr.evaluation.report.parts import Number, Part, Section, Table
from cxr.evaluation.report.results import Figures, pictures_of
from cxr.evaluation.words import (
    ABSENT,
    Estimate,
    mapping,
    mappings,
    number,
    percent,
    read_estimate,
    title_of,
    with_limits,
)

CALIBRATION_ROWS = (
    ("ece_equal_mass", "calibration error, bins of equal mass", 0.0),
    ("ece_equal_width", "calibration error, bins of equal width", 0.0),
    ("brier", "Brier score", None),
    ("slope", "slope", 1.0),
    ("intercept", "intercept", 0.0),
    ("bias", "mean prediction minus frequency", 0.0),
)
METHODS = {"none": "No calibration was fitted", "temperature": "Temperature scaling", "platt": "Platt scaling",
           "isotonic": "Isotonic regression"}  # fmt: skip
BRIER_PARTS = ("reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance")


def calibration_section(contents: Contents, figures: Figures) -> Section:
    section = Section(
        "calibration",
        "Calibration",
        "Of the images that get a probability of 0.8, do eight in ten have the disease? On a calibrated network, yes.",
    )
    for name, entry in contents.entries.items():
        pictures = pictures_of(figures, contents, "calibration", name, section.missing)
        given = entry.get("calibration")
        if not isinstance(given, Mapping):
            section.add(Part(title_of(name), pictures=pictures) if pictures else Part())
            section.missing.append(f"No calibration of {title_of(name)}: it was not measured in its evaluation.")
            continue
        before, after = mapping(given.get("before")), mapping(given.get("after"))
        method = str(given.get("method", "none"))
        said = METHODS.get(method, method)
        if given.get("temperature") is not None:
            said += f", T = {number(read_estimate('', given['temperature']).value)}"
        if method != "none":
            said += f", fitted on the {title_of(str(given.get('fitted_on', 'val'))).lower()}"
        sentences = [f"{said}.", *(f"{str(note).rstrip('.')}." for note in given.get("notes", []))]
        both = method != "none" and bool(after)
        rows = []
        for key, title, ideal in CALIBRATION_ROWS:
            numbers = [read_estimate(key, stage.get(key)) for stage in ([before, after] if both else [before or after])]
            if any(estimate.value is not None or estimate.reason for estimate in numbers):
                cells = [with_limits(each) if each.value is not None else "undefined" for each in numbers]
                expected = mapping((after or before).get(key)).get("expected", ideal)
                rows.append([title, *cells, number(expected)])
        stages = [Number("before"), Number("after")] if both else [Number("value")]
        tables = [Table("", ["", *stages, Number("if calibrated")], rows, _reasons(before, after))] if rows else []
        if not pictures:
            section.missing.append(f"No reliability diagram of {title_of(name)}: the figure is not in the run.")
        section.add(
            Part(
                title_of(name),
                sentences,
                tables,
                pictures,
                folded_title="Bins of the reliability diagram, and parts of the Brier score",
                folded_tables=[*_bins(given.get("bins")), *_brier_parts(given.get("brier_parts"))],
            )
        )
    return section


def _reasons(*stages: Mapping[str, Any]) -> str:
    found = {estimate.reason: None for stage in stages for key, given in stage.items()
             if (estimate := read_estimate(key, given)).reason}  # fmt: skip
    return " ".join(f"{reason}." for reason in found)


def _bins(bins: object) -> list[Table]:
    rows = []
    for one in mappings(bins):
        observed = Estimate("", one.get("observed"), one.get("observed_low"), one.get("observed_high"))
        rows.append(
            [
                f"{number(one.get('low'))} to {number(one.get('high'))}",
                f"{one.get('n', 0):,}",
                number(one.get("mean_predicted")),
                with_limits(observed),
            ]
        )
    columns = ["predicted probability", *map(Number, ("images", "mean predicted", "observed frequency"))]
    return [Table("Bins", columns, rows)] if rows else []


def _brier_parts(parts: object) -> list[Table]:
    held = mapping(parts)
    rows = [[key.replace("_", " "), number(held[key], digits=4)] for key in BRIER_PARTS if key in held]
    return [Table("Parts of the Brier score", ["part", Number("value")], rows)] if rows else []


def operating_section(contents: Contents, figures: Figures) -> Section:
    section = Section(
        "operating",
        "Operating points",
        "Thresholds that were chosen on other images, and are applied here unchanged.",
    )
    for name, entry in contents.entries.items():
        points = mappings(entry.get("operating_points"))
        pictures = pictures_of(figures, contents, "operating", name, section.missing)
        tables = [_points(points), *_at_prevalence(points), *_abstention(points)] if points else []
        section.add(Part(title_of(name), tables=tables, pictures=pictures))
        if not points:
            section.missing.append(f"No operating points of {title_of(name)}: none were chosen in its evaluation.")
    return section


def _points(points: Sequence[Mapping[str, Any]]) -> Table:
    rows, notes = [], []
    for point in points:
        chosen = mapping(point.get("on_choice"))
        there = [number(read_estimate("", chosen.get(key)).value) for key in ("sensitivity", "specificity")]
        rows.append(
            [
                _name(point),
                number(read_estimate("", point.get("threshold")).value),
                *(_rate(point, key) for key in ("sensitivity", "specificity", "ppv", "npv")),
                " / ".join(there) if chosen else ABSENT,
            ]
        )
        notes += [f"{_name(point)}: {note}." for note in point.get("notes", [])]
    rates_here = map(Number, ("threshold", "sensitivity", "specificity", "PPV", "NPV"))
    columns = ["rule", *rates_here, Number("sens. / spec. there")]
    chosen_on = dict.fromkeys(title_of(str(point.get("chosen_on", "val"))).lower() for point in points)
    caption = f"Thresholds that were chosen on the {', '.join(chosen_on)}, and what they give on these images"
    return Table(caption, columns, rows, " ".join(notes))


def _at_prevalence(points: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = []
    for point in points:
        prevalence = read_estimate("", point.get("prevalence")).value
        if prevalence is not None and "ppv_at_prevalence" in point:
            values = [_rate(point, key) for key in ("ppv_at_prevalence", "npv_at_prevalence")]
            rows.append([_name(point), percent(prevalence), *values])
    note = "Where the disease is rarer than in these images, a positive answer is right more rarely."
    columns = ["rule", *map(Number, ("prevalence", "PPV", "NPV"))]
    return [Table("Predictive values where the disease is as common as stated", columns, rows, note)] if rows else []


def _abstention(points: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = []
    for point in points:
        band = mapping(point.get("abstain"))
        if not band:
            continue
        between = [number(read_estimate("", band.get(key)).value) for key in ("low", "high")]
        left = band.get("left")
        rows.append(
            [
                _name(point),
                " to ".join(between),
                _rate(band, "abstained"),
                f"{left:,}" if isinstance(left, int) else ABSENT,
                *(_rate(band, key) for key in ("sensitivity", "specificity", "accuracy")),
            ]
        )
    names = ("no answer between", "share without answer", "images left", "sensitivity", "specificity", "accuracy")
    columns = ["rule", *map(Number, names)]
    return [Table("With a band of probabilities that get no answer", columns, rows)] if rows else []


def _name(point: Mapping[str, Any]) -> str:
    return str(point.get("name") or point.get("rule") or "")


def _rate(held: Mapping[str, Any], key: str) -> str:
    estimate = read_estimate(key, held.get(key))
    return with_limits(estimate) if estimate.value is not None else "undefined" if estimate.reason else ABSENT
