"""What do the cells of a metadata table mean?  Encodings, views, sexes and image files, as the world writes them."""

from __future__ import annotations

import codecs

# As written (folded) -> the name that the manifest uses.
VIEWS = {
    "pa": "PA",
    "ap": "AP",
    "ap supine": "AP Supine",
    "aps": "AP Supine",
    "ap erect": "AP Erect",
    "ap semi erect": "AP Semi Erect",
    "l": "L",
    "lateral": "L",
    "axial": "Axial",
    "coronal": "Coronal",
    "ct": "CT",
}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp")
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def decode(content: bytes) -> str:
    """Text of a table that is UTF-8 (with or without its mark), UTF-16 with its mark, or Windows-1252."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Five bytes have no meaning in Windows-1252; they must not make a table of 900 rows unreadable.
        return content.decode("cp1252", errors="replace")
