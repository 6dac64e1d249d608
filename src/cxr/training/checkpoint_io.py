"""How does a checkpoint come to stand on the disk whole, and is one that lies there still what was written?"""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from cxr.errors import CheckpointError, DivergedError
from cxr.files import UNFINISHED

# What a checkpoint holds of numbers that training goes on with, or that are evaluated.
_LEARNED = ("state_dict", "current_model_state", "optimizer_states")


class DurableCheckpointIO(TorchCheckpointIO):
    """Write beside the target, flush to the disk, read back and check, then rename.

    A run that is killed, or finds the disk full, keeps the checkpoint that it had. Lightning's own way writes over
    ``best.ckpt`` itself, or moves it from another file system, and does not flush.

    Args:
        previous: name of a file -> the name under which the one that it replaces is kept, in the same folder.
    """

    def __init__(self, previous: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._previous = dict(previous or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            DivergedError: a weight, or a number of the optimiser, is not finite; nothing is written.
            CheckpointError: the disk is full or broken; what stood there before still does.
        """
        target = Path(path)
        _require_finite(checkpoint, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary: Path | None = None
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=UNFINISHED)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                stream = _Noting(file)
                try:
                    torch.save(checkpoint, cast("IO[bytes]", stream))
                except RuntimeError:
                    # What a stream raises may reach us as a complaint of the writer about its position.
                    if stream.error is not None:
                        raise stream.error from None
                    raise
                file.flush()
                os.fsync(file.fileno())
            require_whole(temporary)
            temporary.chmod(0o644)
            if target.name in self._previous and target.exists():
                target.replace(target.with_name(self._previous[target.name]))
            temporary.replace(target)
            _sync_folder(target.parent)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise CheckpointError(
                    f"{target}: cannot be written ({_in_words(error)}); what was saved before is kept: make room, and "
                    "go on with resume=<run>"
                ) from error
            raise


def require_whole(path: Path) -> None:
    """Read a checkpoint from end to end and hold every part against its checksum.

    The file is a zip archive with a CRC-32 of each part, which `torch.load` leaves unread: a flipped bit in a weight
    would be taken for the weight.

    Raises:
        CheckpointError: the file was cut off or damaged, or is no checkpoint.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is None:  # the two readers do not look at the same parts of the directory
            torch._C.PyTorchFileReader(str(path))
    except OSError:
        raise
    except Exception as error:  # what bits may do to the reader of the directory has no common exception
        raise CheckpointError(f"{path}: is damaged ({' '.join(str(error).split())[:160]})") from None
    if broken is not None:
        raise CheckpointError(f"{path}: is damaged (the checksum of its part {broken!r} does not hold)")


class _Noting:
    """A stream that remembers what it raised: the writer of torch may hide it behind an error of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written: int = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        return written

    def flush(self) -> None:
        self._file.flush()


def _require_finite(checkpoint: Mapping[str, Any], target: Path) -> None:
    """Refuse numbers that are not finite: they must not take the place of good ones.

    One look for all tensors, so that a GPU is waited for once.
    """
    names, verdicts = [], []
    for name, tensor in _tensors({key: checkpoint[key] for key in _LEARNED if key in checkpoint}):
        if tensor.is_floating_point() and tensor.numel():
            names.append(name)
            verdicts.append(torch.stack(torch.aminmax(tensor.detach())).isfinite().all().view(1))  # NaN is handed on
    devices = {verdict.device for verdict in verdicts}
    together = verdicts if len(devices) < 2 else [verdict.cpu() for verdict in verdicts]
    if not together or bool((finite := torch.cat(together)).all()):
        return
    broken = [names[place] for place in (~finite).nonzero().flatten().tolist()]
    raise DivergedError(
        f"{len(broken)} of {len(names)} tensors are not finite after epoch {checkpoint.get('epoch')} (first: "
        f"{broken[0]}); {target.name} keeps what it held; lower optimizer.lr"
    )


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for key, value in enumerate(content):
            yield from _tensors(value, f"{name}.{key}")


def _sync_folder(folder: Path) -> None:
    """Let a rename outlast a power cut, too."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have nothing to flush
            raise
    finally:
        os.close(handle)


def _in_words(error: OSError) -> str:
    return error.strerror or type(error).__name__
