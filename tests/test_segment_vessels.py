"""The weights that come with univg: small, no real picture in them, a better start than chance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from univg.files import make_folder
from univg.generate.procedural import render_pair
from univg.images import encode_image
from univg.masks import encode_mask
from univg.modalities import find_modality
from univg.sca.compose import grow_mask
from univg.sca.params import growth_of
from univg.sd_source import EMBEDDED as BASES
from univg.seeds import rng_for
from univg.segment import fit
from univg.segment.fit import Fit, resolve
from univg.segment.predictor import load_predictor
from univg.segment.start import EMBEDDED, find_start
from univg.segment.weights import read_card

FILE = EMBEDDED["vessels"]
LARGEST_BYTES = 25_000_000
SIDES = (128, 128)
SEED = 77
"""None of `benchmarks/pretrain_segmenter.py`."""


def make_pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair of the look that no modality has, which the weights have not seen either."""
    growth = growth_of(find_modality("brain"))
    mask = grow_mask(growth, *SIDES, rng_for(SEED, "brain", number)).pixels > 0
    return render_pair(mask, "brain", SEED, number, "unseen")


def write_pairs(folder: Path, numbers: range) -> Path:
    for number in numbers:
        image, mask = make_pair(number)
        for kind, data in (("images", encode_image(image)), ("masks", encode_mask(mask))):
            (make_folder(folder / kind) / f"p{number}.png").write_bytes(data)
    return folder


def test_all_that_is_embedded_together_stays_small():
    folders = [*BASES.values(), FILE.parent]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert FILE in files
    assert sum(path.stat().st_size for path in files) < LARGEST_BYTES


def test_it_has_a_card():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    for words in ("license: apache-2.0", "## What went in", "## What it reaches"):
        assert words in text


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        ({}, "vessels"),
        ({"network": "unet-small"}, "vessels"),
        ({"network_options": ("depth=5",)}, "vessels"),
        ({"network_options": ("channels=8",)}, "none"),
        ({"network": "swin-unet"}, "none"),
        ({"start_from": "none"}, "none"),
        ({"preset": "strong"}, "none"),
        ({"preset": "paper"}, "none"),
    ],
)
def test_the_laptop_preset_starts_from_it_where_it_fits(tmp_path, asked, start):
    found = resolve(Fit(shots=tmp_path, out=tmp_path / "out", **asked), 5, 0)
    assert found.start_from == start
    if start == "vessels":
        assert find_start(found.start_from) == FILE
        assert found.network == read_card(FILE).network == "unet-small"


def test_some_steps_from_it_are_better_than_from_nothing(tmp_path):
    shots = write_pairs(tmp_path / "shots", range(5))
    settings = Fit(
        shots=shots, out=tmp_path / "start", max_steps=8, batch=4, patch_px=96, tracker="none",
        report_samples=0, preview_every=0, validate_every=0, precision="no",
    )  # fmt: skip
    fit.run(settings)
    fit.run(dataclasses.replace(settings, out=tmp_path / "nothing", start_from="none"))
    dice = {}
    for name in ("start", "nothing"):
        predictor = load_predictor(tmp_path / name, device="cpu")
        pairs = [make_pair(number) for number in range(50, 56)]
        found = [(predictor.predict(image).mask, mask) for image, mask in pairs]
        dice[name] = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in found])
    assert dice["start"] > dice["nothing"] + 0.05, dice
