"""How are the networks of a protocol trained and pooled?  By train.py and evaluate.py, as a user would type them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.types import Quote, QuotedString

from cxr.config import CONF_DIR
from cxr.errors import ConfigurationError
from cxr.files import write_atomically
from cxr.interruption import defer, end_if_asked, resume
from cxr.resumption import changes
from cxr.training.run_directory import RunDirectory, make_folder

if TYPE_CHECKING:
    from cxr.evaluation.protocols.plan import Network, Protocol

ROOT = CONF_DIR.parent
# What may differ when a call is taken up again: it changes no network that is trained already.
FREE = ("run", "num_resamples", "min_images", "resume")
COMMANDS = "commands.json"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")
_WORDS_OF_HYDRA = ("null", "true", "false", "nan", "inf")


@dataclass
class ProtocolRuns:
    """The folder of one call, and what is trained in it.

    Attributes:
        folder: holds a folder for each protocol, with its sweeps and ``pooled``, the evaluation out of fold.
        settings: of every training but for its split.
        typed: the words of the command line that train.py gets.
        commands: what was run, also by earlier calls -> the command, as it can be typed.
        failures: network or protocol, in words -> what went wrong.
    """

    folder: Path
    settings: Mapping[str, Any]
    typed: Sequence[str]
    commands: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Mapping[str, Any], typed: Sequence[str]) -> ProtocolRuns:
        """Make a folder, or take up one that an earlier call has left.

        Raises:
            ConfigurationError: no such folder, or one of another configuration.
        """
        given = settings["protocols"]["resume"]
        folder = (
            make_folder(settings["paths"]["output"], f"protocols/{settings['name']}") if given is None else Path(given)
        )
        path = folder / "configuration.json"
        fixed = _fixed(settings)
        if given is None:
            write_atomically(path, json.dumps(fixed, indent=2) + "\n")
        elif not path.is_file():
            raise ConfigurationError(f"protocols.resume={given}: no folder of an earlier call (configuration.json)")
        elif changed := changes(json.loads(path.read_text(encoding="utf-8")), fixed):
            name, old, new = changed[0]
            raise ConfigurationError(
                f"protocols.resume={given}: its trainings had another {name} ({old}, not {new}); give the same"
            )
        words = [word for word in typed if not word.lstrip("+~").startswith("protocols.")]
        commands = folder / COMMANDS
        known = json.loads(commands.read_text(encoding="utf-8")) if commands.is_file() else {}
        return cls(folder, settings, words, commands=known)

    def train(self, protocol: Protocol) -> None:
        """Train what is not trained yet; say which failed."""
        known = self.finished(protocol)
        missing = [network for network in protocol.trained if network.name not in known]
        if not missing:
            return
        number = 1 + len(list(self._of(protocol).glob("sweep_*")))
        sweep = self._of(protocol) / f"sweep_{number}"
        words = ["-m", *self.typed, *self._split(missing), *self._group(protocol)]
        words.append(f"hydra.sweep.dir={_quoted(_shown(sweep))}")
        status = self._run(f"{protocol.title}, training", "train.py", words)
        known = self.finished(protocol)
        for network in missing:
            if network.name not in known:
                reason = self._reasons(sweep).get(network.name) or f"train.py ended with exit status {status}"
                self.failures[f"{protocol.title}, {_named(protocol, network)}"] = reason

    def pool(self, protocol: Protocol) -> str | None:
        """Score every network on what it has not seen, all in one evaluation.

        Returns:
            Why there is none; None where there is.
        """
        known = self.finished(protocol)
        lost = [network.name for network in protocol.trained if network.name not in known]
        if lost and (len(lost) == len(protocol.trained) or protocol.networks[0].split["kind"] == "kfold"):
            return f"{len(lost)} of {len(protocol.trained)} trainings failed"
        pooled = self.pooled(protocol)
        stamp, wanted = pooled / "runs.json", [_shown(path) for path in known.values()]
        if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
            return None
        given = self.settings["trainer"]["gpus"]
        device = [] if given is None else [f"trainer.gpus={min(abs(given), 1)}"]
        runs = ",".join(map(_quoted, wanted))
        words = [f"run=[{runs}]", f"paths.output={_quoted(_shown(pooled))}", "saliency=0", "shortcuts=false"]
        status = self._run(f"{protocol.title}, out of fold", "evaluate.py", [*words, "tracking=none", *device])
        if status != 0:
            reason = f"evaluate.py ended with exit status {status}"
            self.failures[f"{protocol.title}, out of fold"] = reason
            return reason
        write_atomically(stamp, json.dumps(wanted) + "\n")
        return None

    def finished(self, protocol: Protocol) -> dict[str, Path]:
        """Network -> its run, of those that were trained to the end, in the order of the plan."""
        found = {}
        for path in sorted(self._of(protocol).glob("sweep_*/*/status.json")):
            run = RunDirectory(path.parent)
            if run.read_status().get("status") == "finished":
                found[_network_of(run)] = run.path
        return {network.name: found[network.name] for network in protocol.trained if network.name in found}

    def pooled(self, protocol: Protocol) -> Path:
        """Where the evaluation out of fold lies."""
        return self._of(protocol) / "pooled"

    def _of(self, protocol: Protocol) -> Path:
        return self.folder / protocol.name

    def _reasons(self, sweep: Path) -> dict[str, str]:
        """Network -> why its run was not trained to the end, as far as the run says."""
        reasons = {}
        for path in sweep.glob("*/status.json"):
            run = RunDirectory(path.parent)
            status = run.read_status()
            if status.get("status") != "finished" and run.config_path.is_file():
                reasons[_network_of(run)] = str(status.get("reason") or status.get("status"))
        return reasons

    def _split(self, networks: Sequence[Network]) -> list[str]:
        """The overrides that divide the records, the networks as values of a sweep."""
        first = dict(networks[0].split)
        swept = "fold" if first["kind"] == "kfold" else "value"
        first[swept] = ",".join(_quoted(str(network.split[swept])) for network in networks)
        words = [f"data.split.{key}={value}" for key, value in first.items()]
        # A data option may have a split of its own, whose other keys would contradict this one.
        held = self.settings["data"]["split"]
        others = {"path": None, "value": None, "unit": "group"}
        return words + [
            f"data.split.{key}={'null' if value is None else value}"
            for key, value in others.items()
            if key not in first and held[key] != value
        ]

    def _group(self, protocol: Protocol) -> list[str]:
        """The W&B group, which would else be called after the folder of the sweep, as those of all protocols."""
        logger = self.settings["logger"]
        if logger["name"] != "wandb" or logger["group"] is not None:
            return []
        return [f"logger.group={_quoted(f'{self.folder.name}_{protocol.name}')}"]

    def _run(self, what: str, program: str, words: Sequence[str]) -> int:
        shown = shlex.join(["python", os.path.relpath(ROOT / program), *words])
        again = 1 + sum(name.split(" (")[0] == what for name in self.commands)
        self.commands[what if again == 1 else f"{what} ({again})"] = shown
        write_atomically(self.folder / COMMANDS, json.dumps(self.commands, indent=2) + "\n")
        print(f"\n{what}\n  {shown}\n", flush=True)
        return run_to_end([sys.executable, str(ROOT / program), *words])


def run_to_end(command: Sequence[str]) -> int:
    """Run a program; a signal that ends this one is handed on, once, and waited for.

    The child has a process group of its own: Ctrl-C would else reach it twice, and the second of two ends it on the
    spot.

    Returns:
        Its exit status.

    Raises:
        SystemExit: 130 or 143, when the child has ended.
    """
    defer()
    child = subprocess.Popen(command, process_group=0)
    resume()
    try:
        end_if_asked()
        return child.wait()
    except SystemExit as end:
        defer()
        child.send_signal(int(end.code or 0) - 128)
        child.wait()
        raise


def _name(settings: Mapping[str, Any]) -> str:
    return f"protocols/{settings['name']}"


def _named(protocol: Protocol, network: Network) -> str:
    return f"fold {network.name}" if network.split["kind"] == "kfold" else f"without {network.name}"


def _network_of(run: RunDirectory) -> str:
    """The name of the network that a run trained, from its configuration."""
    split = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))["data"]["split"]
    return str(split["fold"]) if split["kind"] == "kfold" else str(split["value"])


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _quoted(text: str) -> str:
    """A value as Hydra's grammar wants it."""
    if text and set(text) <= _PLAIN and text.lower() not in _WORDS_OF_HYDRA:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every training of a folder has in common."""
    own = {name: value for name, value in settings["protocols"].items() if name not in FREE}
    left_out = ("paths", "logger", "protocols")
    kept = {name: value for name, value in settings.items() if name not in left_out} | {"protocols": own}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain
