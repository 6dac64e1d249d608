"""Which class does a finding belong to, and why do some belong to none?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr.errors import ConfigurationError
from cxr.sources.ontology import Ontology, fold, load_ontology, split_list

REST = "rest"

UNLABELLED = "unlabelled"
NOT_IN_ONTOLOGY = "finding not in the ontology"
IN_NO_CLASS = "finding in no class"


@dataclass(frozen=True)
class LabelAssignment:
    """The class of every finding.

    Args:
        labels: a class name per finding, None where it has none.
        reasons: why there is none (``UNLABELLED``, ``NOT_IN_ONTOLOGY``, ``IN_NO_CLASS``); None where there is one.
        class_names: the classes, in the order that numbers them.
    """

    labels: list[str | None]
    reasons: list[str | None]
    class_names: list[str]


def assign_labels(
    findings: Sequence[str | None], classes: Mapping[str, Sequence[str]] | None = None
) -> LabelAssignment:
    """Give every finding its class.

    A class takes a finding that names one of its nodes or anything below it. Where two classes take it, the first in
    the order of ``classes`` has it. The class ``["rest"]`` takes every other finding that is understood. A finding
    that says that nobody has decided (``todo``, ``Unknown``, empty) never gets a class, and so is never a negative.

    Args:
        findings: raw texts, one per record.
        classes: class name -> nodes of the ontology (names, synonyms or paths), or texts that stand in ``findings``
            literally. None: every labelled text is its own class, sorted.

    Raises:
        ConfigurationError: where a class names what neither the ontology nor the data know, more than one class is
            the rest, or a class could never be given because the classes before it take all that it names.
    """
    ontology = load_ontology()
    unique = dict.fromkeys(findings)
    labelled = [text for text in unique if text is not None and not ontology.is_unlabelled(text)]
    outcome: dict[str | None, tuple[str | None, str | None]] = dict.fromkeys(unique, (None, UNLABELLED))
    if classes is None:
        outcome.update({text: (text.strip(), None) for text in labelled})
        class_names = sorted({text.strip() for text in labelled})
    else:
        definitions, literals = _definitions(classes, ontology, labelled)
        rest = next((name for name, nodes in definitions.items() if nodes == {REST}), None)
        outcome.update({text: _classify(text, definitions, literals, rest, ontology) for text in labelled})
        class_names = list(definitions)
    return LabelAssignment([outcome[f][0] for f in findings], [outcome[f][1] for f in findings], class_names)


def _classify(
    text: str, definitions: Mapping[str, set[str]], literals: set[str], rest: str | None, ontology: Ontology
) -> tuple[str | None, str | None]:
    falls_under = _falls_under(text, literals, ontology)
    if falls_under is None:
        return None, NOT_IN_ONTOLOGY
    for name, nodes in definitions.items():
        if nodes & falls_under:
            return name, None
    return (rest, None) if rest is not None else (None, IN_NO_CLASS)


def _falls_under(text: str, literals: set[str], ontology: Ontology) -> set[str] | None:
    """All nodes and literal texts that a finding is a kind of; None where a part of it is not understood."""
    node = ontology.find(text)
    if node is not None:
        return set(ontology.lineage(node))
    if fold(text) in literals:
        return {fold(text)}
    parts = split_list(text)
    if not parts or parts == [text.strip()]:
        return None
    found: set[str] = set()
    for part in parts:
        of_part = _falls_under(part, literals, ontology)
        if of_part is None:
            return None
        found |= of_part
    return found


def _definitions(
    classes: Mapping[str, Sequence[str]], ontology: Ontology, labelled: Sequence[str]
) -> tuple[dict[str, set[str]], set[str]]:
    """Class name -> the nodes and folded literal texts that define it; and all those literal texts."""
    if not classes:
        raise ConfigurationError("classes: {} defines no class; name some, or use null for one class per finding")
    unknown_texts = {
        fold(text): text
        for whole in labelled
        for text in (whole.strip(), *split_list(whole))
        if ontology.resolve(text) is None
    }
    definitions: dict[str, set[str]] = {}
    literals: set[str] = set()
    for name, wanted in classes.items():
        key = f"classes.{name}"
        if isinstance(wanted, str) or not wanted or not all(isinstance(text, str) for text in wanted):
            raise ConfigurationError(f"{key}: {wanted!r} is no list of findings; write [COVID-19] or [{REST}]")
        if REST in map(fold, wanted):
            if len(wanted) > 1:
                raise ConfigurationError(
                    f"{key}: {list(wanted)}: '{REST}' already is everything else; let it stand alone"
                )
            if {REST} in definitions.values():
                raise ConfigurationError(f"{key}: there is one '{REST}' only, and another class has it")
            definitions[name] = {REST}
            continue
        definitions[name] = set()
        for text in wanted:
            if ontology.is_unlabelled(text):
                raise ConfigurationError(f"{key}: {text!r} means that nobody has decided; it cannot define a class")
            node = ontology.find(text)
            # Where no image has a label there is nothing to hold a literal text against.
            if node is None and labelled and fold(text) not in unknown_texts:
                raise ConfigurationError(
                    f"{key}: {text!r} is a finding neither of the ontology nor of the data; "
                    f"nearest: {ontology.nearest(text, unknown_texts)!r}"
                )
            if node is None:
                literals.add(fold(text))
            definitions[name].add(node if node is not None else fold(text))
    _refuse_unreachable(definitions, ontology)
    return definitions, literals


def _refuse_unreachable(definitions: Mapping[str, set[str]], ontology: Ontology) -> None:
    taken: dict[str, str] = {}
    for name, nodes in definitions.items():
        before = [
            next(
                (taken[above] for above in (ontology.lineage(n) if n in ontology.parents else (n,)) if above in taken),
                "",
            )
            for n in sorted(nodes)
        ]
        if all(before):
            raise ConfigurationError(
                f"classes.{name}: can never be given: {before[0]!r} stands before it and takes all that it names; "
                f"put {name!r} first"
            )
        taken.update({node: name for node in nodes if node not in taken})
