"""Grain is measured where it is, put back as strong and as fine, and changes nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.grain import BANDS, LEVELS, Grain, add_grain, learn_grain

SIDE = 96


def smooth_picture(seed: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 12)
    grey = np.interp(field, (field.min(), field.max()), (30, 220))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], channels, axis=2)


def grainy(picture: np.ndarray, seed: int, sigma: float, blur: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=picture.shape[:2])
    if blur:
        noise = cv2.GaussianBlur(noise, (0, 0), blur)
        noise /= noise.std()
    return np.clip(np.rint(picture + sigma * noise[..., None]), 0, 255).astype(np.uint8)


def fineness(picture: np.ndarray, clean: np.ndarray) -> float:
    """Return how alike neighbours are: 0 for white noise, near 1 for coarse."""
    left = picture[..., 0].astype(float) - clean[..., 0]
    return float(np.corrcoef(left[:, 1:].ravel(), left[:, :-1].ravel())[0, 1])


@pytest.mark.parametrize(("sigma", "blur"), [(6.0, 0.0), (14.0, 0.8)])
def test_what_was_lost_comes_back_as_strong_and_as_fine(sigma, blur):
    clean = [smooth_picture(k) for k in range(5)]
    real = [grainy(picture, 10 + k, sigma, blur) for k, picture in enumerate(clean)]
    grain = learn_grain(real, clean)
    other = smooth_picture(7)
    made = add_grain(other, grain, np.random.default_rng(1))
    wanted = grainy(other, 99, sigma, blur)
    spread = [float(np.std(each[..., 0].astype(float) - other[..., 0])) for each in (made, wanted)]
    assert spread[0] == pytest.approx(spread[1], rel=0.15)
    assert fineness(made, other) == pytest.approx(fineness(wanted, other), abs=0.12)
    assert (made[..., 0] == made[..., 2]).all(), "no colour where the shots have none"


def test_grain_follows_brightness():
    clean = [smooth_picture(k) for k in range(5)]
    real = []
    for k, picture in enumerate(clean):
        strong = grainy(picture, k, 20.0)
        real.append(np.where(picture > 128, strong, picture))
    grain = learn_grain(real, clean)
    assert grain.amplitude[0][1] < 1
    assert grain.amplitude[0][6] > 10


def test_nothing_lost_is_nothing_added():
    clean = [smooth_picture(k) for k in range(3)]
    grain = learn_grain(clean, clean)
    assert add_grain(clean[0], grain, np.random.default_rng(0)) is clean[0]


def test_the_same_seed_gives_the_same_grain_and_strength_scales_it():
    clean = [smooth_picture(k) for k in range(3)]
    grain = learn_grain([grainy(p, k, 8.0) for k, p in enumerate(clean)], clean)
    flat = np.full((SIDE, 120, 3), 128, np.uint8)
    one, two, half = (
        add_grain(flat, grain, np.random.default_rng(5), strength) for strength in (1.0, 1.0, 0.5)
    )
    assert (one == two).all()
    assert half.std() == pytest.approx(one.std() / 2, rel=0.1)
    grey = add_grain(flat[..., 0], grain, np.random.default_rng(5))
    assert grey.shape == (SIDE, 120)
    assert np.abs(grey.astype(int) - one[..., 0]).max() <= 1


def test_a_card_that_is_damaged_is_told():
    good = {"amplitude": [[1.0] * LEVELS] * 3, "spectrum": [[1.0] * BANDS] * 3}
    assert Grain.read(good).amplitude[2][0] == 1.0
    for bad in ({**good, "spectrum": [[1.0]]}, {**good, "amplitude": [[-1.0] * LEVELS] * 3}):
        with pytest.raises(ValueError, match="grain"):
            Grain.read(bad)
