"""Which data went into a run, what was dropped, and how was it trained?  The sections that need no metrics."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cxr.evaluation.report.contents import Contents, machine, revision, versions
from cxr.evaluation.report.parts import Number, Part, Section, Table
from cxr.evaluation.words import counted, number, share, title_of
from cxr.pipeline.splits import SPLITS

UNKNOWN = "not known"
MAX_VALUES = 8  # values of a column that get a row of their own


def accounting(contents: Contents) -> Table | None:
    """Rows read, kept, and dropped for each reason, by source; None without ``split.csv``."""
    if contents.split is None or "source" not in contents.split:
        return None
    kept = contents.split["source"].value_counts()
    dropped = contents.dropped
    if dropped is None or not {"source", "reason"} <= set(dropped.columns):
        dropped = pd.DataFrame({"source": [], "reason": []}, dtype=object)
    sources = list(dict.fromkeys([*kept.index, *dropped["source"]]))
    reasons = dropped["reason"].value_counts().index.tolist()
    by_reason = pd.crosstab(dropped["reason"], dropped["source"]).reindex(index=reasons, columns=sources, fill_value=0)

    def row(name: str, amounts: Sequence[int]) -> list[str]:
        every = [*amounts, sum(amounts)] if len(sources) > 1 else amounts
        return [name, *(f"{amount:,}" for amount in every)]

    of_kept = [int(kept.get(source, 0)) for source in sources]
    of_dropped = [int(by_reason[source].sum()) for source in sources]
    rows = [row("rows read", [a + b for a, b in zip(of_kept, of_dropped, strict=True)])]
    rows += [row(f"dropped: {reason}", [int(amount) for amount in by_reason.loc[reason]]) for reason in reasons]
    rows.append(row("kept", of_kept))
    columns = ["", *map(Number, sources), *([Number("all")] if len(sources) > 1 else [])]
    note = "" if contents.dropped is not None else "dropped.csv is not in the run: what was dropped is not known."
    return Table("Every row that was read, and what became of it", columns, rows, note)


def class_counts(contents: Contents) -> Table | None:
    """Patients and images of each class in each split; None without ``split.csv``."""
    split = contents.split
    if split is None or not {"split", "label"} <= set(split.columns):
        return None
    classes = list(dict.fromkeys(label for label in split["label"] if label))
    shown = [name for name in SPLITS if (split["split"] == name).any()]
    rows = []
    for name in shown:
        part = split[split["split"] == name]
        amounts = [share(int((part["label"] == label).sum()), len(part)) for label in classes]
        rows.append([title_of(name), f"{_patients(part):,}", f"{len(part):,}", *amounts])
    columns = ["", *map(Number, ("patients", "images", *classes))]
    return Table("Patients, and images of each class, in each split", columns, rows) if rows else None


def characteristics(contents: Contents) -> Table | None:
    """Who was imaged, and how, in each split; None without ``split.csv``, or where it says nothing of that."""
    split = contents.split
    if split is None or "split" not in split:
        return None
    shown = [name for name in SPLITS if (split["split"] == name).any()]
    parts = [split[split["split"] == name] for name in shown]
    persons = [_first_known(part) for part in parts]
    rows: list[list[str]] = []
    if "sex" in split and (split["sex"] != "").any():
        rows += _value_rows("sex", persons)
    if "age" in split and (split["age"] != "").any():
        rows += _age_rows(persons)
    for column in ("view", "country", "source"):
        if column in split and split.loc[split[column] != "", column].nunique() + (split[column] == "").any() > 1:
            rows += _value_rows(column, parts)
    if not rows:
        return None
    note = "Sex and age count patients, with the first that is known of each; all else counts images."
    return Table("Who was imaged, and how", ["", *(Number(title_of(name)) for name in shown)], rows, note)


def data_section(contents: Contents) -> Section:
    section = Section("data", "Data", "What went in, and what was left out, with the reason.")
    table, persons = accounting(contents), characteristics(contents)
    section.add(Part(tables=[table] if table else []))
    section.add(Part(tables=[persons] if persons else []))
    for name, entry in contents.entries.items():
        section.add(Part(title_of(name), [f"{str(note).rstrip('.')}." for note in entry.get("notes", [])]))
    if table is None:
        section.missing.append("No account of the data: split.csv is not in the run.")
    return section


def looks_section(contents: Contents) -> Section:
    section = Section("looks", "Looks", "Each time that images were scored with this run.")
    looks = contents.looks
    if looks is None or looks.empty:
        section.missing.append("No list of looks: looks.csv is not in the run, or empty.")
        return section
    columns = ("time", "split", "checkpoint", "checkpoint_sha256", "num_images")
    table = looks.reindex(columns=list(columns), fill_value="")
    rows = [[line[0], line[1], line[2], line[3][:12], line[4]] for line in table.to_numpy(dtype=object)]
    section.add(
        Part(tables=[Table("", ["time", "scored", "checkpoint", "SHA-256 begins with", Number("images")], rows)])
    )
    return section


def training_sentences(contents: Contents) -> list[str]:
    """How long was trained, and which epoch is evaluated."""
    sentences = []
    history = contents.history
    if history is not None:
        seconds = f" in {history['seconds'].max():,.0f} s" if "seconds" in history else ""
        sentences.append(f"{counted(int(history['epoch'].max()) + 1, 'epoch')}{seconds}.")
    epochs = {entry.get("epoch") for entry in contents.entries.values()} - {None}
    if len(epochs) == 1:
        sentences.append(f"Evaluated are the weights after epoch {int(epochs.pop() or 0) + 1}.")
    return sentences


def configuration_section(contents: Contents) -> Section:
    section = Section("configuration", "Configuration", "All settings of the training, resolved.")
    if contents.config_lines:
        section.add(Part(folded_title="config.yaml", folded_lines=contents.config_lines))
    else:
        section.missing.append("No configuration: config.yaml is not in the run.")
    return section


def versions_section(contents: Contents) -> Section:
    section = Section("versions", "Versions")
    rows = [[name, number] for name, number in versions(contents)]
    commit = revision(contents)
    rows.append(["revision of the program in training", commit or "not recorded"])
    rows.append(["machine in training", machine(contents) or "not recorded"])
    for name, entry in contents.entries.items():
        if entry.get("checkpoint_sha256"):
            rows.append([f"checkpoint, {title_of(name)} (SHA-256)", str(entry["checkpoint_sha256"])])
    section.add(Part(tables=[Table("", ["what", "version"], rows)]))
    return section


def _person(table: pd.DataFrame) -> str | None:
    return next((column for column in ("group", "patient") if column in table), None)


def _first_known(table: pd.DataFrame) -> pd.DataFrame:
    """A row per patient, each column with the first value that is known of them."""
    person = _person(table)
    return table if person is None else table.where(table != "").groupby(person, sort=False).first().fillna("")


def _patients(table: pd.DataFrame) -> int:
    column = _person(table)
    return len(table) if column is None else int(table[column].nunique())


def _value_rows(column: str, parts: Sequence[pd.DataFrame]) -> list[list[str]]:
    """A row per value of a column, commonest first; those beyond ``MAX_VALUES`` in one row, and the unknown last."""
    together = pd.concat(list(parts))[column]
    values = together[together != ""].value_counts().index.tolist()
    own, others = values[:MAX_VALUES], values[MAX_VALUES:]
    rows = []
    for value in own:
        rows.append([f"{column} {value}", *(share(int((part[column] == value).sum()), len(part)) for part in parts)])
    if others:
        name = f"{column}, {len(others)} others"
        rows.append([name, *(share(int(part[column].isin(others).sum()), len(part)) for part in parts)])
    if (together == "").any():
        rows.append([f"{column} {UNKNOWN}", *(share(int((part[column] == "").sum()), len(part)) for part in parts)])
    return rows


def _age_rows(persons: Sequence[pd.DataFrame]) -> list[list[str]]:
    ages = [pd.to_numeric(part["age"], errors="coerce") for part in persons]
    known = [age.dropna() for age in ages]

    def spread(age: pd.Series[float]) -> str:
        if age.empty:
            return UNKNOWN
        low, middle, high = (number(float(age.quantile(q)), digits=0) for q in (0.25, 0.5, 0.75))
        return f"{middle} ({low} to {high})"

    rows = [["age in years, median (quartiles)", *(spread(age) for age in known)]]
    rows.append(["under 18", *(share(int((age < 18).sum()), len(age)) for age in known)])
    if any(age.isna().any() for age in ages):
        rows.append([f"age {UNKNOWN}", *(share(int(age.isna().sum()), len(age)) for age in ages)])
    return rows
