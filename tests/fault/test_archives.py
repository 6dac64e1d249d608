"""Is an archive from a stranger unpacked into its folder only, or refused before anything is written?"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from cxr.sources.archive import DamagedArchiveError, RefusedArchiveError, unpack

pytestmark = pytest.mark.fault

NOISE = np.random.default_rng(0).bytes(300_000)
CONTENT = {"metadata.csv": b"patientid\n1\n", "images/a.png": NOISE, "images/gr\u00f6\u00dfe, 1.png": b"b"}


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_zip(content: Mapping[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, body in content.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def zip_of(name: str, mode: int, body: bytes = b"/tmp") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, body)
    return buffer.getvalue()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0, **more: object
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def as_tar(*members: tarfile.TarInfo, body: bytes = b"", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain tar of these headers, each followed by as much of the body as it claims."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(body) if info.size else None)
    return buffer.getvalue()


def tar_with(content: Mapping[str, bytes], top: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if top:
            archive.addfile(member(top, tarfile.DIRTYPE))
        for name, body in content.items():
            archive.addfile(member(f"{top}/{name}" if top else name, size=len(body)), io.BytesIO(body))
    return buffer.getvalue()


def many_members() -> bytes:
    block = as_tar(member("a"))[:512]
    return gzip.compress(block * 300_000 + bytes(1024), 1)


def negative() -> bytes:
    """A header whose size leads back to itself."""
    block = bytearray(as_tar(member("a", size=1), body=b"x")[:512])
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(2048)


def long_header() -> bytes:
    """What it says of its one member unfolds to 200 MB."""
    return gzip.compress(as_tar(member("a", pax_headers={"comment": "x" * (200 << 20)})), 1)


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", "two")
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(as_zip({"a": b"x"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


# What the archive is, and a word of the refusal.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip: above": (lambda: as_zip({"../planted": b"x"}), "leads out"),
    "zip: above, later": (lambda: as_zip({"a/../../planted": b"x"}), "leads out"),
    "zip: absolute": (lambda: as_zip({"/tmp/planted": b"x"}), "leads out"),
    "zip: a drive": (lambda: as_zip({"C:/planted": b"x"}), "leads out"),
    "zip: a drive below the top": (lambda: as_zip({"top/C:/planted": b"x"}), "leads out"),
    "zip: backslashes": (lambda: as_zip({"..\\planted": b"x"}), "leads out"),
    "zip: a NUL in the name": (lambda: as_zip({"planted_a": b"x"}).replace(b"planted_a", b"planted\0a"), "leads out"),
    "zip: a link": (lambda: zip_of("images", stat.S_IFLNK | 0o777), "a link or a device"),
    "zip: a device": (lambda: zip_of("images", stat.S_IFBLK | 0o666), "a link or a device"),
    "zip: a pipe": (lambda: zip_of("images", stat.S_IFIFO | 0o666), "a link or a device"),
    "zip: encrypted": (encrypted, "encrypted"),
    "zip: one name twice": (twice, "stands twice"),
    "zip: a file that is a folder": (lambda: as_zip({"a": b"x", "a/b": b"x"}), "both a file"),
    "zip: a bomb": (lambda: as_zip({"planted": bytes(50_000_000)}), "unfold"),
    "zip: a bomb of many": (lambda: as_zip({f"{number}": bytes(500_000) for number in range(100)}), "unfold"),
    "zip: packed by LZMA": (lambda: as_zip({"a": b"x"}, zipfile.ZIP_LZMA), "another way"),
    "tar: above": (lambda: as_tar(member("../planted")), "leads out"),
    "tar: absolute": (lambda: as_tar(member("/tmp/planted")), "leads out"),
    "tar: a folder above": (lambda: as_tar(member("../planted", tarfile.DIRTYPE)), "leads out"),
    "tar: backslashes": (lambda: as_tar(member("..\\planted")), "leads out"),
    "tar: a link": (lambda: as_tar(member("a", tarfile.SYMTYPE, "/tmp")), "a link or a device"),
    "tar: a link within": (lambda: as_tar(member("a"), member("b", tarfile.SYMTYPE, "a")), "a link or a device"),
    "tar: a hard link": (lambda: as_tar(member("a", tarfile.LNKTYPE, "/etc/passwd")), "a link or a device"),
    "tar: through a link": (
        lambda: as_tar(member("a", tarfile.SYMTYPE, "/tmp"), member("a/planted")),
        "a link or a device",
    ),
    "tar: a character device": (lambda: as_tar(member("a", tarfile.CHRTYPE)), "a link or a device"),
    "tar: a block device": (lambda: as_tar(member("a", tarfile.BLKTYPE)), "a link or a device"),
    "tar: a pipe": (lambda: as_tar(member("a", tarfile.FIFOTYPE)), "a link or a device"),
    "tar: one name twice": (lambda: as_tar(member("a"), member("./a")), "stands twice"),
    "tar: a file that is a folder": (lambda: as_tar(member("a"), member("a/b")), "both a file"),
    "tar.gz: a bomb": (lambda: gzip.compress(tar_with({"planted": bytes(50_000_000)}), 1), "unfold"),
    "tar.bz2: a bomb": (lambda: bz2.compress(tar_with({"planted": bytes(50_000_000)})), "unfold"),
    "tar.gz: too many": (many_members, "stands twice|unfold"),
    "tar.gz: a header of 200 MB": (long_header, "a header of"),
    "tar: a size below nothing": (negative, "below nothing"),
    "nothing that is asked for": (lambda: as_zip({"something.csv": b"x"}), "it holds no metadata.csv"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_unsafe_archive_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    make, words = HOSTILE[name]
    archive = tmp_path / "deep" / "archive"
    archive.parent.mkdir()
    archive.write_bytes(make())
    required = "metadata.csv" if name.startswith("nothing") else None
    with pytest.raises(RefusedArchiveError, match=words):
        unpack(archive, tmp_path / "deep" / "unpacked", required=required, tell=lambda done, total: None)
    assert set(files_in(tmp_path)) == {"deep/archive"}
    assert not (tmp_path / "deep" / "unpacked").exists()


WHOLE = {
    "zip": as_zip(CONTENT),
    "zip, stored": as_zip(CONTENT, zipfile.ZIP_STORED),
    "tar": tar_with(CONTENT),
    "tar.gz": gzip.compress(tar_with(CONTENT, top="top")),
    "tar.bz2": bz2.compress(tar_with(CONTENT, top="top")),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_harmless_archive_is_unpacked_whole(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(WHOLE[kind])
    told: list[tuple[int, int]] = []
    unpack(
        tmp_path / "archive",
        tmp_path / "unpacked",
        required="metadata.csv",
        tell=lambda done, total: told.append((done, total)),
    )
    assert files_in(tmp_path / "unpacked") == CONTENT
    size = sum(map(len, CONTENT.values()))
    assert told[-1] == (size, size)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_an_archive_that_is_cut_off_is_never_taken_for_a_shorter_one(tmp_path: Path, kind: str, part: float) -> None:
    content = WHOLE[kind]
    (tmp_path / "archive").write_bytes(content[: int(part * len(content))])
    with pytest.raises(DamagedArchiveError):
        unpack(tmp_path / "archive", tmp_path / "unpacked", required=None, tell=lambda done, total: None)


@pytest.mark.parametrize("kind", ["zip", "zip, stored", "tar.gz", "tar.bz2"])
def test_a_flipped_bit_is_found(tmp_path: Path, kind: str) -> None:
    content = bytearray(WHOLE[kind])
    content[len(content) // 2] ^= 16
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DamagedArchiveError):
        unpack(tmp_path / "archive", tmp_path / "unpacked", required=None, tell=lambda done, total: None)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", NOISE, lzma.compress(WHOLE["tar"])],
    ids=["empty", "page", "noise", "xz"],
)
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DamagedArchiveError):
        unpack(tmp_path / "archive", tmp_path / "unpacked", required=None, tell=lambda done, total: None)


PROGRAM = """
import sys
from pathlib import Path
from cxr.sources.archive import RefusedArchiveError, unpack

def in_kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

start = in_kilobytes("VmRSS")
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), required=None, tell=lambda done, total: None)
except RefusedArchiveError:
    print(1024 * (in_kilobytes("VmHWM") - start))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc")
def test_a_header_that_unfolds_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(long_header())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "archive"), str(tmp_path / "unpacked")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 50_000_000
