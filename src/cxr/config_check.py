"""Can these settings be used?  Unknown keys, wrong types, values out of range, settings that contradict each other."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cxr.config import (
    DEFAULT_EPOCHS,
    EXPORT_FORMATS,
    PROTOCOLS,
    SOURCES,
    EvaluateConfig,
    ExportConfig,
    Key,
    LrFindConfig,
    ProtocolsConfig,
    Stage,
    TrainConfig,
    keys,
)

_BOUNDS = (
    ("at_least", operator.ge, "at least"),
    ("above", operator.gt, "above"),
    ("at_most", operator.le, "at most"),
    ("below", operator.lt, "below"),
)


class SettingError(ValueError):
    """A setting cannot be used; the message is one line: the key, the value, the way out."""


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that a user most likely meant: one that it begins, the closest spelling, or the same last part."""
    begins = [name for name in known if len(word) >= 3 and name.startswith(word)]
    if begins:
        return begins[0]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return close[0]
    same_end = [name for name in known if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    if same_end:
        return same_end[0]
    by_end = difflib.get_close_matches(word.rsplit(".", 1)[-1], [name.rsplit(".", 1)[-1] for name in known], n=1)
    return next((name for name in known if name.rsplit(".", 1)[-1] == by_end[0]), None) if by_end else None


@functools.cache  # asked for each key of a configuration
def _table(schema: type) -> dict[str, Key]:
    return {key.name: key for key in keys(schema)}


def check_key(name: str, schema: type) -> None:
    """Refuse a dotted key that the schema does not have.

    Raises:
        SettingError: naming the key and the nearest one that exists.
    """
    table = _table(schema)
    if name in table:
        return
    parts = name.split(".")
    if parts[:2] == ["data", "classes"]:
        return  # class names are the user's own
    if parts[:2] == ["data", "sources"]:
        # Which reader a source has is known once the configuration is composed; a key of no reader is wrong at once.
        options = list(dict.fromkeys(key.name for source in SOURCES.values() for key in keys(source)))
        if len(parts) == 4 and parts[3] not in options:
            guess = nearest(parts[3], options)
            hint = (
                f"did you mean {'.'.join([*parts[:3], guess])}?"
                if guess is not None
                else f"one of {', '.join(options)}"
            )
            raise SettingError(f"{name}: there is no such key; {hint}")
        return
    known = [key.name for key in table.values() if not key.section]
    guess = nearest(name, known)
    hint = f"did you mean {guess}?" if guess is not None else "see --help for the keys that there are"
    raise SettingError(f"{name}: there is no such key; {hint}")


def check_value(name: str, value: Any, schema: type) -> None:
    """Refuse a value of the wrong type or out of range, for one dotted key of the schema, without composing anything.

    Raises:
        SettingError: naming the key, the value and what is possible.
    """
    key = _table(schema).get(name)
    if key is None or key.section or (isinstance(value, str) and "${" in value):
        return  # a class, an option of a source, an interpolation: checked where the whole configuration is known
    leaf = name.rsplit(".", 1)[-1]
    try:
        typed = OmegaConf.structured(key.owner)
        typed[leaf] = value
    except OmegaConfBaseException as error:
        raise SettingError(explain(error, {leaf: key}).replace(leaf, name)) from None
    if typed[leaf] is not None:
        check_range(key, OmegaConf.to_container(typed[leaf]) if OmegaConf.is_config(typed[leaf]) else typed[leaf])


def check(config: DictConfig, schema: type) -> dict[str, Any]:
    """Check a composed configuration and return it resolved, as a plain nested dict.

    The configuration is merged once more into its schema, which refuses keys that were added past Hydra's own check
    (``+key=value``).

    Raises:
        SettingError: for an unknown key, a wrong type, a value out of range, or two settings that contradict.
    """
    given = _plain(config, resolve=False)
    table = {key.name: key for key in keys(schema)}
    _refuse_unknown(given, schema)
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(given))
        plain = _plain(typed)
    except OmegaConfBaseException as error:
        raise SettingError(explain(error, table)) from None
    for key in table.values():
        if not key.section:
            check_range(key, _look_up(plain, key.name))
    if plain.get("data") is not None:
        _check_data(plain["data"])
    if issubclass(schema, TrainConfig):
        _check_training(plain)
    if schema is ProtocolsConfig:
        _check_protocols(plain)
    if schema is LrFindConfig and plain["lr_find"]["lowest"] >= plain["lr_find"]["highest"]:
        raise SettingError(
            f"lr_find.lowest={plain['lr_find']['lowest']}: must be below lr_find.highest={plain['lr_find']['highest']}"
        )
    if schema is EvaluateConfig:
        _check_evaluation(plain)
    if schema is ExportConfig:
        _check_export(plain)
    return plain


def _plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=False)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def explain(error: OmegaConfBaseException, table: Mapping[str, Key] | None = None) -> str:
    """One line for what OmegaConf says in several."""
    name = str(error.full_key or "")
    text = str(error).splitlines()[0].rstrip(".")
    kind = table[name].type_name.replace("None", "null") if table is not None and name in table else "another type"
    wrong = re.match(r"Value '(.*?)' .*(?:could not be converted|is not a valid)", text)
    if name and wrong:
        return f"{name}={wrong.group(1)}: not of the type {kind}"
    if name and "is not Optional" in text:
        return f"{name}=null: needs a value ({kind})"
    if name and "is not a ListConfig" in text:
        return f"{name}: needs a list ({kind}), {name}=[a,b]"
    if name.startswith("data.classes.") and "not in struct" in text:
        return f"{name}: not a class of this data option; add one with +{name}=[<finding>, ...]"
    return f"{name}: {text}" if name and name not in text else text


def _refuse_unknown(given: Mapping[str, Any], schema: type, prefix: str = "") -> None:
    for name, value in given.items():
        check_key(f"{prefix}{name}", schema)
        if isinstance(value, Mapping) and not f"{prefix}{name}.".startswith(("data.sources.", "data.classes.")):
            _refuse_unknown(value, schema, f"{prefix}{name}.")


def _look_up(plain: Mapping[str, Any], name: str) -> Any:
    value: Any = plain
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def check_range(key: Key, value: Any) -> None:
    """Refuse a value outside the choices or the range of its key.

    Raises:
        SettingError: naming the key, the value and what is possible.
    """
    if value is None:
        return
    if value == MISSING:
        if key.name == "data.name":
            raise SettingError("data: no option is chosen; choose one with data=<option>")
        raise SettingError(f"{key.name}: needs a value, {key.name}=<{key.metadata['meaning']}>")
    choices = key.metadata.get("choices")
    if choices is not None and value not in choices:
        guess = nearest(str(value), list(choices))
        hint = f"did you mean {guess}? " if guess is not None else ""
        raise SettingError(f"{key.name}={value}: {hint}one of {', '.join(choices)}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value):
        raise SettingError(f"{key.name}={value}: must be a finite number")
    bounds = [
        (holds, phrase, key.metadata[name]) for name, holds, phrase in _BOUNDS if key.metadata.get(name) is not None
    ]
    if not all(holds(value, bound) for holds, _, bound in bounds):
        words = " and ".join(f"{phrase} {bound}" for _, phrase, bound in bounds)
        raise SettingError(f"{key.name}={value}: must be {words}")


def _check_data(data: dict[str, Any]) -> None:
    if not data["sources"]:
        raise SettingError("data.sources: empty; choose a data option, for example data=phantom")
    for name, source in data["sources"].items():
        data["sources"][name] = _check_source(f"data.sources.{name}", source)
    if data["root"] is not None and all(source.get("root") != data["root"] for source in data["sources"].values()):
        raise SettingError(
            f"data.root={data['root']}: data={data['name']} does not use it; "
            f"set data.sources.<{'|'.join(data['sources'])}>.root"
        )
    if data["views"] is not None and not data["views"]:
        raise SettingError("data.views=[]: takes no image; name views, or data.views=null for all")
    classes, positive = data["classes"], data["positive"]
    if classes is not None and len(classes) < 2:
        raise SettingError(f"data.classes={list(classes)}: needs two classes or more")
    if classes is not None and positive is not None and positive not in classes:
        raise SettingError(f"data.positive={positive}: not one of the classes {', '.join(classes)}")
    split = data["split"]
    if split["kind"] == "kfold" and split["fold"] >= split["num_folds"]:
        raise SettingError(f"data.split.fold={split['fold']}: must be below data.split.num_folds={split['num_folds']}")
    if split["kind"] in ("holdout", "random_image") and split["val_fraction"] + split["test_fraction"] >= 1:
        raise SettingError(
            f"data.split.val_fraction={split['val_fraction']} and data.split.test_fraction={split['test_fraction']}: "
            "together they must leave something for training (below 1)"
        )
    if (split["kind"] == "file") != (split["path"] is not None):
        raise SettingError(
            f"data.split.kind={split['kind']} and data.split.path={split['path']}: "
            "a split from a file needs both data.split.kind=file and data.split.path=<split.csv>"
        )
    if (split["kind"] == "leave_one_out") != (split["value"] is not None):
        raise SettingError(
            f"data.split.kind={split['kind']} and data.split.value={split['value']}: to leave one out needs both "
            "data.split.kind=leave_one_out and data.split.value=<source or country>"
        )
    if split["unit"] != "group" and split["kind"] not in ("holdout", "kfold"):
        raise SettingError(
            f"data.split.unit={split['unit']} and data.split.kind={split['kind']}: a unit is for holdout and kfold"
        )


def _check_source(prefix: str, source: Any) -> dict[str, Any]:
    if not isinstance(source, Mapping) or "kind" not in source:
        raise SettingError(f"{prefix}: needs a reader, {prefix}.kind=<{'|'.join(SOURCES)}>")
    schema = SOURCES.get(str(source["kind"]))
    if schema is None:
        raise SettingError(f"{prefix}.kind={source['kind']}: one of {', '.join(SOURCES)}")
    plain = _check_table(prefix, source, schema)
    if "root" in plain and plain["root"] is None:
        raise SettingError(f"data.root: needs a value, data.root=<{_meaning(schema, 'root')}>")
    return plain


def _check_table(prefix: str, given: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """The keys of a part of the settings that is one of many of its kind."""
    table = {key.name: key for key in keys(schema)}
    for name in given:
        if name not in table:
            guess = nearest(str(name), list(table))
            hint = f"did you mean {prefix}.{guess}?" if guess is not None else f"one of {', '.join(table)}"
            raise SettingError(f"{prefix}.{name}: there is no such key; {hint}")
    try:
        plain = _plain(OmegaConf.merge(OmegaConf.structured(schema), dict(given)))
    except OmegaConfBaseException as error:
        raise SettingError(f"{prefix}.{explain(error, table)}") from None
    for key in table.values():
        check_range(dataclasses.replace(key, name=f"{prefix}.{key.name}"), plain[key.name])
    return plain


def _meaning(schema: type, name: str) -> str:
    return str(next(key.metadata["meaning"] for key in keys(schema) if key.name == name))


def _check_evaluation(plain: dict[str, Any]) -> None:
    runs = plain["run"] if isinstance(plain["run"], list) else [plain["run"]]
    if not runs or not all(isinstance(run, (str, int)) and str(run) for run in runs):
        raise SettingError(f"run={plain['run']}: a run directory or a checkpoint file, or a list of them, run=[a,b]")
    plain["run"] = [str(run) for run in runs]
    doubles = sorted({run for run in plain["run"] if plain["run"].count(run) > 1})
    if doubles:
        raise SettingError(f"run: {doubles[0]} is given more than once")
    if plain["tracking_thumbnails"] and plain["tracking"] == "none":
        raise SettingError(
            "tracking_thumbnails=true and tracking=none: nothing is sent that could show them; leave one of them out"
        )
    _check_operating_points(plain["operating_points"])
    if plain["abstain"] is not None:
        kind, _, number = plain["abstain"].partition("=")
        shares = [_number(part) for part in number.split(":")]
        known = (kind in ("share", "both") and len(shares) == 1) or (kind == "between" and len(shares) == 2)
        ordered = all(share is not None and 0 < share < 1 for share in shares) and len(set(shares)) == len(shares)
        if not known or not ordered:
            raise SettingError(f"abstain={plain['abstain']}: share=0.1, both=0.95 or between=0.3:0.7")


def _check_operating_points(rules: list[str]) -> None:
    for text in rules:
        kind, _, number = text.partition("=")
        share = _number(number)
        if text != "youden" and (
            kind not in ("sensitivity", "specificity", "fixed") or share is None or not 0 < share <= 1
        ):
            raise SettingError(
                f"operating_points={text}: youden, or sensitivity, specificity or fixed with a number in (0, 1], "
                "for example sensitivity=0.95"
            )


def _check_export(plain: dict[str, Any]) -> None:
    formats = plain["formats"]
    for name in formats:
        if name not in EXPORT_FORMATS:
            guess = nearest(name, list(EXPORT_FORMATS))
            hint = f"did you mean {guess}? " if guess is not None else ""
            raise SettingError(f"formats={name}: {hint}one or more of {', '.join(EXPORT_FORMATS)}")
    if not formats or len(set(formats)) < len(formats):
        raise SettingError(f"formats=[{','.join(formats)}]: one or more of {', '.join(EXPORT_FORMATS)}, each once")
    if plain["calibration"] == "isotonic" and "onnx" in formats:
        raise SettingError(
            "calibration=isotonic and formats=onnx: its steps make a rounding in the seventh digit a different "
            "probability; give calibration=temperature or platt, or formats=[safetensors]"
        )
    _check_operating_points(plain["operating_points"] or [])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_protocols(plain: dict[str, Any]) -> None:
    chosen = plain["protocols"]["run"]
    for name in chosen:
        if name not in PROTOCOLS:
            guess = nearest(name, list(PROTOCOLS))
            hint = f"did you mean {guess}? " if guess is not None else ""
            raise SettingError(f"protocols.run={name}: {hint}one of {', '.join(PROTOCOLS)}")
    if "group" not in chosen or len(set(chosen)) < max(2, len(chosen)):
        raise SettingError(
            f"protocols.run=[{','.join(chosen)}]: needs group and at least one other, each once: the others are held "
            "against group"
        )
    if plain["trainer"]["strategy"] == "ddp":
        raise SettingError("trainer.strategy=ddp: each protocol is a sweep, and a sweep cannot run under ddp; use auto")


def _check_training(plain: dict[str, Any]) -> None:
    if not re.fullmatch(r"\w[\w.-]*", plain["name"]):
        raise SettingError(f"name={plain['name']}: letters, digits, '_', '-' and '.' only: it is the name of a folder")
    sweep = plain["sweep"]["name"]
    if sweep is not None and not re.fullmatch(r"\w[\w.-]*", sweep):
        raise SettingError(f"sweep.name={sweep}: letters, digits, '_', '-' and '.' only: it is the name of a folder")
    _check_model(plain["model"], plain["data"]["batch_size"])
    _check_balance(plain["balance"], plain["loss"], plain["data"]["batch_size"])
    trainer = plain["trainer"]
    if trainer["gpus"] == 0 and trainer["precision"] == "16-mixed":
        raise SettingError(
            "trainer.precision=16-mixed with trainer.gpus=0: a CPU has no such mode; use 32-true or auto"
        )
    if trainer["num_processes"] is not None and trainer["gpus"] != 0:
        raise SettingError(
            f"trainer.num_processes={trainer['num_processes']}: counts processes on a CPU; it needs trainer.gpus=0"
        )
    if trainer["num_processes"] not in (None, 1) and trainer["strategy"] != "ddp":
        raise SettingError(
            f"trainer.num_processes={trainer['num_processes']}: several processes need trainer.strategy=ddp"
        )
    for name in ("limit_train_batches", "limit_val_batches"):
        limit = trainer[name]
        if limit is not None and limit > 1 and limit != int(limit):
            raise SettingError(f"trainer.{name}={limit}: a share up to 1, or a whole number of batches")
    schedule = plain["schedule"]
    if schedule["low_momentum"] > schedule["high_momentum"]:
        raise SettingError(
            f"schedule.low_momentum={schedule['low_momentum']}: must not be above "
            f"schedule.high_momentum={schedule['high_momentum']}"
        )
    if schedule["stages"] is None:
        trainer["max_epochs"] = DEFAULT_EPOCHS if trainer["max_epochs"] is None else trainer["max_epochs"]
        return
    if not schedule["stages"]:
        raise SettingError("schedule.stages=[]: give a stage, schedule.stages=[{epochs:5}], or null")
    schedule["stages"] = [
        _check_stage(f"schedule.stages[{number}]", stage) for number, stage in enumerate(schedule["stages"])
    ]
    epochs = sum(stage["epochs"] for stage in schedule["stages"])
    if trainer["max_epochs"] not in (None, epochs):
        raise SettingError(
            f"trainer.max_epochs={trainer['max_epochs']}: the stages of the schedule have {epochs} epochs together; "
            "give trainer.max_epochs=null"
        )
    trainer["max_epochs"] = epochs


def _check_stage(prefix: str, stage: Any) -> dict[str, Any]:
    if not isinstance(stage, Mapping):
        raise SettingError(f"{prefix}={stage}: a stage is written {{epochs:5,freeze:body}}")
    return _check_table(prefix, stage, Stage)


def _check_model(model: dict[str, Any], batch_size: int) -> None:
    """Refuse what no network can be; one way of saying so stays for ``pretrained``."""
    pretrained = model["pretrained"]
    if not isinstance(pretrained, bool) and pretrained != "imagenet":
        raise SettingError(f"model.pretrained={pretrained}: true (or imagenet) or false")
    model["pretrained"] = pretrained is not False
    if model["head"] == "concat_pool" and model["drop_rate"] > 0:
        raise SettingError(
            f"model.drop_rate={model['drop_rate']} with model.head=concat_pool: this head has dropout of its own; "
            "leave one of them out"
        )
    if model["head"] == "concat_pool" and batch_size == 1:
        raise SettingError(
            "data.batch_size=1 with model.head=concat_pool: its batch norms need two images or more in a batch"
        )


def _check_balance(balance: dict[str, Any], loss: dict[str, Any], batch_size: int) -> None:
    """Refuse an imbalance that is corrected twice, and a loss that is not defined."""
    corrections = {
        f"balance.{name}={balance[name]}": "none" for name in ("sampler", "weighting") if balance[name] != "none"
    }
    if loss["name"] == "logit_adjusted":
        corrections["loss.name=logit_adjusted"] = "cross_entropy"
    if len(corrections) > 1 and not balance["allow_both"]:
        ways = ", ".join(f"{given.partition('=')[0]}={off}" for given, off in corrections.items())
        raise SettingError(
            f"{' and '.join(corrections)} correct the same imbalance twice; keep one of them ({ways}), or "
            "balance.allow_both=true"
        )
    if balance["sampler"] == "repeat" and batch_size == 1:
        # What is drawn for a batch depends on the images in it.
        raise SettingError(
            "data.batch_size=1 with balance.sampler=repeat: an image would be augmented in the same way each time; "
            "use 2 or more"
        )
    if loss["name"] == "focal" and loss["label_smoothing"] > 0:
        raise SettingError(
            f"loss.label_smoothing={loss['label_smoothing']} with loss.name=focal: not defined for it; leave one of "
            "them out"
        )
