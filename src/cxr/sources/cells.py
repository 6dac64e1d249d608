"""What do the cells of a metadata table mean?  Encodings, views, sexes and image files, as the world writes them."""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import Final

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
# Files of many slices: radiographs they are not, whatever one of their slices shows.
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".img", ".hdr")
_YEARS_PER: Final = {"": 1.0, "y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def decode(content: bytes) -> str:
    """Text of a table that is UTF-8 (with or without its mark), UTF-16 or UTF-32 with its mark, or Windows-1252."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the mark of UTF-16 is the beginning of one
        return content.decode("utf-32")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Five bytes have no meaning in Windows-1252; they must not make a table of 900 rows unreadable.
        return content.decode("cp1252", errors="replace")


def composed(text: str) -> str:
    """Text with its accents as part of their letters (NFC): two spellings that no one can tell apart are one name."""
    return unicodedata.normalize("NFC", text)


def spellings(name: str) -> list[str]:
    """A file name as it is written, and as the file may be called on disk.

    Without the blanks around it, and with accents as part of their letters or apart (NFC, NFD): macOS takes names
    apart, and whoever copies them to another system brings files that a table spells otherwise.
    """
    written = dict.fromkeys((name, name.strip()))
    if name.isascii():
        return list(written)
    return list(
        written | dict.fromkeys(unicodedata.normalize(form, text) for text in written for form in ("NFC", "NFD"))
    )


def parse_age(text: str) -> float | None:
    """Years: '45', '45.0', '50+', and the age strings of DICOM ('045Y', '018M', '012W', '003D')."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?", text.casefold())
    years = float(match[1]) * _YEARS_PER[match[2]] if match else None
    return years if years is not None and years <= 120 else None
