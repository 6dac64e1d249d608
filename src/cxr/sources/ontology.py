"""What does a finding mean: which node of the tree of findings does its text name, and what is that a kind of?"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cxr.errors import ConfigurationError

SHIPPED_PATH = Path(__file__).with_name("ontology.yaml")
SECTIONS = ("findings", "synonyms", "unlabelled")

# Blanks, underscores and every dash in use are one separator: collections mix `No_findings`, `Covid-19` and `COVID 19`.
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")
# Several findings in one cell: `COVID-19, ARDS` here, `Effusion|Mass` in NIH ChestX-ray14.
_LIST = re.compile(r"[,;|]")


def fold(text: str) -> str:
    """The form in which two names are compared: one case, one separator, no blanks around."""
    return _SEPARATORS.sub(" ", text.casefold()).strip()


def split_list(text: str) -> list[str]:
    """The findings that one cell lists, stripped; empty parts (a trailing comma) are left out."""
    return [part.strip() for part in _LIST.split(text) if part.strip()]


@dataclass(frozen=True)
class Ontology:
    """A tree of findings with the names that collections use for them.

    Args:
        parents: node -> its parent, None for a root; parents stand before their children.
        names: folded name or synonym -> node.
        unlabelled: the folded words that say that nobody has decided.
    """

    parents: Mapping[str, str | None]
    names: Mapping[str, str]
    unlabelled: frozenset[str]

    def find(self, name: str) -> str | None:
        """The node that one name, synonym or path (``Pneumonia/Viral/COVID-19``) stands for; None where there is none.

        Every step of a path has to be a kind of the step before it: ``Pneumonia/Fungal/COVID-19`` is not understood.
        """
        whole = self.names.get(fold(name))
        if whole is not None or "/" not in name:
            return whole
        steps = [self.names.get(fold(step)) for step in name.split("/")]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps):
            return None
        for above, below in itertools.pairwise(known):
            if above == below or above not in self.lineage(below):
                return None
        return known[-1]

    def resolve(self, text: str) -> tuple[str, ...] | None:
        """The nodes that a raw finding names, in its order; None where any part of it is not understood."""
        whole = self.find(text)
        if whole is not None:
            return (whole,)
        nodes = [self.find(part) for part in split_list(text)]
        known = tuple(dict.fromkeys(node for node in nodes if node is not None))
        return known if known and None not in nodes else None

    def is_unlabelled(self, text: str | None) -> bool:
        """Whether a finding is missing or says that nobody has decided, in whole or (``COVID-19, todo``) in part."""
        if not isinstance(text, str) or fold(text) in self.unlabelled:
            return True
        parts = split_list(text)
        return not parts or any(fold(part) in self.unlabelled for part in parts)

    def lineage(self, node: str) -> tuple[str, ...]:
        """The node, its parent, and so on up to its root."""
        line = [node]
        parent = self.parents[node]
        while parent is not None:
            line.append(parent)
            parent = self.parents[parent]
        return tuple(line)

    def nearest(self, name: str, others: Mapping[str, str] | None = None) -> str:
        """The known name most like a mistyped one; ``others`` are further names, folded -> as written."""
        known = {**self.names, **(others if others is not None else {})}
        return known[difflib.get_close_matches(fold(name), known, n=1, cutoff=0.0)[0]]


@functools.cache
def load_ontology(path: Path = SHIPPED_PATH) -> Ontology:
    """Read and check a tree of findings.

    Raises:
        ConfigurationError: where the file is no such tree, a name stands for two things, or a synonym for nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(f"{path}: the ontology cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or set(content) != set(SECTIONS):
        raise ConfigurationError(f"{path}: an ontology has exactly the sections {', '.join(SECTIONS)}")

    parents: dict[str, str | None] = {}
    names: dict[str, str] = {}
    for node, parent in _walk(content["findings"], None, path):
        _claim(names, node, node, path)
        parents[node] = parent
    if not parents:
        raise ConfigurationError(f"{path}: findings: the tree is empty")
    for name, synonyms in _mapping(content["synonyms"], "synonyms", path).items():
        if name not in parents:
            raise ConfigurationError(f"{path}: synonyms: {name!r} is no node of the tree, so they stand for nothing")
        for synonym in _texts(synonyms, f"synonyms: {name}", path):
            _claim(names, synonym, str(name), path)
    unlabelled = frozenset(fold(word) for word in _texts(content["unlabelled"], "unlabelled", path))
    for word in sorted(unlabelled & set(names)):
        raise ConfigurationError(f"{path}: {word!r} is both a finding ({names[word]}) and a word for unlabelled")
    return Ontology(parents, names, unlabelled)


def _walk(tree: object, parent: str | None, path: Path) -> Iterator[tuple[str, str | None]]:
    for node, children in _mapping(tree, f"findings: {parent}" if parent else "findings", path).items():
        if not isinstance(node, str) or not fold(node):
            raise ConfigurationError(f"{path}: findings: {node!r} is no name; put it in quotes")
        yield node, parent
        yield from _walk(children, node, path)


def _claim(names: dict[str, str], name: str, node: str, path: Path) -> None:
    folded = fold(name)
    if folded in names:
        raise ConfigurationError(f"{path}: {name!r} stands twice: for {names[folded]} and for {node}")
    names[folded] = node


def _mapping(value: object, where: str, path: Path) -> dict[object, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: {where}: expected 'name:' lines, found {value!r}")
    return value


def _texts(value: object, where: str, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ConfigurationError(
            f"{path}: {where}: expected a list of texts (in quotes where YAML reads them otherwise)"
        )
    return value


def _refuse_repeated_keys(node: yaml.Node | None, path: Path) -> None:
    """YAML lets the second of two equal keys replace the first in silence: half a tree would be gone."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise ConfigurationError(f"{path}: line {key.start_mark.line + 1}: {key.value!r} stands twice")
            seen.add(str(key.value))
            _refuse_repeated_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, path)
