"""Compare trained runs on the same records, without any account: python -m cxr.compare --help"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cxr.errors import ConfigurationError, CxrError, DataError

EXAMPLES = """\
  python -m cxr.compare outputs/lr_size_weighting/<sweep>
  python -m cxr.compare outputs/demo/<run> outputs/demo/<other run> --split test
  python -m cxr.compare outputs/demo --reference outputs/demo/<run> --metric balanced_accuracy

Runs that differ in seed or fold alone are one configuration. Written: comparison.html, comparison.csv (a row per
run), comparison_configurations.csv, comparison_tests.csv and the figures of the sweep."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see python -m cxr.compare --help")


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line, compare, print and write.

    Returns:
        The exit status: 0, or that of the `CxrError`.
    """
    try:
        _compare(_parser().parse_args(words))
    except CxrError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m cxr.compare",
        description="Compare trained runs on the same records.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="folder", help="a run, a sweep, or a folder that holds such")
    parser.add_argument(
        "--split", help="test, val, train or the name of a collection (test where all runs have it, else val)"
    )
    parser.add_argument("--metric", default="auroc", help="ranks the runs and is tested, besides accuracy (auroc)")
    parser.add_argument("--reference", help="a run against whose configuration all others are tested")
    parser.add_argument(
        "--output", type=Path, help="folder for what is written (<folder>/comparison; of several: ./comparison)"
    )
    return parser


def _compare(given: argparse.Namespace) -> None:
    from cxr.evaluation.comparison.finished_runs import find_runs

    runs = find_runs(given.paths)  # before the rest is imported, which takes seconds

    from rich.console import Console

    from cxr.evaluation.comparison.comparison import compare_runs
    from cxr.evaluation.comparison.page import write_page
    from cxr.evaluation.comparison.table import comparison_tables, write_tables

    comparison = compare_runs(runs, split=given.split, metric=given.metric, reference=given.reference)
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width: tables keep their columns
        console = Console(highlight=False, width=200)
    console.print(comparison_tables(comparison))
    if not comparison.configurations:
        reasons = "; ".join(f"{run.name}: {reason}" for run, reason in comparison.excluded[:3])
        raise DataError(f"no run can be compared on {comparison.split}: {reasons}")
    output = _output_dir(given.paths, given.output)
    try:
        written = [*write_page(comparison, output), *write_tables(comparison, output)]
    except OSError as error:
        raise ConfigurationError(
            f"{output}: cannot be written ({error.strerror}); choose another with --output"
        ) from None
    console.print(f"Page: {os.path.relpath(written[0])}", markup=False)


def _output_dir(paths: Sequence[str], output: Path | None) -> Path:
    if output is not None:
        return output.expanduser()
    only = Path(paths[0]).expanduser()
    return only / "comparison" if len(paths) == 1 and not (only / "status.json").exists() else Path("comparison")


if __name__ == "__main__":
    sys.exit(main())
