"""What does a report say, read back as a browser does?"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from cxr.evaluation.report.mistakes import Mistake, find_mistakes
from cxr.evaluation.report.page import write_report
from cxr.training.run_directory import RunDirectory

VOID = {"meta", "link", "img", "line", "circle", "br", "hr"}


class Page(HTMLParser):
    """A parsed page: its elements in order, the text below each kind of heading, its tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        data = data.replace("\xa0", " ")
        self.texts.append(data)
        if self._open and any(re.fullmatch("h[1-6]", tag) for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip("\n")

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def sections(self) -> list[str]:
        return [text for level, text in self.headings if level == 2]

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


def report(run: RunDirectory, **settings: Any) -> Page:
    return Page(write_report(run, **settings).read_text(encoding="utf-8"))


def metrics(run: RunDirectory) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    return content


def with_pixels(run: RunDirectory, name: str) -> list[Mistake]:
    found = find_mistakes(pd.read_csv(run.predictions_dir / f"{name}.csv"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    return [replace(mistake, pixels=pixels) for mistake in found]
