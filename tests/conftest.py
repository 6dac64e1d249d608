"""What all tests share."""

from __future__ import annotations

import os

# Many tests start the programs as processes of their own.  Without byte code each of them would compile torch, timm and
# Lightning anew, which takes longer than all the rest.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
