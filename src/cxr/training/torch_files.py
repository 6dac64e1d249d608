"""What does a file that torch wrote hold?  It may come from anybody: none of it is run, and nothing of it allocated.

Three walls, each before the next: the archive (every member as it is, none packed, each with its checksum), the pickle
in it (an allow-list of names and instructions, read without executing any), and torch's own weights-only loader, asked
for by name because an environment variable turns its default off.  The tensors stay on the disk until somebody has
looked at their shapes.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cxr.errors import CheckpointError
from cxr.training.checkpoint_io import require_whole
from cxr.training.given_path import is_file

# A pickle holds the split and the settings: some 300 bytes, and 600 of memory, for an image.
_MAX_PICKLE = 512 * 2**20
_MAX_MEMORY = 2**30
_MAX_OTHER = 2**20  # version, byte order and the like
_MAX_BUILDS = 64  # a state dict has one, with the versions of its modules

_DICT = "collections OrderedDict"
_TENSOR_TYPES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = frozenset(
    {
        _DICT,
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {name}Storage" for name in _TENSOR_TYPES),
    }
)
# What the weights-only loader knows, without what makes objects of other kinds.
_INSTRUCTIONS = frozenset(
    [
        "PROTO",
        "STOP",
        "MARK",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWFALSE",
        "NEWTRUE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "LONG1",
        "BINPERSID",
        "REDUCE",
        "BUILD",
    ]
)
# What an instruction may take of memory, bytes: an empty list is one byte of a file.
_COSTS = dict.fromkeys(("MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT", "REDUCE"), 120)
_COST, _COST_OF_TEXT = 40, 60
_PUTS, _GETS = frozenset({"BINPUT", "LONG_BINPUT"}), frozenset({"BINGET", "LONG_BINGET"})
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, names of the storages


def read_torch_file(path: Path, refusal: str = "") -> Any:
    """The content of a checkpoint or a saved state dict; its tensors are mapped, not read.

    A file of the format before torch 1.6 is read, too, its tensors into memory.

    Args:
        path: the file.
        refusal: how the message begins; '': the path, and that it is no checkpoint of cxr.

    Raises:
        CheckpointError: not a file, damaged, or holding anything but plain values and tensors; one line.
    """
    if not is_file(path):
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            archive = zipfile.is_zipfile(file)
            file.seek(0)
            if archive:
                _require_plain_archive(file)
                require_whole(path)
            else:
                for _ in range(_LEGACY_PICKLES):
                    _require_plain_pickle(file)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except Exception as error:  # the zip reader, the unpickler and torch's reader have no common exception
        refusal = refusal or f"{path} is damaged or no checkpoint of cxr"
        raise CheckpointError(f"{refusal} ({one_line(error)})") from error


def require_state(path: str | Path, state: object, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict, once they are known to be those of a network, and all their numbers finite.

    Args:
        path: named in the message.
        state: of a file, from `read_torch_file`.
        expected: name -> a tensor of this shape and type, which may be without memory.

    Raises:
        CheckpointError: another table; a tensor that is missing, unknown, of another shape or kind, or not finite.
    """
    tensors = require_tensors(path, state)
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path}: not of this network: {len(missing)} tensors missing, {len(unknown)} unknown (the first is "
            f"{ascii((missing or unknown)[0])[:80]})"
        )
    for name, own in expected.items():
        given = tensors[name]
        if given.shape != own.shape:
            raise CheckpointError(f"{path}: {name} has the shape {list(given.shape)}, not {list(own.shape)}")
        require_kind(path, name, given, own)
    for name, tensor in tensors.items():
        require_finite(path, name, tensor)
    return tensors


def require_tensors(path: str | Path, state: object) -> dict[str, Tensor]:
    """A table of plain tensors, each with memory of its own in the file: none is larger than the file.

    Raises:
        CheckpointError: anything else.
    """
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: holds no state dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: holds no state dict ({ascii(name)[:80]} is no tensor)")
        # A stride of 0 makes a terabyte of four bytes.
        if tensor.layout != torch.strided or tensor.is_meta or _size(tensor) > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {ascii(name)[:80]} is no tensor with memory of its own")
    return state


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def require_kind(path: str | Path, name: str, given: Tensor, own: Tensor) -> None:
    """
    Raises:
        CheckpointError: its numbers are of another kind than those of the network's own.
    """
    # Half precision is what a training may save; a number of another kind is a mistake or a trick.
    if given.dtype != own.dtype and not (given.is_floating_point() and own.is_floating_point()):
        raise CheckpointError(f"{path}: {name} is {given.dtype}, not {own.dtype}")


def require_finite(path: str | Path, name: str, tensor: Tensor) -> None:
    """
    Raises:
        CheckpointError: a number is not finite.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: {ascii(name)[1:-1][:80]} holds numbers that are not finite")


def one_line(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _require_plain_archive(file: IO[bytes]) -> None:
    """
    Raises:
        ValueError: a member that is packed, twice there, or of a size that no checkpoint has.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.partition("/")[2] for member in members]
        if len(set(names)) < len(names) or names.count("data.pkl") != 1:
            raise ValueError("not exactly one data.pkl, or a member twice")
        for member, name in zip(members, names, strict=True):
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{ascii(name)[:80]} is packed, as torch packs nothing")
            limit = _MAX_PICKLE if name == "data.pkl" else _MAX_OTHER
            if not name.startswith("data/") and member.file_size > limit:
                raise ValueError(f"{ascii(name)[:80]} has {member.file_size:,} bytes, more than {limit:,}")
        with archive.open(members[names.index("data.pkl")]) as pickled:
            _require_plain_pickle(io.BytesIO(pickled.read()))


def _require_plain_pickle(file: IO[bytes]) -> None:
    """Read the instructions of one pickle, without following any, and hold each against what a checkpoint needs.

    The weights-only loader allows more: ``bytearray`` and ``Tensor`` take memory at a word, and an ``OrderedDict`` of
    a list that was written once takes it as often as it is called. Here the class may only be called for an empty one.

    Raises:
        ValueError: anything else.
    """
    dictionaries: set[int] = set()  # places of the memo that hold the class
    on_top = ""  # "class", then "arguments", while a dictionary is being made
    builds = memory = 0
    for instruction, argument, _ in pickletools.genops(file):
        name = instruction.name
        memory += _COST_OF_TEXT + len(argument) if isinstance(argument, (str, bytes)) else _COSTS.get(name, _COST)
        if name in _PUTS:
            assert isinstance(argument, int)
            (dictionaries.add if on_top == "class" else dictionaries.discard)(argument)
        elif on_top == "class":
            if name != "EMPTY_TUPLE":
                raise ValueError("a dictionary that is made of something")
            on_top = "arguments"
        elif on_top == "arguments":
            if name != "REDUCE":
                raise ValueError("a dictionary that is not made")
            on_top = ""
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise ValueError(f"it asks for {ascii(argument)[1:-1][:80]}, which no checkpoint needs")
            on_top = "class" if argument == _DICT else ""
        elif name in _GETS:
            on_top = "class" if argument in dictionaries else ""
        elif name not in _INSTRUCTIONS:
            raise ValueError(f"its pickle has the instruction {name}, which no checkpoint needs")
        builds += name == "BUILD"
        if builds > _MAX_BUILDS or memory > _MAX_MEMORY:
            raise ValueError("its pickle makes more objects than a checkpoint has")
