"""Can text from data change anything of a report but its own words?"""

from __future__ import annotations

from pathlib import Path

from tests.evaluation.drawn_run import draw_run
from tests.evaluation.report.parsed_page import Page, report, with_pixels

from cxr.evaluation.words import visible

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' & {{ 7*7 }} </style>\u202e\u200b\x07"


def test_text_from_data_changes_no_element_of_the_page(tmp_path: Path) -> None:
    plain = draw_run(tmp_path / "plain", names=("val", "test", "ward"), num_images=40)
    name = "x'><img src=x onerror=alert(1)><!-- "
    hostile = draw_run(
        tmp_path / "hostile",
        class_names=(f"covid{HOSTILE}", f"other{HOSTILE}\r\n"),
        names=("val", "test", name),
        num_images=40,
        prefix=HOSTILE,
    )
    first, second = (report(run, mistakes={"test": with_pixels(run, "test")}) for run in (plain, hostile))

    def structure(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        # The class says which names are long.
        return [(tag, tuple(name for name in attributes if name != "class")) for tag, attributes in page.elements]

    assert structure(second) == structure(first)
    text = (hostile.path / "report.html").read_text(encoding="utf-8")
    assert not set("\u202e\u200b\x07") & set(text)
    assert second.headings[0][1] == f"covid{visible(HOSTILE)} against other{visible(HOSTILE)}\\r\\n"


def test_hidden_characters_are_written_out_and_letters_of_other_scripts_are_not() -> None:
    assert visible("a\u202eb\n") == "a\\u202eb\\n"
    persian = "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645"
    assert visible(f"{persian} é 胸") == f"{persian} é 胸"
