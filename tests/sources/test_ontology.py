"""Does the text of a finding lead to the right node, and never to a guessed one?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr.errors import ConfigurationError
from cxr.sources.ontology import load_ontology


@pytest.mark.parametrize(
    "text",
    [
        "COVID-19",
        "Covid-19",
        " COVID-19 ",
        "covid_19",
        "COVID",
        "COVID19",
        "Pneumonia/Viral/COVID-19",
        "Viral/COVID-19",
    ],
)
def test_all_spellings_of_one_finding_are_one_node(text: str) -> None:
    assert load_ontology().resolve(text) == ("COVID-19",)


@pytest.mark.parametrize(
    ("text", "lineage"),
    [
        ("Pneumonia/Fungal/Pneumocystis", ("Pneumocystis", "Fungal", "Pneumonia")),
        ("SARS", ("SARS", "Viral", "Pneumonia")),
        ("Herpes ", ("Herpes", "Viral", "Pneumonia")),
        ("Mycoplasma Bacterial Pneumonia", ("Mycoplasma", "Bacterial", "Pneumonia")),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", ("MRSA", "Staphylococcus", "Bacterial", "Pneumonia")),
        ("Pneumonia/Viral/Influenza/H1N1", ("H1N1", "Influenza", "Viral", "Pneumonia")),
        ("E. coli", ("E.Coli", "Bacterial", "Pneumonia")),
        ("Tuberculosis", ("Tuberculosis",)),
        ("No_findings", ("No Finding",)),
        ("NORMAL", ("No Finding",)),
        ("Viral Pneumonia", ("Viral", "Pneumonia")),
        ("PNEUMONIA", ("Pneumonia",)),
        ("Lung_Opacity", ("Lung Opacity",)),
        ("No Lung Opacity / Not Normal", ("Abnormal Without Opacity",)),
    ],
)
def test_a_finding_stands_under_all_that_it_is_a_kind_of(text: str, lineage: tuple[str, ...]) -> None:
    ontology = load_ontology()
    (node,) = ontology.resolve(text) or ("nothing",)
    assert ontology.lineage(node) == lineage


@pytest.mark.parametrize("text", ["COVID-19, ARDS", "COVID-19,ARDS", "covid | ards", "Pneumonia/Viral/COVID-19; ARDS,"])
def test_a_list_of_findings_is_all_of_them(text: str) -> None:
    assert load_ontology().resolve(text) == ("COVID-19", "ARDS")


@pytest.mark.parametrize(
    "text",
    [
        "Pneumonia of unknown cause",  # holds a known word
        "Non-COVID",
        "COVID-19, Zebra",  # half understood
        "Pneumonia/Viral/Zebra",
        "Pneumonia/Fungal/COVID-19",  # a path that the tree does not have
        "COVID-19/Pneumonia",
        "Pneumonia/Pneumonia",
        "/",
        "",
    ],
)
def test_what_is_not_understood_is_never_guessed(text: str) -> None:
    assert load_ontology().resolve(text) is None


@pytest.mark.parametrize("text", [None, "", "  ", "todo", "TODO ", "Unknown", "?", "nan", ",", "COVID-19, todo"])
def test_words_for_undecided_are_unlabelled(text: str | None) -> None:
    assert load_ontology().is_unlabelled(text)


@pytest.mark.parametrize("text", ["No Finding", "COVID-19", "Zebra", "COVID-19, ARDS"])
def test_findings_are_not_unlabelled(text: str) -> None:
    assert not load_ontology().is_unlabelled(text)


def test_a_mistyped_name_is_brought_to_its_nearest() -> None:
    assert load_ontology().nearest("COVD-19") == "COVID-19"
    assert load_ontology().nearest("zebr", {"zebra": "Zebra"}) == "Zebra"


GOOD = """
findings:
  A:
    B:
  C:
synonyms:
  B: [Bee]
unlabelled: ["todo"]
"""


def test_another_tree_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(GOOD)
    ontology = load_ontology(path)
    assert ontology.resolve("bee, C") == ("B", "C")
    assert ontology.lineage("B") == ("B", "A")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("  C:", "  C:\n    B:", "'B' stands twice"),
        ("  C:", "  A:", "'A' stands twice"),
        ("  C:", "  a:", "'a' stands twice"),
        ("B: [Bee]", "D: [Dee]", "'D' is no node"),
        ("[Bee]", "[Bee, C]", "'C' stands twice"),
        ("[Bee]", "[Bee, yes]", "list of texts"),
        ("[Bee]", "Bee", "list of texts"),
        ('["todo"]', '["todo", "bee"]', "'bee' is both"),
        ("  C:", "  C: text", "'text'"),
        ("  C:", "  7:", "7 is no name"),
        ("unlabelled:", "unlabeled:", "sections findings, synonyms, unlabelled"),
        ("  C:", "  C: [", "not YAML"),
    ],
)
def test_a_contradictory_tree_is_refused_in_one_line(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        load_ontology(path)
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert "\n" not in message
