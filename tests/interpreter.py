#!/usr/bin/env python3
"""Stands for the interpreter where a program of `tests.programs` starts further ones, by the path in sys.executable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.programs import run_as_asked

if __name__ == "__main__":
    run_as_asked(sys.argv[1:])
