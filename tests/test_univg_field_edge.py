"""A ragged edge of a drawn field becomes that of the field; all else stays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.field_edge import mend_edge
from univg.masks import find_fov

SIDE = 128
COLOUR = np.array([200, 90, 40], np.uint8)


def disc(radius: float, centre: tuple[float, float] = (64, 64)) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def paint(inside: np.ndarray) -> np.ndarray:
    """Return a field in one colour that grows lighter downwards, on a dark surround."""
    light = np.linspace(0.8, 1.2, SIDE)[:, None, None]
    return np.where(inside[..., None], COLOUR * light, 8).astype(np.uint8)


def ragged(seed: int) -> np.ndarray:
    """Return a disc whose radius is off by up to 5 px, another at each angle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - 64
    turns = np.arctan2(rows, columns)
    wave = sum(rng.uniform(-1, 1) * np.cos(k * turns + rng.uniform(0, 6)) for k in range(4, 10))
    return np.hypot(rows, columns) <= 56 + 5 * wave / np.abs(wave).max()


@pytest.mark.parametrize("seed", range(3))
def test_a_ragged_edge_becomes_that_of_the_field(seed):
    field, drawn = disc(56), cv2.GaussianBlur(paint(ragged(seed)), (0, 0), 1.0)
    mended = mend_edge(drawn, field)
    edge = disc(57.5) & ~disc(54.5)
    assert ((find_fov(drawn) ^ field) & ~edge).sum() > 100
    assert not ((find_fov(mended) ^ field) & ~edge).any()
    rim = field & ~disc(50)
    wrong = np.abs(mended.astype(int) - paint(field).astype(int))[rim & disc(54)]
    assert np.median(wrong) <= 6, "bays go on as the ground beside them"
    assert (mended[disc(40)] == drawn[disc(40)]).all()


def test_what_has_the_edge_stays_as_it_is():
    picture = paint(disc(56))
    assert mend_edge(picture, find_fov(picture)) is picture


def test_another_field_is_left_alone():
    picture = paint(disc(40))
    assert (mend_edge(picture, disc(60)) == picture).all()


@pytest.mark.parametrize("field", [np.ones((SIDE, SIDE), bool), disc(300)])
def test_no_edge_no_change(field):
    picture = paint(ragged(0))
    assert (mend_edge(picture, field) == picture).all()


def test_a_dark_place_inside_is_no_bay():
    picture = paint(ragged(0))
    picture[60:68, 60:68] = 0
    mended = mend_edge(picture, disc(56))
    assert (mended != picture).any(), "the edge is mended all the same"
    assert (mended[60:68, 60:68] == 0).all()
