"""Train one configuration under several splits and say how far each flatters it: python -m cxr.protocols --help"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cxr.command_line import Job, launch
from cxr.errors import CxrError, DataError

if TYPE_CHECKING:
    from cxr.evaluation.protocols.optimism import Row
    from cxr.evaluation.protocols.plan import Protocol
    from cxr.pipeline.records import Records
    from cxr.protocol_runs import ProtocolRuns

TYPED: list[str] = []  # the words of the command line, before Hydra has seen them


def protocols(job: Job) -> None:
    """Plan, train the networks of each protocol as a sweep, pool what they say out of fold, and compare.

    Raises:
        ConfigurationError, DataError: before anything is trained.
        CxrError: a training or an evaluation failed, after all others were done and compared.
    """
    from cxr.protocol_runs import ProtocolRuns
    from cxr.training.accelerators import resolve_devices

    settings, chosen = job.settings, job.settings["protocols"]
    if chosen["resume"] is not None:
        ProtocolRuns.open(settings, TYPED)  # a wrong folder is found now, before anything heavy is imported
    resolve_devices(settings["trainer"]["gpus"])

    from cxr.evaluation.protocols.plan import plan_protocols

    records = _read(settings)
    plan = plan_protocols(
        records,
        chosen["run"],
        num_folds=chosen["num_folds"],
        min_images=chosen["min_images"],
        seed=settings["data"]["split"]["seed"],
        val_fraction=settings["data"]["split"]["val_fraction"],
    )
    console = _console()
    console.print(_plan_table(plan))
    reference = next(protocol for protocol in plan if protocol.name == "group")
    if reference.reason is not None:
        raise DataError(f"the split by group is impossible, and nothing to hold the others against: {reference.reason}")
    runs = ProtocolRuns.open(settings, TYPED)
    lost: dict[str, str] = {}
    for protocol in plan:
        if protocol.reason is None and protocol.same_as is None:
            runs.train(protocol)
            reason = runs.pool(protocol)
            if reason is not None:
                lost[protocol.name] = reason
    rows = _compare(plan, runs, lost, records, chosen["num_resamples"])
    _report(rows, runs, settings, console)
    if runs.failures:
        told = "; ".join(f"{what}: {reason}" for what, reason in runs.failures.items())
        raise CxrError(
            f"{len(runs.failures)} of the trainings and evaluations failed: {told}; the same command with "
            f"protocols.resume={os.path.relpath(runs.folder)} does only these again"
        )


def _read(settings: Mapping[str, Any]) -> Records:
    """What all protocols divide, with copies looked for once: the trainings find the result in the cache."""
    from cxr.pipeline.records import read_records

    taken = ("classes", "positive", "views", "download", "look_for_copies")
    return read_records(
        settings["data"]["sources"],
        data_dir=settings["paths"]["data"],
        cache_dir=settings["paths"]["cache"],
        **{name: settings["data"][name] for name in taken},
    )


def _plan_table(plan: Sequence[Protocol]) -> Group:
    """What is going to be trained, and what is impossible, before an hour is spent."""
    table = Table(title="Plan", title_justify="left", title_style="bold")
    for title in ("protocol", "networks to train", "images tested", "patients on two sides"):
        table.add_column(title, justify="left" if title == "protocol" else "right")
    lines = []
    for protocol in plan:
        possible = protocol.reason is None
        trained = protocol.trained if possible else ()
        num_networks = f"as {protocol.same_as}" if protocol.same_as is not None else f"{len(trained)}"
        tested = sum(network.num_images for network in trained)
        table.add_row(Text(protocol.title), num_networks, f"{tested:,}", f"{protocol.num_leaks:,}")
        said = [f"impossible: {protocol.reason}"] if not possible else [
            f"without {network.name}: impossible: {network.reason}"
            for network in protocol.networks
            if network.reason is not None
        ]  # fmt: skip
        lines += [Text(f"  {protocol.title}: {text}.") for text in [*said, *protocol.notes]]
    return Group(table, *lines)


def _compare(
    plan: Sequence[Protocol], runs: ProtocolRuns, lost: Mapping[str, str], records: Records, num_resamples: int
) -> list[Row]:
    from cxr.evaluation.protocols.optimism import compare_protocols
    from cxr.evaluation.protocols.scored import read_scored

    positive = runs.settings["data"]["positive"] or records.manifest.class_names[0]
    scored = {
        protocol.name: read_scored(runs.pooled(protocol), runs.finished(protocol), positive)
        for protocol in plan
        if protocol.reason is None and protocol.same_as is None and protocol.name not in lost
    }
    told = []
    for protocol in plan:
        known = runs.finished(protocol)
        networks = tuple(
            network
            if network.reason is not None or network.name in known or protocol.name not in ("source", "country")
            else replace(network, reason="the training failed")
            for network in protocol.networks
        )
        told.append(replace(protocol, networks=networks))
    return compare_protocols(told, scored, lost, num_resamples=num_resamples)


def _report(rows: Sequence[Row], runs: ProtocolRuns, settings: Mapping[str, Any], console: Console) -> None:
    from cxr.evaluation.protocols.figure import draw_protocols
    from cxr.evaluation.protocols.page import write_page
    from cxr.evaluation.protocols.table import protocols_table, write_tables

    write_tables(rows, runs.folder, settings)
    figure, page = runs.folder / "protocols.png", runs.folder / "protocols.html"
    drawn = draw_protocols(rows, figure)
    write_page(rows, runs.commands, figure if drawn else None, page)
    console.print(protocols_table(rows))
    console.print(f"Page: {escape(os.path.relpath(page))}")


def _console() -> Console:
    # Tables keep their columns where the output is a file or a pipe, which has no width.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=190)


if __name__ == "__main__":
    TYPED += sys.argv[1:]
    sys.exit(launch(protocols, "protocols"))
