"""Does every finding get the class that its user defined, and undecided ones none at all?"""

from __future__ import annotations

import pytest

from cxr.errors import ConfigurationError
from cxr.sources.labels import assign_labels

COVID_OTHER = {"covid": ["COVID-19"], "other": ["rest"]}


def test_covid_against_the_rest() -> None:
    findings = ["COVID-19", "COVID-19, ARDS", "Pneumonia/Viral/COVID-19", "SARS", "No Finding", "Herpes ", "ARDS"]
    assignment = assign_labels(findings, COVID_OTHER)
    assert assignment.labels == ["covid", "covid", "covid", "other", "other", "other", "other"]
    assert assignment.reasons == [None] * 7
    assert assignment.class_names == ["covid", "other"]


@pytest.mark.parametrize("finding", [None, "", "  ", "todo", "Unknown", "?", "nan", "Pneumonia, todo"])
@pytest.mark.parametrize("classes", [COVID_OTHER, None, {"ill": ["Pneumonia"], "well": ["No Finding"]}])
def test_unlabelled_is_never_negative(finding: str | None, classes: dict[str, list[str]] | None) -> None:
    assignment = assign_labels([finding, "No Finding"], classes)
    assert assignment.labels[0] is None
    assert assignment.reasons[0] == "unlabelled"
    assert assignment.labels[1] is not None


def test_what_the_ontology_does_not_know_is_reported_and_not_called_the_rest() -> None:
    assignment = assign_labels(["COVID-19", "Zebra", "COVID-19, Zebra", "Pneumonia of unknown cause"], COVID_OTHER)
    assert assignment.labels == ["covid", None, None, None]
    assert assignment.reasons == [None] + ["finding not in the ontology"] * 3


def test_a_class_may_name_a_literal_text_of_the_data() -> None:
    classes = {"striped": ["zebra"], "covid": ["COVID-19"], "other": ["rest"]}
    assignment = assign_labels(["Zebra ", "COVID-19", "COVID-19, Zebra", "Quagga", "SARS"], classes)
    assert assignment.labels == ["striped", "covid", "striped", None, "other"]
    assert assignment.reasons[3] == "finding not in the ontology"


def test_a_literal_text_needs_no_data_where_nothing_is_labelled() -> None:
    assignment = assign_labels([None, "todo"], {"striped": ["Zebra"], "other": ["rest"]})
    assert assignment.labels == [None, None]
    assert assignment.class_names == ["striped", "other"]


def test_the_first_class_in_the_order_wins_and_the_rest_comes_last_wherever_it_stands() -> None:
    findings = ["COVID-19, ARDS", "COVID-19", "ARDS", "SARS", "Klebsiella", "No Finding"]
    classes = {"other": ["rest"], "ards": ["ARDS"], "covid": ["COVID-19"], "pneumonia": ["Pneumonia"]}
    assignment = assign_labels(findings, classes)
    assert assignment.labels == ["ards", "covid", "ards", "pneumonia", "pneumonia", "other"]
    assert assignment.class_names == ["other", "ards", "covid", "pneumonia"]


def test_without_a_rest_other_findings_have_no_class() -> None:
    assignment = assign_labels(["NORMAL", "PNEUMONIA", "ARDS"], {"normal": ["healthy"], "pneumonia": ["Pneumonia"]})
    assert assignment.labels == ["normal", "pneumonia", None]
    assert assignment.reasons == [None, None, "finding in no class"]


def test_without_definitions_the_text_itself_is_the_class() -> None:
    assignment = assign_labels(["zebra", " Quagga ", "todo", "zebra", None], None)
    assert assignment.labels == ["zebra", "Quagga", None, "zebra", None]
    assert assignment.class_names == ["Quagga", "zebra"]


def test_every_record_keeps_its_place() -> None:
    findings = ["COVID-19", "todo", "SARS"] * 1000
    assignment = assign_labels(findings, COVID_OTHER)
    assert assignment.labels == ["covid", None, "other"] * 1000
    assert len(assignment.reasons) == len(findings)


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        ({"covid": ["COVD-19"], "other": ["rest"]}, ("classes.covid", "'COVD-19'", "nearest: 'COVID-19'")),
        ({"striped": ["Zebr"], "other": ["rest"]}, ("classes.striped", "nearest: 'Zebra'")),
        ({"a": ["rest"], "b": ["rest"]}, ("classes.b", "one 'rest' only")),
        ({"a": ["COVID-19", "rest"]}, ("classes.a", "stand alone")),
        ({"a": []}, ("classes.a", "no list of findings")),
        ({"a": "COVID-19"}, ("classes.a", "no list of findings")),
        ({"a": ["todo"], "b": ["rest"]}, ("classes.a", "'todo'", "nobody has decided")),
        ({}, ("classes", "defines no class")),
        ({"pneumonia": ["Pneumonia"], "covid": ["COVID-19"]}, ("classes.covid", "'pneumonia'", "put 'covid' first")),
        ({"a": ["COVID"], "b": ["COVID-19"]}, ("classes.b", "'a'")),
    ],
)
def test_a_definition_that_cannot_be_meant_is_refused_in_one_line(
    classes: dict[str, list[str]], named: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        assign_labels(["COVID-19", "Zebra"], classes)
    message = str(caught.value)
    assert all(word in message for word in named), message
    assert "\n" not in message
