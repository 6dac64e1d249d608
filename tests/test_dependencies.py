"""Is every dependency justified, and every version that is known to be bad excluded?"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    lists += [*PROJECT["dependency-groups"].values(), PROJECT["build-system"]["requires"]]
    return [Requirement(text) for each in lists for text in each]


def rows(section: str) -> list[list[str]]:
    """The cells of the tables below a heading."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_dependency_stands_in_the_table_once_and_nothing_else_does() -> None:
    sections = ("Always", "Extras", "For work on cxr itself")
    listed = [name for section in sections for row in rows(section) for name in named(row[0])]
    assert sorted(listed) == sorted({requirement.name for requirement in requirements()})
    assert all(len(row[-1]) > 4 for section in sections for row in rows(section))


def test_an_extra_is_the_one_that_pyproject_has() -> None:
    for row in rows("Extras"):
        (package,), (extra,) = named(row[0]), named(row[1])
        declared = PROJECT["project"]["optional-dependencies"][extra]
        assert package in [Requirement(text).name for text in declared]


@pytest.mark.parametrize("row", rows("Known to be bad, and excluded"), ids=lambda row: row[0])
def test_what_is_known_to_be_bad_is_excluded(row: list[str]) -> None:
    bound = Requirement(named(row[0])[0])
    declared = [each for each in requirements() if each.name == bound.name]
    assert declared
    for each in declared:
        assert str(bound.specifier) in str(each.specifier).split(",")


BAD = {
    "torch": ["2.9.1"],
    "pytorch-lightning": ["2.6.2", "2.6.3", "2.6.5"],
    "hydra-core": ["1.3.2"],
    "pillow": ["11.0", "12.1.0", "12.3.0"],
    "filelock": ["3.20.0", "3.20.2"],
}


@pytest.mark.parametrize(("name", "version"), [(name, version) for name, all_ in BAD.items() for version in all_])
def test_no_bad_version_can_be_installed(name: str, version: str) -> None:
    declared = [each for each in requirements() if each.name == name]
    assert declared
    assert not any(each.specifier.contains(version) for each in declared)


def test_releases_are_taken_up_to_one_day_alone() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", PROJECT["tool"]["uv"]["exclude-newer"])
