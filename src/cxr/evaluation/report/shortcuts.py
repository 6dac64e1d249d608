"""What might the network read instead of the disease?  Subgroups, dependence, altered pictures, and saliency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxr.evaluation.report.contents import Contents
from cxr.evaluation.report.parts import DRAWN, Number, Part, Section, Table, strip
from cxr.evaluation.report.results import Figures, pictures_of
from cxr.evaluation.report.warnings import association_strength
from cxr.evaluation.subgroups.subgroups import subgroup_verdict
from cxr.evaluation.words import (
    ABSENT,
    ALL_SPLITS,
    Estimate,
    limits,
    mapping,
    mappings,
    number,
    read_estimate,
    share,
    title_of,
    with_limits,
)


def subgroups_section(contents: Contents, figures: Figures) -> Section:
    section = Section(
        "subgroups",
        "Subgroups",
        "For whom does it work? Each subgroup against the rest; the dashed mark is the value of all images.",
    )
    for name, entry in contents.entries.items():
        given = mappings(entry.get("subgroups"))
        pictures = pictures_of(figures, contents, "subgroups", name, section.missing)
        unknown = [f"{row.get('note')}." for row in given if row.get("metric") is None]
        compared = [row for row in given if row.get("metric") is not None]
        kinds = list(dict.fromkeys((str(row.get("column")), str(row["metric"])) for row in compared))
        tables = {kind: _subgroup_table(*kind, compared, entry) for kind in kinds}
        # A figure shows them at a glance; without one, the tables of the first metric stay open.
        first = kinds[0][1] if kinds and not pictures else None
        section.add(
            Part(
                title_of(name),
                [*_subgroup_verdict(given), *unknown],
                [table for (_, metric), table in tables.items() if metric == first],
                pictures,
                folded_title="All subgroups in tables" if first is None else "The same for other metrics",
                folded_tables=[table for (_, metric), table in tables.items() if metric != first],
            )
        )
        if not given:
            section.missing.append(f"No subgroups of {title_of(name)}: none were measured in its evaluation.")
    return section


def _subgroup_verdict(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence over all comparisons, where they were corrected for their number."""
    if not given or not all("comparisons" in mapping(row.get("difference")) for row in given):
        return []
    said = subgroup_verdict(given)
    return [f"{said[0].upper()}{said[1:]}."]


def _subgroup_table(column: str, metric: str, given: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> Table:
    overall = read_estimate(metric, entry.get(metric)).value
    rows = []
    for row in given:
        if (str(row.get("column")), row.get("metric")) != (column, metric):
            continue
        estimate = read_estimate(metric, row.get("estimate"))
        difference = read_estimate("difference", row.get("difference"))
        corrected = read_estimate("p", mapping(row.get("difference")).get("p_holm")).value
        note = row.get("note") or estimate.reason or (f"difference: {difference.reason}" if difference.reason else "")
        rows.append(
            [
                str(row.get("value")),
                *(f"{row.get(key, 0):,}" for key in ("n", "patients", "positives")),
                number(estimate.value),
                limits(estimate),
                strip(estimate, 0.0, 1.0, overall),
                with_limits(difference) if difference.value is not None else ABSENT,
                ABSENT if corrected is None else "< 0.001" if corrected < 0.001 else number(corrected),
                str(note),
            ]
        )
    title = Estimate(metric).title
    names = ("images", "patients", "positives", title, "95 % interval", DRAWN, "difference to the rest", "p (Holm)")
    columns = [column, *map(Number, names), "note"]
    for place in range(len(columns) - 1, 4, -1):  # what no subgroup has
        if all(row[place] in ("", ABSENT) for row in rows):
            columns, rows = columns[:place] + columns[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]
    return Table(f"By {column}: {title}", columns, rows)


def dependence_section(contents: Contents, figures: Figures) -> Section:
    section = Section(
        "dependence",
        "What the label depends on",
        "Where a column differs between the classes, a network can read the column instead of the disease.",
    )
    whole = contents.dependence_of_run
    section.add(
        Part(
            ALL_SPLITS,
            [f"{row['verdict']}." for row in whole if row.get("verdict")],
            folded_title="The same in tables",
            folded_tables=_dependence_tables(whole),
        )
    )
    for name, entry in contents.entries.items():
        tables = _dependence_tables(mappings(entry.get("dependence")))
        pictures = pictures_of(figures, contents, "dependence", name, section.missing)
        folded = tables if pictures else []
        section.add(
            Part(
                title_of(name),
                tables=[] if folded else tables,
                pictures=pictures,
                folded_title="The same in tables",
                folded_tables=folded,
            )
        )
        if not tables:
            section.missing.append(f"No dependence of the label in {title_of(name)}: it was not measured.")
    return section


def _dependence_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each column: images of each class in each band, and how strong that dependence is."""
    tables = []
    for row in rows:
        classes = {str(key): mapping(counts) for key, counts in mapping(row.get("classes")).items()}
        missing = mapping(row.get("missing"))
        values = list(dict.fromkeys(str(value) for counts in classes.values() for value in counts))
        totals = {label: sum(counts.values()) for label, counts in classes.items()}
        cells = [
            [value, *(share(counts.get(value, 0), totals[label]) for label, counts in classes.items())]
            for value in values
        ]
        if any(missing.values()):
            cells.append(["not known", *(f"{missing.get(label, 0):,}" for label in classes)])
        association = read_estimate("association", row.get("association"))
        note = f"Cramér's V {with_limits(association)}"
        if association.value is not None:
            present = [value for value in values if any(counts.get(value) for counts in classes.values())]
            note += f": {association_strength(association.value, len(classes), len(present))} (Cohen 1988)"
        elif association.reason:
            note += f": {association.reason}"
        note = str(row.get("verdict") or note)
        caption = f"{row.get('column')}: images, and share of the class"
        tables.append(Table(caption, [str(row.get("column")), *map(Number, classes)], cells, f"{note}."))
    return tables


def shortcuts_section(contents: Contents) -> Section:
    section = Section(
        "shortcuts",
        "What it needs of the picture",
        "The same network on altered pictures. Kept: AUROC above 0.5, over the same of the unaltered pictures.",
    )
    for name, entry in contents.entries.items():
        given = mapping(entry.get("shortcuts"))
        if not given:
            continue
        about = f"{given.get('images', 0):,} of {given.get('of', 0):,} images, {given.get('patients', 0):,} patients"
        if given.get("reason"):
            section.add(Part(title_of(name), [f"{about}: {given['reason']}."]))
            continue
        rows, reasons = [], []
        for row in mappings(given.get("rows")):
            auroc, kept = read_estimate("auroc", row.get("auroc")), read_estimate("kept", row.get("kept"))
            flagged = "shortcut" if row.get("flagged") is True else ""
            drawn = strip(kept, 0.0, 1.0, _value(mapping(given.get("limits")).get("kept")))
            reasons += [f" {kept.reason[0].upper()}{kept.reason[1:]}."] if kept.reason else []
            rows.append([str(row.get("input")), with_limits(auroc), with_limits(kept), drawn, flagged])
        whole = read_estimate("auroc", given.get("auroc"))
        sentences = [f"The network {row.get('verdict')}." for row in mappings(given.get("rows"))
                     if row.get("flagged") is not None]  # fmt: skip
        note = (
            f"{about}; unaltered: AUROC {with_limits(whole)}. What is taken away becomes the mean of these pictures, "
            "which no training showed: that the network fails then is no proof that it needs the lungs; that it does "
            f"not fail is proof that it has something else.{''.join(dict.fromkeys(reasons))}"
        )
        columns = ["shown", *map(Number, ("AUROC", "kept", DRAWN)), "found"]
        section.add(Part(title_of(name), sentences, [Table("", columns, rows, note)]))
    return section


def saliency_section(contents: Contents, figures: Figures, *, radiographs: bool) -> Section:
    section = Section(
        "saliency",
        "Where the network looks",
        "Two tests that the maps must pass. To pass says little; to fail says that the evidence lies elsewhere.",
    )
    for name, entry in contents.entries.items():
        given = entry.get("saliency")
        pictures = pictures_of(figures, contents, "saliency", name, section.missing) if radiographs else []
        if not isinstance(given, Mapping):
            section.add(Part(title_of(name), pictures=pictures) if pictures else Part())
            section.missing.append(f"No saliency of {title_of(name)}: it was not asked for.")
            continue
        lungs = read_estimate("lung share", given.get("lung_share"))
        random = mapping(given.get("randomisation"))
        correlation = read_estimate("correlation", random.get("correlation"))
        limit = _value(random.get("limit"))
        between = ABSENT if limit is None else f"{number(-limit)} to {number(limit)}"
        rows = [
            ["share of the saliency inside the lungs", _shown(lungs),
             f"above {number(_value(given.get('area_share')))}", _mark(given.get("passed"))],
            ["correlation with the maps of a random network", _shown(correlation),
             f"within {between}", _mark(random.get("passed"))],
        ]  # fmt: skip
        note = "The first mark is the share of the image that the lungs cover, which a blind map would get."
        reasons = [estimate.reason for estimate in (lungs, correlation) if estimate.reason]
        sentences = [f"{given.get('method', 'Grad-CAM')}, evidence for {given.get('class')}."]
        table = Table(
            "",
            ["test", *map(Number, ("found", "pass mark")), "passed"],
            rows,
            " ".join([note, *(f"{r}." for r in reasons)]),
        )
        held = {path.name for path in figures.get(("saliency", name), ())}
        absent = [str(panel) for panel in given.get("panels", []) if panel not in held]
        if radiographs and absent:
            section.missing.append(f"Not in the run: {', '.join(absent)}.")
        section.add(
            Part(
                title_of(name),
                sentences,
                [table],
                pictures,
                folded_title="Layer by layer",
                folded_tables=_cascade(mappings(random.get("cascade"))),
            )
        )
    if not radiographs:
        section.missing.append("Grad-CAM panels show radiographs and were left out of this page.")
    return section


def _cascade(steps: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = [
        [f"{step.get('layers')} of {step.get('of')}", _shown(read_estimate("correlation", step.get("correlation")))]
        for step in steps
    ]
    caption = "Correlation with the maps of a network whose upper layers are random"
    return [Table(caption, ["random layers", Number("correlation")], rows)] if rows else []


def _shown(estimate: Estimate) -> str:
    return with_limits(estimate) + ("" if estimate.n is None else f", {estimate.n:,} images")


def _mark(passed: object) -> str:
    return "yes" if passed is True else "no" if passed is False else "not tested"


def _value(given: object) -> float | None:
    return read_estimate("", given).value
