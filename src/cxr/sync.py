"""Send what W&B tracked offline, a whole sweep at once: python -m cxr.sync --help"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cxr.errors import ConfigurationError, CxrError

if TYPE_CHECKING:
    from cxr.training.offline_runs import OfflineRun

EXAMPLES = """\
  python -m cxr.sync outputs/lr_size_weighting/<sweep>
  python -m cxr.sync outputs --list

Needs an account: set WANDB_API_KEY, or `wandb login`. Without one, `wandb leet <sweep>/tracking/wandb` shows all runs.
Exit status: 0 all sent, 1 some could not be sent, or no server, 2 no key or no such folder, 3 a damaged file."""
# Seconds in which one run must be sent.
RUN_TIMEOUT = 3600.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see python -m cxr.sync --help")


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line, list or send.

    Returns:
        The exit status: 0, 1 where a run was not sent, or that of the `CxrError`.
    """
    try:
        given = _parser().parse_args(words)
        from cxr.training.offline_runs import find_offline_runs

        runs = find_offline_runs(given.paths)
        if given.list:
            _list(runs)
            return 0
        return _send(runs)
    except CxrError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m cxr.sync",
        description="Send offline W&B runs with their artifacts, and tell the server which weights were evaluated.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="folder", help="a run, a sweep, or a folder that holds such")
    parser.add_argument("--list", action="store_true", help="say what would be sent; neither key nor network is needed")
    return parser


def _list(runs: Sequence[OfflineRun]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Offline runs", title_justify="left", title_style="bold")
    for name in ("run", "id", "type", "status", "artifacts", "MB", "sent"):
        table.add_column(name, justify="right" if name == "MB" else "left", overflow="fold")
    for run in runs:
        gone = f" ({len(run.missing)} files are gone)" if run.missing else ""
        cells = [run.name, run.id, run.job_type, run.status or run.state, f"{len(run.artifacts)}{gone}"]
        sent = "yes" if run.sent else "nothing to send" if run.state == "empty" else "no"
        table.add_row(*map(escape, cells), f"{run.staged_bytes / 1e6:,.1f}", sent)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table)
    waiting = [run for run in runs if _waits(run)]
    size = sum(run.staged_bytes for run in waiting) / 1e6
    console.print(f"To be sent: {len(waiting)} of {len(runs)}, {size:,.1f} MB of artifacts", markup=False)


def _send(runs: Sequence[OfflineRun]) -> int:
    waiting, untold = [run for run in runs if _waits(run)], [run for run in runs if run.models and not run.told]
    for run in (each for each in runs if each.state == "empty"):
        print(f"nothing to send: {run.name} was killed before it had written anything", file=sys.stderr, flush=True)
    skipped, sent, failed = sum(run.sent for run in runs), 0, 0
    if waiting or untold:
        from cxr.training.wandb_account import require_server

        folder = os.path.relpath((waiting or untold)[0].tracking_dir)
        require_server(f"without an account, `wandb leet {folder}/wandb` shows the runs")
    # The parts of a run that was resumed go together: W&B then appends them in the order in which they began.
    together: dict[tuple[str, str], list[OfflineRun]] = {}
    for run in waiting:
        together.setdefault((run.project, run.id), []).append(run)
    unsent = set()
    for parts in together.values():
        reason = _missing(parts) or _sync(parts)
        if reason is None:
            sent += len(parts)
            print(f"sent: {parts[0].name}", flush=True)
        else:
            failed += len(parts)
            unsent |= {part.path for part in parts}
            print(f"failed: {parts[0].name}: {reason}", file=sys.stderr, flush=True)
    for run in untold:
        reason = None if run.path in unsent else _tell(run)
        if reason is not None:
            print(f"no lineage yet: {run.name}: {reason}; call this again", file=sys.stderr, flush=True)
    print(f"Sent {sent}, skipped {skipped} (sent before), failed {failed}.", flush=True)
    return 1 if failed else 0


def _waits(run: OfflineRun) -> bool:
    return not run.sent and run.state != "empty"


def _missing(parts: Sequence[OfflineRun]) -> str | None:
    gone = [file for part in parts for file in part.missing]
    if not gone:
        return None
    return f"{len(gone)} files of its artifacts are gone (first: {gone[0]}); put them back"


def _sync(parts: Sequence[OfflineRun]) -> str | None:
    """Send the parts of one run with W&B's own program; None, or why not."""
    from cxr.training.offline_runs import wandb_command, wandb_environment

    folder = parts[0].tracking_dir
    logs = folder / "wandb" / "logs"
    read = {log: log.stat().st_size for log in logs.glob("debug-sync.*.log")}
    try:
        done = subprocess.run(
            wandb_command("sync", *(str(part.path) for part in parts)),
            cwd=folder,
            env=wandb_environment(folder),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=RUN_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not sent within {RUN_TIMEOUT:.0f} s"
    marks = [mark for part in parts for mark in part.path.glob("*.wandb.synced")]
    # W&B marks a run as sent, and ends well, also where the files of its artifacts were not; only its log says so.
    refused = [line for log in sorted(logs.glob("debug-sync.*.log")) for line in _refused(log, read.get(log, 0))]
    if refused:
        for mark in marks:
            mark.unlink()
        return f"{len(refused)} artifacts did not arrive ({refused[0]})"
    if done.returncode == 0 and len(marks) == len(parts):
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"wandb sync ended with {done.returncode}"


def _refused(log: Path, start: int) -> list[str]:
    """What W&B's log, from a byte on, says of artifacts that could not be sent."""
    lines = log.read_bytes()[start:].decode("utf-8", errors="replace").splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [each["msg"] for each in said if each.get("level") == "ERROR" and "artifact" in each.get("msg", "")]


def _tell(run: OfflineRun) -> str | None:
    """Tell the server which weights an evaluation used: offline W&B could not be told; None, or why not."""
    import wandb

    try:
        api = wandb.Api(overrides={"project": run.project, **({"entity": run.entity} if run.entity else {})})
        place = "/".join(part for part in (run.entity or api.default_entity, run.project) if part)
        online = api.run(f"{place}/{run.id}")
        for name in run.models:
            online.use_artifact(api.artifact(f"{place}/{name}"))
        run.mark_told()
    except Exception as error:  # the run has been sent; its config names the artifact all the same
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
