"""To which study does the folder of a sweep belong, and what does it say of its trials without the storage?"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.errors import ConfigurationError
from cxr.evaluation.comparison.search_record import RECORD
from cxr.files import write_atomically


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search.

    Attributes:
        path: of the folder.
        study: the name of the study that it belongs to.
        mark: tells its trials from those that other folders have in the same study.
        numbers: of the trials of which it knew when it was opened.
    """

    path: Path
    study: str
    mark: str
    numbers: frozenset[int]

    def write(self, trials: Iterable[dict[str, Any]]) -> None:
        """Write `RECORD`."""
        content = {"sweep": self.mark, "study": self.study, "trials": list(trials)}
        write_atomically(self.path / RECORD, json.dumps(content, indent=1) + "\n")


def kept_study(path: Path) -> str | None:
    """The name of the study that a folder belongs to; None for none yet."""
    kept = _read(path)
    return None if kept is None else str(kept["study"])


def open_folder(path: Path, study: str) -> SearchFolder:
    """The folder of a search; a new one is marked before the first trial, so that one which is cut off is known again.

    Raises:
        ConfigurationError: the folder belongs to another study, or to a sweep without any.
    """
    kept, shown = _read(path), os.path.relpath(path)
    if kept is None:
        if any(each.name.isdecimal() for each in path.iterdir()):
            raise ConfigurationError(f"sweep folder {shown}: holds jobs of another sweep; give another sweep.name")
        folder = SearchFolder(path, study, uuid.uuid4().hex[:12], frozenset())
        folder.write([])
        return folder
    if kept["study"] != study:
        raise ConfigurationError(
            f"hydra.sweeper.study_name={study}: the sweep folder {shown} belongs to the study {kept['study']}; "
            "give that, or another sweep.name"
        )
    return SearchFolder(path, study, kept["sweep"], frozenset(trial["number"] for trial in kept["trials"]))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((path / RECORD).read_text(encoding="utf-8"))
        return {"sweep": str(content["sweep"]), "study": str(content["study"]), "trials": list(content["trials"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path / RECORD}: cannot be read ({error}); restore it, or begin another sweep"
        ) from None
