from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cxr.errors import ConfigurationError, DivergedError
from cxr.training.metrics import classification_metrics
from cxr.training.module import CXRModule


def _fit(module: CXRModule, train: Any, val: Any = None, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(**{**settings, **options})
    trainer.fit(module, train, val)
    return trainer


def _images(num: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 1, size, size), generator=generator).to(torch.uint8)


def test_grey_levels_are_normalised_into_three_channels(make_module: Callable[..., CXRModule]) -> None:
    module = make_module(backbone="resnet10t").eval()
    image = _images()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    channels = (image.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(module(image), module.network(channels), rtol=1e-4, atol=1e-5)


def test_float_images_are_on_the_same_scale_as_bytes(make_module: Callable[..., CXRModule]) -> None:
    module = make_module().eval()
    torch.testing.assert_close(module(_images().float()), module(_images()))


def test_an_image_s_gradient_reaches_it(make_module: Callable[..., CXRModule]) -> None:
    image = _images().float().requires_grad_()
    make_module().eval()(image)[:, 0].sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_a_checkpoint_needs_nothing_else_and_fetches_nothing(
    hub: Any, make_module: Callable[..., CXRModule], loader: Callable[..., Any], tmp_path: Path
) -> None:
    hub.offer("timm/test_resnet.r160_in1k", make_module(class_names=["a", "b"], positive="a").network.state_dict())
    module = make_module(pretrained=True, loss={"label_smoothing": 0.1}, class_weights=(0.5, 1.5), aspect="pad")
    trainer = _fit(module, loader([0, 1] * 4))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    hub.close()
    asked = len(hub.requests)

    restored = CXRModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True).eval()
    assert len(hub.requests) == asked
    torch.testing.assert_close(restored(_images()), module.eval()(_images()))
    assert restored.class_names == ["covid", "other"]
    assert restored.positive == "covid"
    assert restored.hparams["aspect"] == "pad"
    assert restored.hparams["image_size"] == 32
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert content["initial_weights"] == "timm/test_resnet.r160_in1k"
    assert content["hyper_parameters"]["class_weights"] == [0.5, 1.5]
    # The module that trains goes on saying what it was started from.
    assert module.hparams["pretrained"] is True


def test_the_normalisation_is_restored_from_the_checkpoint(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_module()
    with torch.no_grad():
        module.pixel_scale.mul_(2)
    _fit(module, loader([0, 1] * 4)).save_checkpoint(tmp_path / "run.ckpt")
    restored = CXRModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    torch.testing.assert_close(restored.pixel_scale, module.pixel_scale)


def test_metrics_of_an_epoch_are_those_of_all_its_records(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    module = make_module(class_weights=[3.0, 0.5], loss={"label_smoothing": 0.2})
    val = loader([0, 1, 1] * 7, batch_size=4, seed=3, contrast=5)
    trainer = _fit(module, loader([0, 1] * 8), val)
    module.eval()
    with torch.inference_mode():
        logits = torch.cat([module(batch["image"]) for batch in val])
    labels = torch.cat([batch["label"] for batch in val])
    expected = classification_metrics(logits.softmax(1), labels, ["covid", "other"], "covid")
    for name, value in expected.items():
        if value is not None:
            assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(value, abs=1e-5), name
    # Neither weighted nor smoothed, and the last, smaller batch counts no more than its records.
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-5
    )
    assert {"train/loss", "train/auroc", "train/accuracy"} <= set(trainer.callback_metrics)


def test_the_sanity_check_leaves_no_metrics(make_module: Callable[..., CXRModule], loader: Callable[..., Any]) -> None:
    seen: list[dict[str, Tensor]] = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(dict(trainer.callback_metrics))

    trainer = _fit(make_module(), loader([0, 1] * 4), loader([0, 1] * 8), num_sanity_val_steps=2, callbacks=[Look()])
    assert seen == [{}]
    assert float(trainer.callback_metrics["val/accuracy"]) * 16 == pytest.approx(
        round(float(trainer.callback_metrics["val/accuracy"]) * 16)
    )


def test_a_class_that_is_absent_leaves_its_metrics_out(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    trainer = _fit(make_module(), loader([0, 1] * 4), loader([1] * 5))
    assert "val/auroc" not in trainer.callback_metrics
    assert "val/sensitivity" not in trainer.callback_metrics
    assert "val/specificity" in trainer.callback_metrics
    assert "val/loss" in trainer.callback_metrics


def test_a_record_that_is_dealt_twice_counts_once(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    once = list(loader([0, 1, 1], batch_size=3))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    extra = {name: tensor[:1] for name, tensor in once[0].items()}
    module = make_module()
    (expected,) = trainer.validate(module, DataLoader(once, batch_size=None), verbose=False)
    (metrics,) = trainer.validate(module, DataLoader([*once, extra, extra], batch_size=None), verbose=False)
    assert metrics == pytest.approx(expected)


def test_test_and_predict_give_the_records_back(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    module = make_module()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (metrics,) = trainer.test(module, loader([0, 1] * 5), verbose=False)
    assert "test/auroc" in metrics
    predicted = trainer.predict(module, loader([0, 1, -1], batch_size=2))
    assert predicted is not None
    assert torch.cat([each["index"] for each in predicted]).tolist() == [0, 1, 2]
    assert torch.cat([each["label"] for each in predicted]).tolist() == [0, 1, -1]
    probabilities = torch.cat([each["probabilities"] for each in predicted])
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.5]])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], class_weights: list[float] | None
) -> None:
    module = make_module(
        class_weights=class_weights, optimizer={"name": "sgd", "lr": 1e30}, schedule={"name": "constant"}
    )
    with pytest.raises(DivergedError) as caught:
        _fit(module, loader([0, 1] * 32), max_epochs=3)
    line = str(caught.value)
    assert "epoch 0" in line
    assert "optimizer step" in line
    assert "1e+30" in line
    assert "\n" not in line


def test_answers_that_are_not_finite_end_the_run_where_no_loss_was(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    module = make_module()
    for parameter in module.parameters():  # as after a last step that was too large
        parameter.data.fill_(float("inf"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(DivergedError, match="5 of 5 images of val no finite answer"):
        trainer.validate(module, loader([0, 1, 0, 1, 1]), verbose=False)


def test_the_rate_follows_one_cycle_per_step_over_the_whole_run(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    rates: list[float] = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    module = make_module(optimizer={"lr": 0.01}, schedule={"name": "one_cycle"})
    _fit(module, loader([0, 1] * 20), max_epochs=4, accumulate_grad_batches=2, callbacks=[Look()])
    assert len(rates) == 4 * 3
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] == pytest.approx(0.01 / 25e4)
    assert max(rates) <= 0.01 + 1e-9


def test_two_runs_with_one_seed_are_equal(make_module: Callable[..., CXRModule], loader: Callable[..., Any]) -> None:
    runs = []
    for _ in range(2):
        pl.seed_everything(0, workers=True, verbose=False)
        module = make_module(drop_rate=0.2)
        trainer = _fit(module, loader([0, 1] * 12, shuffle=True), loader([0, 1] * 4, seed=2), max_epochs=2)
        runs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert runs[0] == runs[1]


def test_constructing_a_module_leaves_the_global_randomness_to_its_weights(
    make_module: Callable[..., CXRModule],
) -> None:
    assert not torch.equal(make_module(seed=0).network.fc.weight, make_module(seed=1).network.fc.weight)


def test_clipping_works_with_the_fused_optimizer(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    _fit(make_module(), loader([0, 1] * 4), gradient_clip_val=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"class_names": ["covid"]},
        {"class_names": ["covid", "covid"]},
        {"positive": "sars"},
        {"class_weights": [1.0, 1.0, 1.0]},
    ],
)
def test_classes_that_contradict_each_other_are_refused(
    make_module: Callable[..., CXRModule], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        make_module(**options)
