"""Is a search run once for the same question, and again for another?"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.audit.kept_findings import find_once
from cxr.errors import DataError

# A process of its own that leaves a mark each time it searches, and takes long enough for others to come meanwhile.
SEARCHER = """
import sys, time, uuid
from pathlib import Path
from cxr.audit.kept_findings import find_once

folder = Path(sys.argv[1])

def search():
    (folder / f"searched-{uuid.uuid4()}").touch()
    time.sleep(1)
    return 42

print(find_once(search, name="s", about=["a"], cache_dir=folder / "cache", encode=int, decode=int))
"""


def test_of_several_processes_one_searches_and_all_have_the_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SEARCHER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["42"] * 3
    assert len(list(tmp_path.glob("searched-*"))) == 1


def ask(folder: Path, answer: int, about: list[str], name: str = "s") -> int:
    return find_once(lambda: answer, name=name, about=about, cache_dir=folder, encode=int, decode=int)


def test_what_the_answer_hangs_on_is_the_question(tmp_path: Path) -> None:
    assert ask(tmp_path, 1, ["a", "b"]) == 1
    assert ask(tmp_path, 2, ["a", "b"]) == 1
    assert ask(tmp_path, 3, ["a", "c"]) == 3
    assert ask(tmp_path, 4, ["a", "b"], "another version") == 4
    assert ask(tmp_path, 5, ["no UTF-8: \udcff"]) == 5


def test_a_damaged_answer_is_named_and_searched_for_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ask(tmp_path, 1, ["a"])
    (kept,) = tmp_path.glob("*.json")
    for content in ("", '{"half', '"no number"', "[]", "\xff"):
        kept.write_text(content, encoding="utf-8")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert ask(tmp_path, 2, ["a"]) == 2
        assert kept.name in caplog.text
        assert ask(tmp_path, 3, ["a"]) == 2  # what was found again is kept again


def test_a_search_that_fails_keeps_nothing_and_holds_nobody_up(tmp_path: Path) -> None:
    def fail() -> int:
        raise OSError("a file of the collection")

    with pytest.raises(OSError, match="a file of the collection"):  # and not: the cache cannot be written
        find_once(fail, name="s", about=["a"], cache_dir=tmp_path, encode=int, decode=int)
    assert ask(tmp_path, 1, ["a"]) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"paths\.cache: .*file/cache cannot be written"):
        ask(tmp_path / "file" / "cache", 1, ["a"])
