"""How does text from data become a page in which none of it is markup?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from cxr.evaluation.report.parts import Number, Strip
from cxr.evaluation.words import visible

LONG = 24  # letters of a word from which a narrow column breaks it


@functools.cache
def template(name: str, show: Callable[[object], object] | None = None) -> Any:
    """A template of this package, in which every text is escaped and an unknown name is an error.

    Args:
        name: the file.
        show: makes what may be written of each value; None: as on a page of HTML.
    """
    environment = Environment(
        loader=PackageLoader("cxr.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown if show is None else show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["strip"] = lambda cell: isinstance(cell, Strip)
    environment.tests["numbers"] = lambda column: isinstance(column, Number)
    environment.tests["long"] = lambda cell: isinstance(cell, str) and max(map(len, cell.split()), default=0) > LONG
    return environment.get_template(name)


def _shown(value: object) -> object:
    """What a template may write: text with nothing hidden in it, numbers, and markup; never 'None'."""
    if isinstance(value, Markup | Undefined):
        return value
    if value is None:
        raise TypeError("a template writes None")
    return visible(value) if isinstance(value, str) else value
