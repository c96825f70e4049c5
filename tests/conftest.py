"""Tests run on the CPU, where they are exact, on machines with a GPU too; `-m gpu` asks for it."""

from __future__ import annotations

import itertools
import os
import sys


def _asks_for_gpu(words: list[str]) -> bool:
    """Whether the command line selects the tests that need a GPU."""
    marked = [after for word, after in itertools.pairwise(words) if word == "-m"]
    return any("gpu" in each and "not gpu" not in each for each in marked)


if not _asks_for_gpu(sys.argv):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported
