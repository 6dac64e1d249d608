"""What of a run's settings may leave the machine?  Everything but where things lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NOT_SENT = "(a path, not sent)"

# Keys that hold a place on this machine, whatever stands in them.
_PLACES = re.compile(r"(.+\.)?(paths\..+|root|path|images|labels|weights|address)")
# Absolute, of a home, of Windows, of a share, or out of the working directory; a relative name with a slash may be a
# finding ("Pneumonia/Viral") or a network ("hf-hub:timm/...").
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|file:|\.{1,2}[/\\]|.*[/\\]\.\.([/\\]|$)", re.DOTALL)


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with every path replaced by `NOT_SENT`; the same keys, plain types, nothing else changed.

    Args:
        settings: a plain dict, nested as in ``config.yaml``, or with dotted keys.
    """
    return {str(name): _shareable(str(name), value) for name, value in settings.items()}


def _shareable(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _shareable(f"{key}.{name}", each) for name, each in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if _PLACES.fullmatch(key):
        return NOT_SENT
    if isinstance(value, (list, tuple)):
        return [_shareable(f"{key}.", each) for each in value]
    return NOT_SENT if _PLACE.match(str(value)) else value
