"""What is learned from a batch, and what does an epoch say about it?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from cxr.errors import ConfigurationError, DivergedError
from cxr.training.agreement import is_distributed, rows_of_all
from cxr.training.backbones import LoadedWeights, create_backbone
from cxr.training.fused_inference import FusedNetwork, fuse_for_inference
from cxr.training.layer_groups import layer_groups
from cxr.training.losses import TrainingLoss, evaluation_losses
from cxr.training.metrics import classification_metrics
from cxr.training.optimizers import build_optimizer, parameter_groups
from cxr.training.schedules import StagedSchedule
from cxr.training.stage_plan import Stage, build_stages
from cxr.training.torch_files import require_state

Batch = Mapping[str, Tensor]

# What an epoch of training reports beside its loss: enough to see overfitting. These answers were given while the
# weights moved, to augmented and perhaps oversampled images.
_TRAIN_METRICS = ("auroc", "accuracy")

_MAX_ROWS = 16  # that a line names; the run lists all of them


class CXRModule(pl.LightningModule):
    """A timm backbone that reads grey radiographs.

    The hyper-parameters are plain types and lie in the checkpoint with the normalisation, so that
    ``CXRModule.load_from_checkpoint(path)`` needs nothing else and fetches nothing.

    Args:
        backbone: timm name.
        class_names: the C >= 2 classes in the order of the labels.
        positive: the class that the metrics are about, by name.
        image_size, aspect: how images were prepared (pixels of a side; ``crop`` or ``pad``), kept for serving.
        pretrained, weights, head, drop_rate, drop_path_rate, channels_last: see `create_backbone`.
        optimizer: keyword arguments of `build_optimizer`.
        schedule: ``name``, ``stages`` (see `cxr.training.stage_plan.build_stages`; None or absent: one of all epochs)
            and keyword arguments of `StagedSchedule`.
        loss: keyword arguments of `TrainingLoss`: ``name``, ``label_smoothing``, ``gamma``, ``tau``.
        class_weights: C weights of the training loss, or None.
        class_priors: share of each class in the training images, for a loss that asks for it.

    Attributes:
        loaded_weights: what became of pretrained weights; None for a random start or a restored checkpoint.
        epoch_metrics: split -> what its last epoch logged; a metric that was undefined is not in it.

    Raises:
        ConfigurationError, CheckpointError: see `create_backbone`; also for classes that contradict each other.
    """

    pixel_scale: Tensor
    pixel_offset: Tensor

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        class_names: Sequence[str],
        positive: str,
        image_size: int = 224,
        aspect: str = "crop",
        pretrained: bool = True,
        weights: str | None = None,
        head: str = "linear",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        channels_last: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | None = None,
        class_weights: Sequence[float] | None = None,
        class_priors: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        class_names = [str(name) for name in class_names]
        if len(class_names) < 2 or len(set(class_names)) != len(class_names):
            raise ConfigurationError(f"class_names={class_names}: give at least two, each once")
        if positive not in class_names:
            raise ConfigurationError(f"data.positive={positive}: not one of the classes {', '.join(class_names)}")
        # The name of a tuple, a list or a mapping of another kind would not be read back from a checkpoint.
        optimizer, schedule, loss = dict(optimizer or {}), dict(schedule or {}), dict(loss or {})
        class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        class_priors = None if class_priors is None else [float(share) for share in class_priors]
        weights = None if weights is None else str(weights)
        self.save_hyperparameters(logger=False)

        made = create_backbone(
            backbone,
            num_classes=len(class_names),
            image_size=image_size,
            pretrained=pretrained,
            weights=weights,
            head=head,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            channels_last=channels_last,
        )
        self.network = made.network
        _check_sizes(backbone, self.network, image_size, schedule.get("stages") or [])
        self.loaded_weights: LoadedWeights | None = made.loaded
        self._initial_weights: str | None = None  # of the run whose checkpoint was restored
        # (grey / 255 - mean) / std as one multiplication and one addition for each of the three channels.
        mean, std = torch.tensor(made.mean), torch.tensor(made.std)
        self.register_buffer("pixel_scale", 1 / (255 * std))
        self.register_buffer("pixel_offset", -mean / std)
        self.training_loss = TrainingLoss(
            len(class_names), class_weights=class_weights, class_priors=class_priors, **loss
        )

        self.class_names = class_names
        self.positive = positive
        self.epoch_metrics: dict[str, dict[str, float]] = {}
        self._outputs: dict[str, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {"train": [], "val": [], "test": []}
        self._num_checked = 0
        self._last_norm: Tensor | None = None  # of the gradients, which a validation puts away
        self._kept_outputs: list[Tensor] = []  # of an epoch in whose middle the training goes on
        # In tuples, where they are neither parts of the module nor of its checkpoints.
        self._fused: tuple[nn.Module, ...] = ()  # what was made of the network, once it was wanted
        self._answering: tuple[nn.Module, ...] = ()  # it, while it answers in place of the network

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of grey images (B, 1, H, W): uint8, or float on the same scale of 0 to 255."""
        network = self._answering[0] if self._answering and not torch.is_grad_enabled() else self.network
        logits: Tensor = network(self.normalised(image[:, 0].to(self.pixel_scale.dtype)))
        return logits

    @contextmanager
    def fused(self) -> Iterator[None]:
        """Within, answers without gradients come sooner on a CPU, equal to rounding; the weights must not change.

        The module has to be in evaluation mode, see `cxr.training.fused_inference.fuse_for_inference`.
        """
        self._begin_fused()
        try:
            yield
        finally:
            self._end_fused()

    def _begin_fused(self) -> None:
        if self.device.type != "cpu":
            return
        if not self._fused:
            self._fused = (fuse_for_inference(self.network),)
        self._answering = self._fused

    def _end_fused(self) -> None:
        self._answering = ()
        for network in self._fused:
            if isinstance(network, FusedNetwork):
                network.forget()

    def normalised(self, grey: Tensor) -> Tensor:
        """Three normalised channels (B, 3, H, W) of (B, H, W), laid out channels-last, as convolutions like them."""
        if grey.requires_grad:  # `out` has no gradient
            return torch.addcmul(self.pixel_offset, grey[..., None], self.pixel_scale).permute(0, 3, 1, 2)
        # A pass for each channel: an inner dimension of three is too short for vector instructions.
        channels = grey.new_empty((*grey.shape, 3))
        for channel in range(3):
            torch.addcmul(self.pixel_offset[channel], grey, self.pixel_scale[channel], out=channels[..., channel])
        return channels.permute(0, 3, 1, 2)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """``index`` (B,), ``label`` (B,) (-1 = unlabelled), ``probabilities`` (B, C) float32."""
        probabilities = self(batch["image"]).float().softmax(dim=1)
        return {"index": batch["index"], "probabilities": probabilities, "label": batch["label"]}

    def _step(self, batch: Batch, split: str) -> Tensor:
        logits, labels = self(batch["image"]), batch["label"]
        if split == "train":
            share = batch.get("share")
            loss: Tensor = self.training_loss(logits, labels, batch.get("partner_label"), share)
            losses = loss.detach()
            if share is not None:
                # An image that is mixed of two has no class of its own: neither label would make an answer to it right
                # or wrong, so that it counts in the loss and in no other metric.
                labels = labels.masked_fill(share < 1, -1)
        else:
            losses = evaluation_losses(logits, labels)
            loss = losses.mean()
        # Nothing is computed from these before the epoch ends: a metric per step costs more than a small network.
        self._outputs[split].append((logits.detach(), labels, batch["index"], losses))
        if split == "train" and _seen_at_once(losses):
            self._check_losses()
        return loss

    def step_metrics(self) -> dict[str, float]:
        """Loss of the training step just taken, over the batches of all processes, and rate and momentum that it left.

        Waits for the device.

        Raises:
            DivergedError: the loss of this step, or of one since the last call, is not finite.
        """
        self._check_losses()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        group = optimizer.param_groups[-1]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        outputs = self._outputs["train"]
        loss = float(rows_of_all(outputs[-1][3].view(1)).mean()) if outputs else math.nan
        rates = {f"lr/group_{each['layer_group']}": float(each["lr"]) for each in optimizer.param_groups
                 if "layer_group" in each}  # fmt: skip
        return {"train/loss_step": loss, "lr": float(group["lr"]), "momentum": float(momentum), **rates}

    def _check_losses(self) -> None:
        """Refuse a loss that is not finite; where the device works ahead, called only when it is waited for anyway."""
        losses = [output[3] for output in self._outputs["train"][self._num_checked :]]
        if not losses:
            return
        values = losses[0].view(1) if len(losses) == 1 else torch.stack(losses)
        checked, self._num_checked = self._num_checked, len(self._outputs["train"])
        # All processes end together: one that did so alone would leave the others waiting for its gradients.
        values = rows_of_all(values)
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            place = int((~finite).any(dim=0).nonzero()[0])
            process = int((~finite[:, place]).nonzero()[0])
            raise self._diverged(checked + place, process, float(values[process, place]))

    def _diverged(self, place: int, process: int, loss: float) -> DivergedError:
        """What there is to say of a loss that is not finite: of its own batch, or of the one that spoilt the weights.

        Args:
            place: of the batch among the outputs of the epoch.
            process: whose loss it is.
        """
        outputs, step = self._outputs["train"], self.global_step
        norm = self._gradient_norm()
        what = f"the training loss is {loss}"
        with_it = "" if norm is None else f", gradient norm of the last step {norm:.3g}"
        # Where every loss is looked at before its gradients take their place, those of the step before are still there.
        first = place
        spoilt = norm is not None and not math.isfinite(norm) and place > 0 and _seen_at_once(outputs[place][3])
        if spoilt:
            # Several batches may have made the step.
            first, place, step = max(0, place - self.trainer.accumulate_grad_batches), place - 1, step - 1
            what, with_it = f"the gradient is not finite (norm {norm})", f", loss {float(outputs[place][3].mean()):.3g}"
        batch = sum(output[3].numel() for output in outputs[:place])
        index = torch.cat([output[2] for output in outputs[first : place + 1]])
        if is_distributed():
            of_all = gather_all_tensors(index)
            index = torch.cat(of_all) if spoilt else of_all[process]
        records = index.tolist()
        return DivergedError(
            f"{what} in batch {batch} of epoch {self.current_epoch} (optimizer step {step}, learning rate "
            f"{self._rate():.3g}{with_it}; {_rows(records)}); lower optimizer.lr",
            records,
        )

    def _rate(self) -> float:
        optimizer = self.optimizers(use_pl_optimizer=False)
        return float(optimizer.param_groups[-1]["lr"]) if isinstance(optimizer, torch.optim.Optimizer) else math.nan

    def on_validation_model_zero_grad(self) -> None:
        gradients = self._gradients()
        self._last_norm = torch.nn.utils.get_total_norm(gradients) if gradients else None
        super().on_validation_model_zero_grad()

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self.network.parameters() if each.grad is not None]

    def _gradient_norm(self) -> float | None:
        """Norm of the gradients of the last step; None where there was none."""
        gradients = self._gradients()
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else self._last_norm
        return None if norm is None else float(norm)

    def on_train_start(self) -> None:
        # What an earlier process has trained on in this epoch counts in its metrics; it is that of all processes.
        kept, self._kept_outputs = self._kept_outputs, []
        if kept and self.trainer.is_global_zero:
            logits, labels, index, losses = (tensor.to(self.pixel_scale.device) for tensor in kept)
            self._outputs["train"].append((logits, labels, index, losses))
            self._num_checked = 1

    def on_train_epoch_start(self) -> None:
        self._clear("train")

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation("test")

    def _begin_evaluation(self, split: str) -> None:
        self._clear(split)
        self._share_buffers()
        if str(self.trainer.precision) == "32-true":  # what is fused knows nothing of automatic casts
            self._begin_fused()

    def on_train_epoch_end(self) -> None:
        self._check_losses()
        self._end_epoch("train", _TRAIN_METRICS)

    def on_validation_epoch_end(self) -> None:
        # The sanity check sees a few batches of an untrained network; its metrics must not become anybody's best.
        if self.trainer.sanity_checking:
            self._clear("val")
        else:
            self._end_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._end_epoch("test")

    def _clear(self, split: str) -> None:
        self._outputs[split].clear()
        self._end_fused()
        if split == "train":
            self._num_checked = 0

    def _end_epoch(self, split: str, names: Sequence[str] | None = None) -> None:
        """Log the metrics of a whole epoch at once; an undefined one is left out rather than logged as 0.

        Every process computes them from the records of all, so they agree, and equal those of a single process.

        Raises:
            DivergedError: an answer of the network is not finite.
        """
        logits, labels, index, losses = self._gather(split)
        last = self._outputs["train"][-1][2].tolist() if self._outputs["train"] else []
        self._clear(split)
        if split != "train":
            # A sampler that deals out whole batches may show a record to two processes; it counts once.
            _, first = _first_of_each(index)
            logits, labels, losses = logits[first], labels[first], losses[first]
        else:
            logits, labels = logits[labels >= 0], labels[labels >= 0]  # not the mixed images, see `_step`
        answered = torch.isfinite(logits).all(dim=1)
        if not bool(answered.all()):  # the last step may have overflowed weights, and no loss of the epoch shows it
            norm = self._gradient_norm()
            step = "" if norm is None else (
                f" (optimizer step {self.global_step}, learning rate {self._rate():.3g}, gradient norm of the last "
                f"step {norm:.3g}{'; ' if last else ''}{_rows(last) if last else ''})"
            )  # fmt: skip
            raise DivergedError(
                f"the network gives {int((~answered).sum())} of {len(logits)} images of {split} no finite answer after "
                f"epoch {self.current_epoch}{step}; lower optimizer.lr",
                last,
            )
        probabilities = logits.float().softmax(dim=1)
        metrics = classification_metrics(probabilities, labels, self.class_names, self.positive)
        logged = {
            f"{split}/{name}": value
            for name, value in metrics.items()
            if value is not None and (names is None or name in names)
        }
        if len(losses):
            logged[f"{split}/loss"] = float(losses.double().mean())
        self.epoch_metrics[split] = logged
        self.log_dict(logged)

    def _gather(self, split: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = self._outputs[split]
        device = self.pixel_scale.device
        if outputs:
            logits, labels, index = (torch.cat([each[column] for each in outputs]) for column in range(3))
            losses = torch.cat([each[3].view(-1) for each in outputs])
            tensors = [logits.float(), labels, index, losses]
        else:
            none = torch.empty(0, dtype=torch.int64, device=device)
            tensors = [torch.empty(0, len(self.class_names), device=device), none, none, torch.empty(0, device=device)]
        if is_distributed():
            tensors = [torch.cat(gather_all_tensors(tensor)) for tensor in tensors]
        logits, labels, index, losses = (tensor.cpu() for tensor in tensors)
        return logits, labels, index, losses

    def _share_buffers(self) -> None:
        """Give all processes the running statistics of the first, once before an evaluation.

        DDP would do this in every forward, and wait for ever where one process has a batch more than another.
        """
        if is_distributed():
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    @property
    def stages(self) -> list[Stage]:
        """The stages of the training; one where none were given."""
        schedule = self.hparams["schedule"]
        given = schedule.get("stages") or [{"epochs": self.trainer.max_epochs}]
        lr = self.hparams["optimizer"].get("lr", 1e-3)
        return build_stages(given, lr=lr, schedule=schedule.get("name", "one_cycle"))

    def build_optimizer(self) -> torch.optim.Optimizer:
        """An optimizer of what is trained, with groups of their own for the layer groups where a stage needs that."""
        apart = any(stage.discriminates for stage in self.stages)
        return build_optimizer(
            parameter_groups(
                self.network,
                self.hparams["optimizer"].get("weight_decay", 0.01),
                layer_groups(self.network) if apart else None,
            ),
            fused=self._can_fuse(),
            **self.hparams["optimizer"],
        )

    def configure_optimizers(self) -> Any:
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ConfigurationError("trainer.max_epochs: a schedule needs an end; give a number of epochs")
        stages = self.stages
        if sum(stage.epochs for stage in stages) != epochs:
            raise ConfigurationError(
                f"trainer.max_epochs={epochs}: schedule.stages have {sum(stage.epochs for stage in stages)} epochs"
            )
        optimizer = self.build_optimizer()
        options = {name: value for name, value in self.hparams["schedule"].items() if name not in ("name", "stages")}
        steps = int(self.trainer.estimated_stepping_batches) // epochs
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": StagedSchedule(optimizer, stages, steps, **options), "interval": "step"},
        }

    def _can_fuse(self) -> bool:
        """A fused optimizer unscales gradients itself under 16-mixed, too late for Lightning to clip them."""
        if self.device.type not in ("cpu", "cuda"):
            return False
        clips = self.trainer.gradient_clip_val is not None
        return not (clips and str(self.trainer.precision).startswith("16"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep a restored module from fetching the weights that it started from, and note which they were."""
        parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY)
        if parameters is not None:
            parameters.update(pretrained=False, weights=None)
        checkpoint["initial_weights"] = (
            self._initial_weights if self.loaded_weights is None else self.loaded_weights.source
        )
        if self._outputs["train"]:  # in the middle of an epoch
            checkpoint["train_outputs"] = list(self._gather("train"))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember from which weights the training began that goes on here.

        Raises:
            CheckpointError: its tensors are not those of this network, or not finite.
        """
        given = None if self._trainer is None else self._trainer.ckpt_path
        require_state("the checkpoint" if given is None else given, checkpoint["state_dict"], self.state_dict())
        self._initial_weights = checkpoint.get("initial_weights")
        self._kept_outputs = checkpoint.get("train_outputs", [])


def _check_sizes(backbone: str, network: Any, image_size: int, stages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse stages with other images for a network that is built for one size."""
    others = [stage["image_size"] for stage in stages if stage.get("image_size") not in (None, image_size)]
    if others and getattr(network, "pretrained_cfg", {}).get("fixed_input_size"):
        raise ConfigurationError(
            f"schedule.stages: image_size={others[0]} and data.image_size={image_size}, but {backbone} is built for "
            "one size; leave image_size out of the stages"
        )


def _seen_at_once(loss: Tensor) -> bool:
    """Whether each loss is looked at where it arises; on a GPU that would make the processor wait for the device."""
    return loss.device.type == "cpu"


def _rows(records: Sequence[int]) -> str:
    """The records of a batch in words that name no patient and no file."""
    shown = ", ".join(str(row) for row in records[:_MAX_ROWS])
    more = f" and {len(records) - _MAX_ROWS} more" if len(records) > _MAX_ROWS else ""
    return f"rows {shown}{more} of split.csv"


def _first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of ``index`` (N,) in ascending order, and where each stands first."""
    values, inverse = torch.unique(index, return_inverse=True)
    first = torch.full((len(values),), len(index), dtype=torch.int64)
    first.scatter_reduce_(0, inverse, torch.arange(len(index)), reduce="amin")
    return values, first
