"""Which network, with which weights, and which normalisation was it made for?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

import cxr.training.dark_covid_net  # noqa: F401 - a network of our own, which timm knows from here on
from cxr.errors import CheckpointError, ConfigurationError
from cxr.training.given_path import is_file, local_path
from cxr.training.heads import HEADS, put_concat_pool_head
from cxr.training.run_directory import RunDirectory
from cxr.training.torch_files import one_line, read_torch_file, require_finite, require_kind, require_tensors

# How long a server may take to answer before the network counts as missing, seconds. Left to itself the hub's client
# tries for three quarters of a minute, with a line for every attempt.
_PATIENCE = 5.0
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LoadedWeights:
    """What became of the weights that a network started from.

    Attributes:
        source: the file, or the place on the hub.
        num_loaded: tensors taken.
        left_out: tensors of the file that were not taken (a classifier of other classes).
        fresh: tensors of the network that keep their random start.
        resized: position embeddings that were interpolated from another image size.
    """

    source: str
    num_loaded: int
    left_out: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Backbone:
    """A network (B, 3, H, W) -> logits (B, C), and the mean and standard deviation (of 0..1 pixels) it expects."""

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    loaded: LoadedWeights | None


def create_backbone(
    name: str,
    *,
    num_classes: int,
    image_size: int = 224,
    pretrained: bool = True,
    weights: str | Path | None = None,
    head: str = "linear",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    channels_last: bool = True,
) -> Backbone:
    """Build a timm network for three channels.

    Args:
        name: any timm name, also with a tag (``resnet50.a1_in1k``).
        num_classes: C, at least 1.
        image_size: pixels of a side; networks that are made for one size (vision transformers) are built for this one.
        pretrained: start from timm's weights, from the local cache or the network; the classifier starts afresh.
        weights: what to start from instead: safetensors, a state dict of torch, a checkpoint of cxr, or the directory
            of a run, for its checkpoint (see ``trainer.checkpoint``).
        head: ``linear``, the backbone's own classifier, or ``concat_pool``, see `cxr.training.heads`.
        drop_rate: dropout before the classifier, in [0, 1); ``concat_pool`` has its own.
        drop_path_rate: how often the last residual is left out of an image, in [0, 1); it falls linearly towards the
            first (Huang, Sun, Liu, Sedra and Weinberger, "Deep Networks with Stochastic Depth", 2016).
        channels_last: lay convolutions out channels-last.

    Raises:
        ConfigurationError: an unknown name; no weights to be had; an image size, a head or a drop path that the
            network cannot take.
        CheckpointError: ``weights`` is missing, damaged, or of another network.
    """
    config = _look_up(name)
    options: dict[str, Any] = {**_shape(config, num_classes, image_size), "drop_rate": drop_rate}
    if head not in HEADS:
        raise ConfigurationError(f"model.head={head}: one of {', '.join(HEADS)}")
    if head != "linear" and drop_rate > 0:
        raise ConfigurationError(f"model.drop_rate={drop_rate}: model.head={head} has dropout of its own; use 0")
    if drop_path_rate > 0:
        options["drop_path_rate"] = drop_path_rate
    source = None
    if pretrained and weights is None:
        source, overlay = _find_pretrained(name, config)
        options.update(pretrained=True, pretrained_cfg_overlay=overlay)
    try:
        network: nn.Module = timm.create_model(name, **options)
    except Exception as error:
        if "drop_path_rate" in str(error):
            raise _no_drop_path(name, drop_path_rate) from error
        if source is not None:
            raise _no_weights(name, one_line(error)) from error
        raise _cannot_be_built(name, image_size, error) from error
    _check_patches(network, name, image_size)
    # Some networks take the number and make nothing of it.
    if drop_path_rate > 0 and not any(isinstance(part, DropPath) for part in network.modules()):
        raise _no_drop_path(name, drop_path_rate)
    if head == "concat_pool":
        put_concat_pool_head(
            network, name=name, classifier=config.classifier, num_classes=num_classes, image_size=image_size
        )

    loaded = None
    if weights is not None:
        loaded = load_weights(network, weights, classifier=config.classifier)
    elif source is not None:
        fresh = _classifier_tensors(network.state_dict(), config.classifier)
        loaded = LoadedWeights(source, len(network.state_dict()) - len(fresh), fresh=fresh)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = _three(config.mean), _three(config.std)
    return Backbone(network, mean, std, loaded)


def require_backbone(name: str, *, pretrained: bool = True, weights: str | Path | None = None) -> None:
    """Refuse a network that there is not, and weights that are not to be had, before anything that takes long.

    Args:
        name, pretrained, weights: see `create_backbone`.

    Raises:
        ConfigurationError, CheckpointError: as `create_backbone` would.
    """
    config = _look_up(name)
    if weights is not None:
        _weights_file(local_path(weights, "model.weights"))
    elif pretrained:
        _find_pretrained(name, config)


def tensors_of_backbone(name: str, *, num_classes: int, image_size: int, head: str = "linear") -> dict[str, Tensor]:
    """Names, shapes and types of the tensors of a network; they lie on the device ``meta``, where they take no memory.

    Args:
        name, num_classes, image_size, head: see `create_backbone`.

    Raises:
        ConfigurationError: see `create_backbone`.
    """
    config = _look_up(name)
    try:
        with torch.device("meta"):
            network = timm.create_model(name, **_shape(config, num_classes, image_size))
            if head == "concat_pool":
                put_concat_pool_head(
                    network, name=name, classifier=config.classifier, num_classes=num_classes, image_size=image_size
                )
    except ConfigurationError:
        raise
    except Exception as error:
        raise _cannot_be_built(name, image_size, error) from error
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


def load_weights(network: nn.Module, path: str | Path, *, classifier: str | tuple[str, ...] | None) -> LoadedWeights:
    """Fill a network from a file; only a classifier of another shape or kind may be left out.

    Args:
        network: changed in place.
        path: safetensors, a state dict saved by torch (bare, or under ``state_dict`` or ``model``), a checkpoint of
            cxr, or the directory of a run.
        classifier: name(s) of the classifier module(s).

    Raises:
        CheckpointError: the file is missing, cannot be read without running code, or does not fit the network.
    """
    path = _weights_file(local_path(path, "model.weights"))
    tensors = _read_tensors(path)
    own = network.state_dict()
    # Batches counted by a normalisation are in some files and not in others, and change no result here.
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    heads = set(_classifier_tensors(own, classifier))
    left_out = [
        name
        for name in _classifier_tensors(tensors, classifier)
        if name not in heads or tensors[name].shape != own[name].shape
    ]
    try:
        resized = _resize_position_embedding(network, tensors)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"model.weights={path}: no such position embedding ({one_line(error)})") from error
    taken = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    unexpected = sorted(set(taken) - set(own))
    missing = sorted(set(own) - set(taken) - counters - heads)
    wrong = sorted(name for name in taken if name in own and taken[name].shape != own[name].shape)
    if unexpected or missing or wrong:
        first = (missing or unexpected or wrong)[0]
        raise CheckpointError(
            f"model.weights={path}: not of this network: {len(missing)} tensors missing, {len(unexpected)} unknown,"
            f" {len(wrong)} of another shape (the first is {ascii(first)[1:-1][:80]}); check model.name"
        )
    for name, tensor in taken.items():
        require_kind(f"model.weights={path}", name, tensor, own[name])
        require_finite(path, name, tensor)
    network.load_state_dict(taken, strict=False)
    return LoadedWeights(str(path), len(taken), left_out, sorted(heads - set(taken)), resized)


def _shape(config: Any, num_classes: int, image_size: int) -> dict[str, Any]:
    """What timm is told of inputs and outputs."""
    fixed = {"img_size": image_size} if config.fixed_input_size else {}
    return {"num_classes": num_classes, "in_chans": 3, **fixed}


def _cannot_be_built(name: str, image_size: int, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"model.name={name}: cannot be built for data.image_size={image_size}: {one_line(error)}")


def _look_up(name: str) -> Any:
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        near = difflib.get_close_matches(bare, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ConfigurationError(f"model.name={name}: timm knows no such network; {hint}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{bare}.*")]
    if config is None or (tag and tag not in tags):
        raise ConfigurationError(f"model.name={name}: {bare} has no weights {tag!r}, only {', '.join(tags) or 'none'}")
    return config


def _find_pretrained(name: str, config: Any) -> tuple[str, dict[str, Any]]:
    """Where the weights lie and what to tell timm; refuses at once where they are out of reach."""
    hub_id = config.hf_hub_id
    if not hub_id:
        if not config.url:
            raise ConfigurationError(f"model.name={name}: timm offers no weights for it; use model.pretrained=false")
        return str(config.url), {}
    repository, _, revision = hub_id.partition("@")
    wanted = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    for file_name in wanted:
        cached = huggingface_hub.try_to_load_from_cache(repository, file_name, revision=revision or None)
        if isinstance(cached, str):
            # A file of the hub's is a state dict of timm, also where the authors' own file is of another format.
            return hub_id, {"file": cached, "custom_load": False}
    url = huggingface_hub.hf_hub_url(repository, wanted[0], revision=revision or None)
    try:
        status = huggingface_hub.get_session().head(url, timeout=_PATIENCE).status_code
    except Exception as error:
        raise _no_weights(name, one_line(error)) from error
    if status >= 500:
        raise _no_weights(name, f"the hub answers {status}")
    return hub_id, {}


def _no_weights(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"model.pretrained=true: the weights of {name} cannot be fetched ({why});"
        " use model.pretrained=false, or model.weights=<file or run>"
    )


def _no_drop_path(name: str, rate: float) -> ConfigurationError:
    return ConfigurationError(f"model.drop_path_rate={rate}: {name} has no residuals to leave out; use 0")


def _weights_file(path: Path) -> Path:
    """The checkpoint that a run stands for, the last where it has no best; a file stands for itself."""
    if not path.is_dir():
        if not is_file(path):
            raise CheckpointError(f"model.weights={path}: no such file")
        return path
    run = RunDirectory(path)
    wanted = [run.best_checkpoint_path, run.last_checkpoint_path]
    if run.stands_for == "last":
        wanted = wanted[1:]
    found = next((each for each in wanted if is_file(each)), None)
    if found is None:
        raise CheckpointError(
            f"model.weights={path}: no run with a checkpoint: looked for {' and '.join(map(str, wanted))}"
        )
    return found


def _read_tensors(path: Path) -> dict[str, Tensor]:
    refusal = f"model.weights={path}: cannot be read as weights alone; give a .safetensors file or a saved state dict"
    if path.suffix == ".safetensors":
        try:
            content: Any = safetensors.torch.load_file(path)
        except Exception as error:  # of the format, of the system, of torch
            raise CheckpointError(f"{refusal} ({one_line(error)})") from error
    else:
        content = read_torch_file(path, refusal)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = require_tensors(path, content)
    # A checkpoint of cxr holds the network beside the normalisation; `DataParallel` puts a prefix of its own before it.
    for prefix in ("network.", "module."):
        inner = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        if inner:
            tensors = inner
    return tensors


def _classifier_tensors(names_of: Iterable[str], classifier: str | tuple[str, ...] | None) -> list[str]:
    """Which of these names of tensors, in alphabetical order, are the classifier's."""
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    prefixes = tuple(f"{name}." for name in names)
    return sorted(name for name in names_of if prefixes and name.startswith(prefixes))


def _resize_position_embedding(network: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    own, given = getattr(network, "pos_embed", None), tensors.get("pos_embed")
    if not isinstance(own, Tensor) or given is None or own.shape == given.shape or own.ndim != 3 or given.ndim != 3:
        return []
    patches: Any = getattr(network, "patch_embed", None)
    tensors["pos_embed"] = resample_abs_pos_embed(
        given, new_size=list(patches.grid_size), num_prefix_tokens=getattr(network, "num_prefix_tokens", 0)
    )
    return ["pos_embed"]


def _check_patches(network: nn.Module, name: str, image_size: int) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and image_size % side:
        nearest = max(side, round(image_size / side) * side)
        raise ConfigurationError(
            f"data.image_size={image_size}: {name} divides the image into patches of {side} pixels; use {nearest}"
        )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    if len(values) == 1:
        values = values * 3
    first, second, third = (float(value) for value in values)
    return first, second, third
