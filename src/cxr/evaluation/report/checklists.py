"""Which items of CLAIM and TRIPOD+AI does a run answer, and which only a person can?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cxr.evaluation.report.contents import Contents, versions
from cxr.evaluation.report.data import accounting, characteristics, class_counts
from cxr.evaluation.report.warnings import divided_groups
from cxr.evaluation.words import counted, estimates, mapping, mappings

Status = Literal["filled", "needs a human", "missing"]


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Args:
        number: as the checklist counts it.
        topic: what it asks for, in few words.
        evidence: names of what a run must hold (keys of :func:`find_evidence`), all of them.
        human: whether more is asked than a run can hold; then the evidence only helps.
    """

    number: str
    topic: str
    evidence: tuple[str, ...] = ()
    human: bool = False


def _by_run(number: str, topic: str, *evidence: str) -> Item:
    return Item(number, topic, evidence)


def _by_person(number: str, topic: str, *evidence: str) -> Item:
    return Item(number, topic, evidence, human=True)


# Tejani, Klontzas, Gatti et al., "Checklist for artificial intelligence in medical imaging (CLAIM): 2024 update".
CLAIM: Sequence[Item] = (
    _by_person("1", "title or abstract names the AI method"),
    _by_person("2", "abstract with design, methods, results, conclusions"),
    _by_person("3", "background, intended use and role"),
    _by_person("4", "aims and hypotheses"),
    _by_person("5", "prospective or retrospective"),
    _by_person("6", "goal of the study"),
    _by_person("7", "sources of the data", "sources"),
    _by_person("8", "inclusion and exclusion criteria", "accounting"),
    _by_run("9", "preprocessing", "preparation"),
    _by_run("10", "selection of subsets", "selection", "accounting"),
    _by_person("11", "de-identification"),
    _by_run("12", "missing data", "accounting"),
    _by_person("13", "image acquisition", "views"),
    _by_person("14", "how the reference standard was obtained", "classes"),
    _by_person("15", "why this reference standard"),
    _by_person("16", "who annotated it"),
    _by_person("17", "annotation of the test set"),
    _by_person("18", "variability between and within annotators"),
    _by_run("19", "assignment to partitions", "split", "division"),
    _by_run("20", "level at which partitions are disjoint", "disjoint"),
    _by_person("21", "intended sample size", "counts"),
    _by_run("22", "the model", "model", "preparation"),
    _by_run("23", "software and versions", "software"),
    _by_run("24", "initial weights", "initialisation"),
    _by_run("25", "training", "training", "history"),
    _by_run("26", "how the final model was selected", "checkpoint"),
    _by_run("27", "ensembles", "checkpoint"),
    _by_run("28", "performance metrics", "metrics"),
    _by_run("29", "statistical uncertainty", "intervals"),
    _by_run("30", "robustness or sensitivity analysis", "subgroups"),
    _by_run("31", "explainability", "saliency"),
    _by_run("32", "evaluation on internal data", "internal"),
    _by_run("33", "testing on external data", "external"),
    _by_person("34", "trial registration"),
    _by_run("35", "numbers included and excluded", "accounting", "counts"),
    _by_person("36", "demographic and clinical characteristics in each partition", "characteristics"),
    _by_run("37", "performance with uncertainty", "internal", "intervals"),
    _by_run("38", "diagnostic performance and its precision", "internal", "confusion", "intervals"),
    _by_person("39", "analysis of failures", "mistakes"),
    _by_person("40", "limitations"),
    _by_person("41", "implications for practice"),
    _by_person("42", "protocol or further technical details", "configuration"),
    _by_person("43", "availability of software, model and data"),
    _by_person("44", "funding"),
)

# Collins, Moons, Dhiman et al., "TRIPOD+AI statement: updated guidance for reporting clinical prediction models that
# use regression or machine learning methods", 2024.
TRIPOD_AI: Sequence[Item] = (
    _by_person("1", "title"),
    _by_person("2", "abstract"),
    _by_person("3a", "healthcare context and rationale"),
    _by_person("3b", "target population, purpose and users"),
    _by_person("3c", "known health inequalities"),
    _by_person("4", "objectives"),
    _by_person("5a", "sources of the data and their representativeness", "sources"),
    _by_person("5b", "dates of the data"),
    _by_person("6a", "setting and centres"),
    _by_person("6b", "eligibility criteria", "accounting"),
    _by_person("6c", "treatments"),
    _by_run("7", "data preparation and quality checks", "preparation", "accounting"),
    _by_person("8a", "the outcome and how it was assessed", "classes"),
    _by_person("8b", "who assessed the outcome"),
    _by_person("8c", "blinding of the assessment"),
    _by_person("9a", "choice of predictors"),
    _by_person("9b", "definition of the predictors: the image, and how it was taken", "preparation"),
    _by_person("9c", "who assessed the predictors"),
    _by_person("10", "sample size", "counts"),
    _by_run("11", "missing data", "accounting"),
    _by_run("12a", "use and partition of the data", "split", "division"),
    _by_run("12b", "handling of the predictors", "preparation"),
    _by_person("12c", "type of model, its building and tuning", "model", "training"),
    _by_run("12d", "heterogeneity between clusters (hospitals, countries)", "clusters"),
    _by_run("12e", "measures and plots of performance", "metrics", "calibration"),
    _by_person("12f", "updating of the model after its evaluation", "calibration"),
    _by_run("12g", "how predictions were calculated", "checkpoint", "software"),
    _by_run("13", "class imbalance", "balance"),
    _by_person("14", "fairness", "subgroups"),
    _by_run("15", "output of the model and its thresholds", "thresholds"),
    _by_person("16", "differences between training and evaluation data", "characteristics"),
    _by_person("17", "ethical approval"),
    _by_person("18a", "funding"),
    _by_person("18b", "conflicts of interest"),
    _by_person("18c", "protocol"),
    _by_person("18d", "registration"),
    _by_person("18e", "data sharing"),
    _by_person("18f", "code sharing", "revision"),
    _by_person("19", "patient and public involvement"),
    _by_run("20a", "flow of participants", "accounting", "counts"),
    _by_person("20b", "characteristics of participants", "characteristics"),
    _by_run("20c", "comparison with the development data", "characteristics"),
    _by_run("21", "participants and outcomes in each analysis", "counts"),
    _by_run("22", "the full model", "model", "checkpoint"),
    _by_run("23a", "performance with intervals, also of subgroups", "intervals", "subgroups"),
    _by_run("23b", "heterogeneity of performance between clusters", "clusters"),
    _by_person("24", "results of updating", "calibration"),
    _by_person("25", "interpretation"),
    _by_person("26", "limitations"),
    _by_person("27a", "input of poor quality or not available"),
    _by_person("27b", "interaction and expertise of users"),
    _by_person("27c", "next steps of research"),
)

# What is lacking where a run does not hold the evidence.
LACKING = {
    "sources": "the names of the sources",
    "accounting": "split.csv and dropped.csv",
    "preparation": "the image size in config.yaml",
    "selection": "the classes and views in config.yaml",
    "views": "a known view",
    "classes": "the classes in config.yaml",
    "split": "split.csv",
    "division": "the kind of the split in config.yaml",
    "disjoint": "patient groups in split.csv",
    "counts": "counts of patients in split.csv",
    "model": "the model in config.yaml",
    "software": "versions that were recorded in training",
    "initialisation": "the initial weights in config.yaml",
    "training": "optimiser and schedule in config.yaml",
    "history": "history.csv",
    "checkpoint": "an evaluation with its checkpoint",
    "metrics": "an evaluation with metrics",
    "intervals": "an evaluation with intervals",
    "subgroups": "an evaluation with subgroups",
    "clusters": "an evaluation with subgroups by source or country",
    "saliency": "an evaluation with saliency",
    "internal": "an evaluation of the test split",
    "external": "an evaluation of another collection",
    "characteristics": "sex, age or view in split.csv",
    "confusion": "a confusion matrix of the test split",
    "mistakes": "predictions of the test split",
    "configuration": "config.yaml",
    "calibration": "an evaluation with calibration",
    "balance": "the balance in config.yaml",
    "thresholds": "an evaluation with operating points, or a threshold",
    "revision": "the revision of the program",
}


def judge(items: Sequence[Item], evidence: Mapping[str, str]) -> list[tuple[Item, Status, str]]:
    """Each item with its status, and where its answer is, or what is lacking.

    Args:
        items: ``CLAIM`` or ``TRIPOD_AI``.
        evidence: from `find_evidence`.
    """
    judged: list[tuple[Item, Status, str]] = []
    for item in items:
        held = list(dict.fromkeys(evidence[name] for name in item.evidence if name in evidence))
        lacking = [LACKING[name] for name in item.evidence if name not in evidence]
        if item.human:
            judged.append((item, "needs a human", f"the run gives: {'; '.join(held)}" if held else ""))
        elif lacking:
            judged.append((item, "missing", f"the run lacks {', '.join(lacking)}"))
        else:
            judged.append((item, "filled", "; ".join(held)))
    return judged


def find_evidence(contents: Contents) -> dict[str, str]:
    """What a run holds that answers items: name -> where it is to be found. What it does not hold has no name here."""
    found = {**_of_data(contents), **_of_training(contents), **_of_results(contents)}
    return {name: where for name, where in found.items() if where}


def _of_data(contents: Contents) -> dict[str, str]:
    split = contents.split
    known = split is not None and "split" in split
    sources = contents.setting("data.sources")
    divided = divided_groups(split)
    grouped = split is not None and known and "group" in split
    said = f"NOT disjoint: {counted(len(divided), 'patient')} or files on two sides" if divided else "patients (groups)"
    views = split is not None and "view" in split and bool((split["view"] != "").any())
    return {
        "sources": f"config.yaml: {', '.join(map(str, sources))}" if isinstance(sources, dict) and sources else "",
        "accounting": "report, Data; dropped.csv" if contents.dropped is not None and accounting(contents) else "",
        "selection": "config.yaml: data.classes, data.views" if contents.setting("data.sources") else "",
        "classes": "config.yaml: data.classes" if contents.setting("data.classes") else "",
        "views": "report, Data: views" if views else "",
        "split": "split.csv" if known else "",
        "division": f"config.yaml: data.split.kind={contents.setting('data.split.kind')}"
        if contents.setting("data.split.kind")
        else "",
        "disjoint": f"split.csv: {said}" if grouped else "",
        "counts": "report, Classes in each split" if class_counts(contents) else "",
        "characteristics": "report, Data: who was imaged" if characteristics(contents) else "",
    }


def _of_training(contents: Contents) -> dict[str, str]:
    def settings(*sections: str) -> str:
        return f"config.yaml: {', '.join(sections)}" if all(contents.setting(name) for name in sections) else ""

    weights = contents.setting("model.weights")
    pretrained = contents.setting("model.pretrained")
    start = str(weights) if weights else "pretrained" if pretrained else "random" if pretrained is False else ""
    recorded = isinstance(contents.environment.get("versions"), dict) and bool(versions(contents))
    return {
        "preparation": settings("data.image_size"),
        "model": f"config.yaml: {contents.setting('model.name')}" if contents.setting("model.name") else "",
        "software": "report, Versions; environment.json" if recorded else "",
        "initialisation": f"config.yaml: {start}" if start else "",
        "training": settings("optimizer", "schedule"),
        "history": "history.csv; report, Training" if contents.history is not None else "",
        "configuration": "config.yaml" if contents.settings else "",
        "balance": settings("balance"),
        "revision": "environment.json" if contents.environment.get("git_commit") else "",
    }


def _of_results(contents: Contents) -> dict[str, str]:
    test = contents.entries.get("test", {})
    judged = contents.entries.get(contents.primary or "", {})
    with_limits = [each for each in estimates(judged) if each.low is not None]
    checkpoint = judged.get("checkpoint")
    chosen = ": the best epoch on validation" if checkpoint == "best.ckpt" else ""
    external = ", ".join(contents.external)
    predicted = bool(test) and contents.predictions("test") is not None
    points = mappings(judged.get("operating_points"))
    clusters = {
        (row.get("column"), row.get("value"))
        for row in mappings(judged.get("subgroups"))
        if row.get("column") in ("source", "country") and mapping(row.get("estimate")).get("value") is not None
    }
    return {
        "checkpoint": f"{counted(judged.get('networks', 1), 'network')}, {checkpoint}{chosen}" if checkpoint else "",
        "metrics": "report, Metrics" if estimates(judged) else "",
        "intervals": f"report, Metrics: {', '.join(dict.fromkeys(each.method or '' for each in with_limits))}"
        if with_limits
        else "",
        "subgroups": "report, Subgroups" if mappings(judged.get("subgroups")) else "",
        "clusters": "report, Subgroups" if len(clusters) > 1 else "",
        "saliency": "report, Where the network looks" if mapping(judged.get("saliency")) else "",
        "internal": "report, Metrics: test split" if estimates(test) else "",
        "external": f"report, Metrics: {external}" if external else "",
        "confusion": "report, Confusion" if test.get("confusion_matrix") else "",
        "mistakes": "report, Most confident mistakes" if predicted else "",
        "calibration": "report, Calibration" if mapping(judged.get("calibration")) else "",
        "thresholds": "report, Operating points"
        if points
        else "report, Metrics: threshold"
        if judged.get("threshold") is not None
        else "",
    }
