"""How does a name of a file, or an id, tell whose picture it is?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from cxr.errors import ConfigurationError

# The name of a file, without its suffix, -> its patient.
PATIENT_PATTERNS: Final = {
    # NIH ChestX-ray14 (Wang et al. 2017): 00003847_002 is the third image of a patient.
    "nih": r"(\d{8})_\d{3}",
    # Kermany et al. (2018), paediatric. The numbers of person12_bacteria_47 and person12_virus_47 are counted per
    # kind: no number together with its kind stands on both sides of the collection's own train and test folders, while
    # 170 bare numbers do, each with different kinds. IM-0115 and NORMAL2-IM-0115 are two series as well.
    "paediatric": r"(person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+|(?:BACTERIA|VIRUS|NORMAL)-\d+)(?:[_-]\d+){1,2}",
}


def compile_patient_pattern(source: str, option: str, pattern: str, known: Sequence[str] = ()) -> re.Pattern[str]:
    """A user's regular expression whose first group is the patient.

    Args:
        source: name of the source entry, for the errors.
        option: the option that was given.
        pattern: its value.
        known: words that the option might have been meant to be.

    Raises:
        ConfigurationError: the pattern is no regular expression, or has no group.
    """
    place = f"source {source!r}: {option}={pattern!r}"
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        words = f"neither {', '.join(known)} nor a" if known else "not a"
        raise ConfigurationError(f"{place} is {words} regular expression: {error}") from error
    if compiled.groups < 1:
        nearest = difflib.get_close_matches(pattern, known, n=1, cutoff=0.6)
        hint = f"did you mean {nearest[0]!r}?" if nearest else r"put the patient in brackets, as in '(\d+)_\d+'"
        raise ConfigurationError(f"{place} is a regular expression without a group; {hint}")
    return compiled
