"""DICOM files as tests need them, written by pydicom."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pydicom.config
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)


def dataset(pixels: NDArray[Any], syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A radiograph.

    Args:
        pixels: (H, W) or (H, W, 3), 8 or 16 bits, signed or not.
        syntax: transfer syntax, uncompressed.
        elements: further ones, which outweigh those of the pixels; None leaves one out.
    """
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    found.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    bits = 8 * pixels.dtype.itemsize
    given = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": found.file_meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(),
        "Modality": "DX",
        "PatientID": "0007",
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes(),
    }
    if pixels.ndim == 3:
        given["PlanarConfiguration"] = 0
    given |= elements
    given.setdefault("HighBit", given["BitsStored"] - 1)
    with pydicom.config.disable_value_validation():  # the header of a file need not be right
        for keyword, value in given.items():
            if value is not None:
                setattr(found, keyword, value)
    if "PixelData" in found:
        found["PixelData"].VR = "OB" if bits == 8 and not syntax.is_implicit_VR else "OW"
    return found


def content(found: Dataset) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    with pydicom.config.disable_value_validation():
        found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels: NDArray[Any], syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """The bytes of a DICOM file, see `dataset`."""
    return content(dataset(pixels, syntax, **elements))


def compressed(pixels: NDArray[Any], syntax: UID, plugin: str = "", **elements: Any) -> bytes:
    """The bytes of a file whose pixels pydicom compresses."""
    found = dataset(pixels, **elements)
    found.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return content(found)


def with_stream(stream: bytes, pixels: NDArray[Any], syntax: UID, **elements: Any) -> bytes:
    """The bytes of a file that says it holds ``pixels``, and holds a compressed stream."""
    found = dataset(pixels, **elements)
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = encapsulate([stream])
    found["PixelData"].VR = "OB"
    return content(found)


def jpeg(pixels: NDArray[np.uint8], **elements: Any) -> bytes:
    """The bytes of a file with a JPEG of Pillow's."""
    return with_stream(jpeg_stream(pixels), pixels, JPEGBaseline8Bit, **elements)


def jpeg_stream(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def lookup_table(first: int, entries: NDArray[np.uint16], bits: int) -> Sequence:
    """A sequence with one table."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def deflated(data_set: bytes) -> bytes:
    """The bytes of a deflated file whose data set is given, whatever that is."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    whole = dicom(np.zeros((2, 2), np.uint8))
    start = whole.index(b"\x08\x00\x16\x00UI")
    meta = whole[:start].replace(_uid_element(ExplicitVRLittleEndian), _uid_element(DeflatedExplicitVRLittleEndian))
    grown = len(_uid_element(DeflatedExplicitVRLittleEndian)) - len(_uid_element(ExplicitVRLittleEndian))
    length = int.from_bytes(meta[140:144], "little") + grown
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return meta[:140] + length.to_bytes(4, "little") + meta[144:] + packer.compress(data_set) + packer.flush()


def _uid_element(uid: UID) -> bytes:
    text = str(uid).encode()
    text += b"\0" * (len(text) % 2)
    return b"\x02\x00\x10\x00UI" + len(text).to_bytes(2, "little") + text
