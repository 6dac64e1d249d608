"""Build the W&B workspace of a project, its saved dashboard, from code: python -m cxr.dashboard --help"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cxr.errors import ConfigurationError, CxrError

KEYS = {
    "project": "W&B project (needed)",
    "entity": "W&B account or team (the default of the key)",
    "split": "whose evaluations are shown: test, val or the name of a collection (test)",
    "name": "of the workspace (cxr)",
    "replace": "address of an earlier workspace that this one takes the place of (none: a new one)",
}
EXAMPLES = """\
  python -m cxr.dashboard project=cxr
  python -m cxr.dashboard project=cxr entity=our-team split=chest_xray
  python -m cxr.dashboard project=cxr --output dashboard.json

Sections: what a sweep found (best validation AUROC by learning rate, image size and class weighting, parallel
coordinates), training, evaluation, calibration, subgroups, cost. Needs the extra cxr[dashboard], and an account unless
--output is given. Exit status: 0 done, 1 no server, 2 no account or a mistake."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see python -m cxr.dashboard --help")


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line, build, and write or push.

    Returns:
        The exit status: 0, or that of the `CxrError`.
    """
    try:
        given = _parser().parse_args(words)
        _build(_settings(given.settings), given.output)
    except CxrError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    keys = "\n".join(f"  {name}=...  {meaning}" for name, meaning in KEYS.items())
    parser = _Parser(
        prog="python -m cxr.dashboard",
        description=f"Build a W&B workspace for the runs of a project.\n\n{keys}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="see above")
    parser.add_argument("--output", type=Path, help="write the workspace to this JSON file, and push nothing")
    return parser


def _settings(words: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigurationError(f"{word}: not of the form key=value; the keys: {', '.join(KEYS)}")
        if key not in KEYS:
            raise ConfigurationError(f"{key}: there is no such key; one of {', '.join(KEYS)}")
        settings[key] = value
    if "project" not in settings:
        raise ConfigurationError("project: not given; python -m cxr.dashboard project=<W&B project>")
    return settings


def _build(settings: dict[str, str], output: Path | None) -> None:
    from cxr.evaluation.workspace import build_workspace, push, to_json

    chosen = {name: settings[name] for name in ("split", "name") if name in settings}
    if output is not None:
        workspace = build_workspace(settings["project"], settings.get("entity", ""), **chosen)
        try:
            output.write_text(to_json(workspace) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {output}: cannot be written ({error.strerror})") from None
        print(f"Workspace: {os.path.relpath(output)}")
        return
    from cxr.training.wandb_account import require_server

    require_server("--output <file> builds the workspace without an account")
    import wandb

    try:
        entity = settings.get("entity") or wandb.Api().default_entity or ""
        address = push(build_workspace(settings["project"], entity, **chosen), settings.get("replace"))
    except CxrError:
        raise
    except Exception as error:  # what the server and the libraries say is of many kinds
        raise CxrError(
            f"W&B did not take the workspace ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from None
    print(f"Workspace: {address}")


if __name__ == "__main__":
    sys.exit(main())
