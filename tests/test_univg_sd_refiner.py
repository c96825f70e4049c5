"""A refiner changes what it is told to, one picture at a time, and comes back from its file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from vessel_pictures import draw_lines, paint

from univg.errors import DataError
from univg.sd_refiner import Finisher, Refiner, load_finisher, save_finisher
from univg.testing import fill_weights

SIDE = 80
EVERYTHING = np.ones((SIDE, SIDE), bool)


def picture_of(seed: int, height: int = SIDE, width: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    mask = draw_lines(seed, SIDE, count=3)[:height, :width]
    grey = paint(draw_lines(seed, SIDE, count=3), seed)[:height, :width]
    return np.repeat(grey[..., None], 3, axis=2), mask


def disc(centre: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (centre, centre), radius, 1, -1) > 0


@pytest.fixture
def finisher() -> Finisher:
    """A refiner that has learnt nothing sensible, but does something everywhere."""
    refiner = Refiner(8)
    fill_weights(refiner, 1)
    return Finisher(refiner, [EVERYTHING])


def test_a_fresh_one_changes_nothing_and_strength_scales_what_is_added(finisher):
    picture, mask = picture_of(0)
    assert (Finisher(Refiner(8), [EVERYTHING]).refine([picture], [mask])[0] == picture).all()
    assert (finisher.refine([picture], [mask], 0.0)[0] == picture).all()
    grey = np.full_like(picture, 128)
    half, whole = (finisher.refine([grey], [mask], s)[0].astype(int) - 128 for s in (0.1, 0.2))
    assert np.abs(whole).max() > 4
    assert np.abs(whole - 2 * half).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(80, 80), (72, 56), (33, 47)])
def test_pictures_of_any_size_each_by_itself(finisher, height, width):
    pairs = [picture_of(seed, height, width) for seed in range(3)]
    pictures, masks = [p for p, _ in pairs], [m for _, m in pairs]
    together = finisher.refine(pictures, masks)
    alone = [finisher.refine([p], [m])[0] for p, m in pairs]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert together[0].shape == (height, width, 3)
    assert together[0].dtype == np.uint8


def test_the_number_of_threads_changes_no_byte():
    refiner = Refiner()
    fill_weights(refiner, 2)
    pictures, masks = zip(*(picture_of(seed) for seed in range(4)), strict=True)
    pictures = [cv2.resize(each, (320, 320)) for each in pictures]
    masks = [cv2.resize(each.astype(np.uint8), (320, 320)) > 0 for each in masks]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(Finisher(refiner, [EVERYTHING]).refine(pictures, masks, 0.3))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all((np.array(each) == np.array(found[0])).all() for each in found)


def test_it_goes_by_the_mask(finisher):
    picture, mask = picture_of(0)
    other = finisher.refine([picture], [~mask])[0]
    assert (finisher.refine([picture], [mask])[0] != other).any()


def test_a_drawn_field_takes_the_edge_of_the_shots(finisher):
    finisher.fields = [disc(40, 36), disc(34, 28)]
    wobbly = disc(40, 35) & ~draw_lines(3, SIDE, count=1, width=1)
    picture = np.repeat((wobbly * 150).astype(np.uint8)[..., None], 3, axis=2)
    assert (finisher.choose_field(picture) == disc(40, 36)).all()


def test_a_field_like_no_shot_stays_and_no_field_is_none(finisher):
    picture = np.repeat((disc(50, 24) * 150).astype(np.uint8)[..., None], 3, axis=2)
    assert finisher.choose_field(picture).all(), "the shots have no disc"
    finisher.fields = [disc(36, 36)]
    chosen = finisher.choose_field(np.full_like(picture, 150))
    assert chosen.all()


def test_its_file_gives_it_back(finisher, tmp_path):
    finisher.fields = [disc(40, 36), disc(34, 28)]
    save_finisher(finisher, tmp_path / "r.safetensors")
    again = load_finisher(tmp_path / "r.safetensors")
    picture, mask = picture_of(1)
    assert (again.refine([picture], [mask])[0] == finisher.refine([picture], [mask])[0]).all()
    assert all((a == b).all() for a, b in zip(again.fields, finisher.fields, strict=True))


def test_what_is_no_refiner_is_told_in_one_line(finisher, tmp_path):
    path = tmp_path / "r.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="is no refiner"):
        load_finisher(path)
    save_finisher(finisher, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged refiner") as error:
        load_finisher(path)
    assert "\n" not in str(error.value)
