"""Which files of a run go to W&B?  Its split under keyed hashes, and its weights; no patient, no file name, no path."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from pytorch_lightning.loggers import Logger, WandbLogger

from cxr.sources.spreadsheet import to_csv
from cxr.training.checkpoint_io import require_whole
from cxr.training.tracked_run import TrackedRun

LOG_MODELS = ("best", "all", "none")
_KEY_FILE = "split_key"


def log_split(logger: Logger | None, records: pd.DataFrame, folder: Path) -> None:
    """Log the split as the artifact ``split-<run id>`` of type ``split``: which image stands where, and its label.

    An image is named by the HMAC-SHA256 [1] of the sha256 of its file. The key is made at random, once for the folder,
    and stays there: who does not hold it cannot tell, not even from a public collection, which image is meant. The
    jobs of a sweep share the folder, so that their splits can be compared. The rows are sorted by that name; patients
    and groups are left out.

    Args:
        logger: from `cxr.training.tracking.build_logger`; nothing is done unless it is W&B.
        records: columns sha256, split and label.
        folder: the ``tracking_dir`` that the logger was given; holds the key.

    References:
        [1] Krawczyk, Bellare and Canetti (1997), HMAC: Keyed-Hashing for Message Authentication, RFC 2104.
    """
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    table = hashed_split(records, split_key(folder))
    counts = table.groupby("split")["key"].count()
    artifact = wandb.Artifact(
        f"split-{logger.experiment.id}",
        type="split",
        description="Keyed hash of every image, its split and its label; the key stays with the run.",
        metadata={str(name): int(count) for name, count in counts.items()},
    )
    with artifact.new_file("split.csv", encoding="utf-8") as file:
        file.write(to_csv(table))
    logger.experiment.log_artifact(artifact, aliases=["latest"])


def hashed_split(records: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Columns key (64 hex digits), split and label, sorted by key: the same records in any order give the same table.

    Args:
        records: columns sha256, split and label; records that stand in no split are left out.
        key: secret, of any length.
    """
    kept = records[records["split"].notna()]
    names = [hmac.new(key, str(digest).encode(), hashlib.sha256).hexdigest() for digest in kept["sha256"]]
    table = pd.DataFrame({"key": names, "split": kept["split"].to_numpy(), "label": kept["label"].to_numpy()})
    return table.sort_values(["key", "split"], ignore_index=True)


def split_key(folder: Path) -> bytes:
    """The key of a folder, 32 bytes, made at its first use; only its owner can read the file."""
    path = folder / _KEY_FILE
    try:
        # Whole or not at all, and the same for all jobs of a sweep that come at once.
        draft = folder / f".{_KEY_FILE}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32) + "\n", encoding="utf-8")
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    return bytes.fromhex(path.read_text(encoding="utf-8").strip())


def log_model(
    logger: Logger | None,
    folder: Path,
    checkpoints: Mapping[str, Path],
    *,
    metrics: Mapping[str, float],
) -> None:
    """Log the weights as versions of the artifact ``model-<run id>``, of type ``model``.

    A checkpoint holds the split with file names and patient groups, so it is not sent: the artifact has
    ``weights.safetensors``, which ``model.weights`` takes, and ``model.json``, which says what they are weights of. The
    files lie in ``<folder>/models/<run id>`` and are read from there when they are sent; W&B makes no copy of them.

    Args:
        logger: from `cxr.training.tracking.build_logger`; nothing is done unless it is W&B.
        folder: the ``tracking_dir`` that the logger was given.
        checkpoints: alias -> file, in the order in which they become versions; those of one epoch become one version.
        metrics: of the best epoch, for its description.
    """
    if not isinstance(logger, WandbLogger):
        return
    run_id = logger.experiment.id
    by_epoch: dict[int, tuple[dict[str, Any], list[str]]] = {}
    for alias, path in checkpoints.items():
        require_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        by_epoch.setdefault(int(content["epoch"]), (content, []))[1].append(alias)
    for epoch, (content, aliases) in by_epoch.items():
        described = dict(metrics) if "best" in aliases else {}
        _log_version(logger, folder / "models" / run_id / f"epoch_{epoch}", content, aliases, described)


def _log_version(
    logger: WandbLogger, folder: Path, content: Mapping[str, Any], aliases: Sequence[str], metrics: Mapping[str, float]
) -> None:
    import wandb

    folder = folder.absolute()  # it is read later, perhaps from another working directory
    folder.mkdir(parents=True, exist_ok=True)
    state = content["state_dict"]
    network = {
        name.removeprefix("network."): tensor.contiguous()
        for name, tensor in state.items()
        if name.startswith("network.")
    }
    parameters = content["hyper_parameters"]
    description = {
        "epoch": int(content["epoch"]),
        **{name: parameters[name] for name in ("backbone", "class_names", "positive", "image_size", "aspect")},
        # normalised = pixel / 255 as usual, here in one step: pixel * scale + offset, for each of three channels.
        "pixel_scale": state["pixel_scale"].tolist(),
        "pixel_offset": state["pixel_offset"].tolist(),
        "metrics": dict(metrics),
    }
    weights, about = folder / "weights.safetensors", folder / "model.json"
    safetensors.torch.save_file(network, weights, metadata={"format": "pt"})
    about.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    artifact = wandb.Artifact(
        TrackedRun.artifact_of(logger.experiment.id),
        type="model",
        description="Weights and their description; starts a training with model.weights=weights.safetensors.",
        metadata={name: value for name, value in description.items() if not name.startswith("pixel_")},
    )
    for path in (weights, about):
        # Immutable: nobody writes there again, so W&B need not stage a copy of every network.
        artifact.add_file(str(path), name=path.name, policy="immutable", skip_cache=True)
    logger.experiment.log_artifact(artifact, aliases=list(aliases))
