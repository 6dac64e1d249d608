"""Checkpoints that somebody made to do harm, from one that is good."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Content = dict[str, Any]
GIB = 2**30


class Trap:
    """Unpickled, it touches a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


class Foreign:
    """A class that only its own program has."""


@dataclass(frozen=True)
class Hostile:
    """How to make one.

    Args:
        name: of the case.
        write: writes the file, from the content of a good checkpoint; the last argument is a file that must not be.
    """

    name: str
    write: Callable[[Content, Path, Path], None]


def _edited(edit: Callable[[Content, Path], object]) -> Callable[[Content, Path, Path], None]:
    def write(content: Content, path: Path, victim: Path) -> None:
        edit(content, victim)
        torch.save(content, path)

    return write


def _first(content: Content) -> str:
    return next(name for name in content["state_dict"] if name.endswith("weight"))


def _tensor(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Content, Path, Path], None]:
    """One tensor of the network is another."""

    def edit(content: Content, victim: Path) -> None:
        name = _first(content)
        content["state_dict"][name] = make(content["state_dict"][name])

    return _edited(edit)


def _parameters(**values: Any) -> Callable[[Content, Path, Path], None]:
    return _edited(lambda content, victim: content["hyper_parameters"].update(values))


def archive(path: Path, members: list[tuple[str, bytes]], *, packed: bool = False) -> None:
    """An archive as torch writes it, of any members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, data in members:
            file.writestr(f"archive/{name}", data)


def of_pickle(pickled: bytes, *, packed: bool = False) -> Callable[[Content, Path, Path], None]:
    """A checkpoint that is this pickle, and a storage of four bytes beside it."""

    def write(content: Content, path: Path, victim: Path) -> None:
        members = [("data.pkl", pickled), ("byteorder", b"little"), ("data/0", b"\0" * 64), ("version", b"3\n")]
        archive(path, members, packed=packed)

    return write


def _called(name: bytes, argument: bytes) -> bytes:
    """A pickle that calls a class with one argument."""
    return b"\x80\x02c" + name + b"\n" + argument + b"\x85R."


def _number(value: int) -> bytes:
    data = value.to_bytes(8, "little")
    return b"\x8a" + bytes([len(data)]) + data


def _copies() -> bytes:
    """A list that is written once, and a thousand dictionaries made of it: hundreds of times the size of the file."""
    pairs = b"".join(b"J" + struct.pack("<i", n) + b"N\x86" for n in range(20_000))
    named = b"ccollections\nOrderedDict\nq\x00"
    return b"\x80\x02" + named + b"](" + pairs + b"eq\x01](" + b"h\x00h\x01\x85R" * 4000 + b"e."


def _storage_of(count: int) -> bytes:
    """A tensor of so many numbers, of a storage that the file says to be as long."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + _number(count)
        + b"tQ"
    )
    shape, stride = _number(count) + b"\x85", b"K\x01\x85"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + shape
        + stride
        + b"\x89"
        + b"ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}(X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00a" + tensor + b"su."


def _twice(content: Content, path: Path, victim: Path) -> None:
    torch.save(content, path)
    with zipfile.ZipFile(path) as file:
        folder = file.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"{folder}/data.pkl", pickle.dumps(Trap(victim), protocol=2))


def _packed(content: Content, path: Path, victim: Path) -> None:
    """The good one, each member packed: a word of it could be a gigabyte."""
    good = path.with_suffix(".good")
    torch.save(content, good)
    with zipfile.ZipFile(good) as file, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in file.namelist():
            packed.writestr(name, file.read(name))
    good.unlink()


CODE = [
    Hostile("a pickle", lambda content, path, victim: path.write_bytes(pickle.dumps(Trap(victim))) and None),
    Hostile("code beside the weights", _edited(lambda content, victim: content.update(note=Trap(victim)))),
    Hostile("code for a tensor", _edited(lambda content, victim: content["state_dict"].update(a=Trap(victim)))),
    Hostile(
        "code deep in a setting",
        _edited(lambda content, victim: content["hyper_parameters"]["loss"].update(a=[{"b": Trap(victim)}])),
    ),
    Hostile(
        "code in the format of old",
        lambda content, path, victim: torch.save(
            {**content, "note": Trap(victim)}, path, _use_new_zipfile_serialization=False
        ),
    ),
    Hostile("code in a second data.pkl", _twice),
    Hostile("a class of another program", _edited(lambda content, victim: content.update(note=Foreign()))),
    Hostile("a class of Python's", _edited(lambda content, victim: content.update(args=argparse.Namespace(a=1)))),
    Hostile("an array of numpy", _edited(lambda content, victim: content.update(note=np.arange(3)))),
    Hostile("a whole module", _edited(lambda content, victim: content.update(model=torch.nn.Linear(1, 1)))),
]
SETTINGS = [
    Hostile(
        "a function that is to be called",
        _parameters(_instantiator="os.system", _class_path="cxr.training.module.CXRModule"),
    ),
    Hostile("a setting that cxr does not have", _parameters(_target_="os.system")),
    Hostile("a network of the hub", _parameters(backbone="hf-hub:evil/model")),
    Hostile("a network in a folder", _parameters(backbone="local-dir:/tmp/evil")),
    Hostile("a network that is a path", _parameters(backbone="../../evil")),
    Hostile("a network that is no text", _parameters(backbone=["resnet10t"])),
    Hostile("a head of its own", _parameters(head="os.system")),
    Hostile("an absurd image size", _parameters(image_size=10**9)),
    Hostile("a million classes", _parameters(class_names=[str(n) for n in range(10**6)])),
    Hostile("a class that rewrites the line", _parameters(class_names=["covid", "\x1b[2Kfine"])),
    Hostile("a setting in itself", _edited(lambda content, victim: _knot(content["hyper_parameters"]))),
    Hostile("no settings", _edited(lambda content, victim: content.update(hyper_parameters=None))),
    Hostile(
        "a split of tensors",
        _edited(lambda content, victim: content["CXRDataModule"].update(split={"image": torch.zeros(3)})),
    ),
    Hostile(
        "a split of unequal columns",
        _edited(lambda content, victim: content["CXRDataModule"]["split"]["image"].pop()),
    ),
    Hostile("an epoch that is no number", _edited(lambda content, victim: content.update(epoch="1"))),
]
TENSORS = [
    Hostile("a tensor too few", _edited(lambda content, victim: content["state_dict"].pop(_first(content)))),
    Hostile(
        "a tensor too many",
        _edited(lambda content, victim: content["state_dict"].update({"network.evil": torch.ones(2)})),
    ),
    Hostile(
        "a tensor of another name",
        _edited(
            lambda content, victim: content["state_dict"].update(
                {"network.a\nb": content["state_dict"].pop(_first(content))}
            )
        ),
    ),
    Hostile("another shape", _tensor(lambda tensor: tensor[:1].clone())),
    Hostile("as many numbers in another shape", _tensor(lambda tensor: tensor.reshape(-1).clone())),
    Hostile("whole numbers", _tensor(lambda tensor: tensor.to(torch.int8))),
    Hostile("complex numbers", _tensor(lambda tensor: tensor.to(torch.complex64))),
    Hostile("a number that is none", _tensor(lambda tensor: tensor.clone().fill_(float("nan")))),
    Hostile(
        "an infinite number", _tensor(lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), float("inf")))
    ),
    Hostile(
        "one number for all",
        _tensor(lambda tensor: tensor.reshape(-1)[:1].clone().expand(tensor.numel()).view(tensor.shape)),
    ),
    Hostile("a sparse tensor", _tensor(lambda tensor: tensor.to_sparse())),
    Hostile("a tensor without memory", _tensor(lambda tensor: tensor.to("meta"))),
    Hostile(
        "a text for a tensor", _edited(lambda content, victim: content["state_dict"].update({_first(content): "a"}))
    ),
    Hostile("no state dict", _edited(lambda content, victim: content.update(state_dict=[1]))),
]
# What takes memory: each would take gigabytes, and a loader that is only careful about code lets it.
BOMBS = [
    Hostile("a terabyte of one number", _tensor(lambda tensor: torch.zeros(1).expand(2**38))),
    Hostile("a storage longer than the file", of_pickle(_storage_of(2**34))),
    Hostile("bytes at a word", of_pickle(_called(b"__builtin__\nbytearray", _number(4 * GIB)))),
    Hostile("a tensor at a word", of_pickle(_called(b"torch\nFloatTensor", _number(GIB)))),
    Hostile("one list a thousand times", of_pickle(_copies())),
    Hostile("packed zeros", of_pickle(b"\x80\x02" + b"]" * (64 * 2**20) + b".", packed=True)),
    Hostile("the good one, packed", _packed),
]


def _knot(parameters: dict[str, Any]) -> None:
    parameters["schedule"]["itself"] = parameters["schedule"]
