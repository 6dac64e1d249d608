"""Do imports point only back along the journey of a radiograph?"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "cxr"

# A place may import itself and those before it.  The command-line modules come last; only they know the configuration.
JOURNEY = [
    "errors",
    "allocator",
    "interruption",
    "files",
    "statistics",
    "sources",
    "images",
    "audit",
    "pipeline",
    "training",
    "evaluation",
    "sweeps",
]
CONFIGURATION = {"config", "config_check"}
# The same holds for the rooms of the last floor; files that stand beside them and are not named come last.
ROOMS = [
    "words",
    "figure_style",
    "metrics_file",
    "predictions",
    "metrics",
    "scoring",
    "calibration",
    "export",
    "subgroups",
    "saliency",
    "shortcuts",
    "report",
    "comparison",
    "protocols",
]


def imported(path: Path) -> set[str]:
    """The parts of cxr that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "cxr":
                names |= {f"cxr.{alias.name}" for alias in node.names}
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path.name}: relative import; write the whole name, so that its floor can be read")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def floor(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_back(path: Path) -> None:
    if path.name == "__main__.py":
        return  # a program: it stands above all floors, like train.py, wherever python -m wants it
    own = floor(path)
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("cxr.")}
    if own in CONFIGURATION:
        assert parts <= CONFIGURATION, f"{own} must not import the rest of cxr"
    elif own in JOURNEY:
        allowed = set(JOURNEY[: JOURNEY.index(own) + 1])
        assert parts <= allowed, f"{own} imports {sorted(parts - allowed)}, which come after it"
        assert not imported(path) & {"hydra", "omegaconf"}, "the floors take plain keyword arguments"


@pytest.mark.parametrize("path", sorted((SOURCE / "evaluation").rglob("*.py")), ids=lambda path: path.name)
def test_rooms_of_the_evaluation_point_back(path: Path) -> None:
    own = path.relative_to(SOURCE / "evaluation").parts[0].removesuffix(".py")
    if own in ROOMS:
        rooms = {name.split(".")[2] for name in imported(path) if name.startswith("cxr.evaluation.")}
        assert rooms <= set(ROOMS[: ROOMS.index(own) + 1])


def test_every_floor_is_in_the_journey() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(JOURNEY)


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "config_check",
        "command_line",
        "preflight",
        "help_text",
        "errors",
        "allocator",
        "interruption",
        "resumption",
        "sweep_jobs",
    ],
)
def test_what_runs_before_the_check_does_not_import_torch(name: str) -> None:
    heavy = {"torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "wandb", "pandas", "matplotlib"}
    tops = {module.split(".")[0] for module in imported(SOURCE / f"{name}.py")}
    assert not tops & heavy


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_says_what_question_it_answers(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert docstring.splitlines()[0].strip()
