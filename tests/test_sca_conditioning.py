"""R-SCA: real vessels are followed as far as the strength says, and never copied by default."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from univg.modalities import find_modality, modality_names
from univg.sca.compose import Synthetic, grow_mask
from univg.sca.params import Growth, growth_of
from univg.sca.template import trace_template
from univg.skeleton import skeleton_graph

STILL = {
    "warp_px": 0.0,
    "rotate_deg": 0.0,
    "zoom": 1.0,
    "shift_px": 0.0,
    "jitter_px": 0.0,
    "graft": 0.0,
    "mirror": False,
    "flip": False,
    "quarter_turns": False,
}


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@cache
def real_masks(name: str, count: int = 3) -> tuple[np.ndarray, ...]:
    """Masks that stand for real ones: the project's own."""
    growth = growth_of(find_modality(name))
    return tuple(grow_mask(growth, 384, 384, rng(1000 + k)).pixels > 0 for k in range(count))


@cache
def centreline(name: str, number: int) -> np.ndarray:
    graph = skeleton_graph(real_masks(name)[number])
    line = np.zeros((384, 384), np.uint8)
    row, column = graph.rows.round().astype(int), graph.columns.round().astype(int)
    line[np.clip(row, 0, 383), np.clip(column, 0, 383)] = 1
    return line > 0


def without_mirror(name: str, **real: object) -> Growth:
    growth = growth_of(find_modality(name))
    return replace(growth, mirror=0.0, real=replace(growth.real, **real))


def make(name: str, growth: Growth, seed: int, count: int = 1) -> Synthetic:
    rooting = growth.real.roots
    templates = [
        trace_template(mask, f"real-{k}", rooting)
        for k, mask in enumerate(real_masks(name)[:count])
    ]
    return grow_mask(growth, 384, 384, rng(seed), templates)


def recall(name: str, made: Synthetic, within_px: float = 3.0) -> float:
    """Share of the real centreline that lies within `within_px` of the mask made."""
    away = cv2.distanceTransform((made.pixels == 0).astype(np.uint8), cv2.DIST_L2, 5)
    return float((away[centreline(name, 0)] <= within_px).mean())


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / max(1, int(first.sum() + second.sum()))


@pytest.mark.parametrize("name", modality_names())
def test_strength_1_follows_every_real_vessel(name):
    growth = without_mirror(name, strength=1.0, **STILL)
    found = [recall(name, make(name, growth, seed)) for seed in range(3)]
    assert min(found) > 0.9


@pytest.mark.parametrize("name", modality_names())
def test_strength_0_does_not(name):
    full = without_mirror(name, strength=1.0, **STILL)
    none = without_mirror(name, strength=0.0, **STILL)
    with_it = np.mean([recall(name, make(name, full, seed)) for seed in range(3)])
    without = np.mean([recall(name, make(name, none, seed)) for seed in range(3)])
    assert without < with_it - 0.2


def test_more_strength_keeps_more():
    kept = [
        np.mean(
            [
                make("fundus", without_mirror("fundus", strength=s), seed).parameters.get(
                    "kept", 0.0
                )
                for seed in range(6)
            ]
        )
        for s in (0.0, 0.4, 0.8, 1.0)
    ]
    assert kept == sorted(kept)
    assert kept[0] < 0.1 and kept[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", modality_names())
def test_at_the_cards_defaults_no_real_mask_is_copied(name):
    growth = growth_of(find_modality(name))
    for seed in range(4):
        made = make(name, growth, seed, count=3).pixels > 0
        for real in real_masks(name):
            for turned in (real, real[:, ::-1], real[::-1], real[::-1, ::-1]):
                assert overlap(made, turned) < 0.75


@pytest.mark.parametrize("name", modality_names())
def test_the_density_stays_near_that_of_the_real_masks(name):
    growth = growth_of(find_modality(name))
    made = np.mean([(make(name, growth, seed, 3).pixels > 0).mean() for seed in range(6)])
    real = np.mean([mask.mean() for mask in real_masks(name)])
    assert 0.6 < made / real < 1.7


def test_what_was_followed_is_told():
    parameters = make("fundus", growth_of(find_modality("fundus")), 3, count=3).parameters
    assert parameters["template"] in {"real-0", "real-1", "real-2"}
    assert 0 <= parameters["kept"] <= 1 and 0 <= parameters["strength"] <= 1


def test_real_masks_of_another_size_and_aspect():
    wide = cv2.resize(
        real_masks("fundus")[0].astype(np.uint8), (500, 260), interpolation=cv2.INTER_NEAREST
    )
    template = trace_template(wide > 0, "wide", "thick")
    growth = growth_of(find_modality("fundus"))
    made = grow_mask(growth, 200, 320, rng(1), [template])
    assert made.pixels.shape == (200, 320) and made.pixels.any()


def test_width_of_the_real_vessels():
    """At full strength a vessel is at least about as wide as the real one it follows."""
    growth = without_mirror("fundus", strength=1.0, width_factor=1.0, **STILL)
    thin = replace(growth, real=replace(growth.real, width_factor=0.0))
    real = real_masks("fundus")[0]
    covered = [overlap(make("fundus", g, 2).pixels > 0, real) for g in (thin, growth)]
    assert covered[1] > 0.6
