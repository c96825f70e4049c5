"""Masks that are those of other shots: the tools say so before any work."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from test_univg_recipe import data as data  # a fixture

from univg.data_cards.check import diagnose
from univg.pairing import MOST_COMPARED, doubt_pairing
from univg.pairs import open_pairs
from univg.segment.fit import Fit
from univg.segment.fit_data import read_pairs
from univg.train.shots import read_shots


@pytest.fixture
def shots(data, tmp_path) -> Path:
    shots = tmp_path / "shots"
    shutil.copytree(data / "shots", shots)
    (shots / "manifest.jsonl").unlink()
    return shots


def exchange(shots: Path) -> str:
    """Exchange two masks; return the name of the first."""
    first, second = sorted((shots / "masks").iterdir())[:2]
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    return first.name


def warned(work: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(each.message) for each in caught]


TOOLS: dict[str, Callable[[Path], list[str]]] = {
    "data check": lambda shots: diagnose(shots).warnings,
    "segment fit": lambda shots: warned(
        lambda: read_pairs(Fit(shots=shots, out=shots.parent / "out"))
    ),
    "train adapt-images": lambda shots: warned(
        lambda: read_shots(shots, need="pairs", size_px=64, fit="stretch")
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_says_that_masks_are_mixed_up(shots, tool):
    assert not any("mixed up" in line for line in TOOLS[tool](shots))
    name = exchange(shots)
    told = [line for line in TOOLS[tool](shots) if "are masks mixed up?" in line]
    assert len(told) == 2
    assert name in told[0]


def test_masks_alone_are_not_compared_with_images(shots):
    exchange(shots)
    assert not warned(lambda: read_shots(shots, need="masks", size_px=64, fit="stretch"))


def test_of_many_pairs_nothing_is_said(shots):
    exchange(shots)
    pairs = open_pairs(shots).pairs
    assert len(doubt_pairing(pairs)) == 2
    assert doubt_pairing(pairs * (MOST_COMPARED // len(pairs) + 1)) == []
