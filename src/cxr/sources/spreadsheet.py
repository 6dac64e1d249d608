"""How is a table written so that a spreadsheet shows it, never runs it, and the very same text is read back?

File names and patient ids come from strangers, and a cell that begins with an equals sign is a program to whoever opens
the table ("CSV injection", OWASP).
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# A cell that begins so is a formula to spreadsheet programs, or becomes one when what is in front is cut off; the wide
# forms of the four signs are taken for them in East Asian settings.
_STARTS = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
# Where a cell may begin: at the start of a text, and, where a program divides cells at other signs than commas (as
# Excel does in some languages, at every semicolon outside of what it takes for quotation marks), within it. Apostrophes
# there get one more: else they could not be told from those that were put there.
_CELLS = re.compile(f"(\\A|[;\t\r\n])('*)(?=[{_STARTS}])")
_DEFUSED = re.compile(f"(\\A|[;\t\r\n])'('*)(?=[{_STARTS}])")


def defuse(text: str) -> str:
    """Text that a spreadsheet program does not run: an apostrophe in front of what begins like a formula."""
    return _CELLS.sub(r"\1'\2", text)


def restore(text: str) -> str:
    """What `defuse` was given; text that was never defused stays as it is, unless it looks as if it had been."""
    return _DEFUSED.sub(r"\1\2", text)


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV, its texts and headings defused; numbers stay numbers, also those that begin with a minus.

    Float32 has the nine digits that it needs to be read back exactly. An empty cell is empty.
    """
    safe = table.copy()
    for name in table.columns:
        kind = table[name].dtype
        if kind.kind not in "biufc":
            safe[name] = table[name].map(_defused, na_action="ignore")
        elif kind == "float32":
            safe[name] = [float(f"{number:.9g}") for number in table[name]]
    safe.columns = [defuse(str(name)) for name in table.columns]
    # Text always in quotes: a carriage return within a name would else end the row.
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


def restored(table: pd.DataFrame) -> pd.DataFrame:
    """The table that was given to `to_csv`, from one that was read as text; what is not text stays."""
    back = table.map(lambda cell: restore(cell) if isinstance(cell, str) else cell)
    back.columns = [restore(str(name)) for name in table.columns]
    return back


def _defused(cell: Any) -> Any:
    return defuse(cell) if isinstance(cell, str) else cell
