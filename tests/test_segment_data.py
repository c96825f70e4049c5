"""Pairs as the network sees them: depth, colour, scale, field of view, patches, bad files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from training_shots import SIZE, write_shots
from vessel_pictures import draw_lines, paint

from univg.errors import DataError, ProblemReport
from univg.images import encode_image
from univg.masks import encode_mask
from univg.pairs import find_pairs
from univg.seeds import rng_for
from univg.segment.augment import Augmentation
from univg.segment.data import Example, Preparation, prepare_image, prepare_pair
from univg.segment.data_store import (
    Shape,
    ShotWarning,
    Store,
    choose_channels,
    hash_pairs,
    open_folder,
)
from univg.segment.patches import Cut, Draw, cut_sample, draw_sample

GREY = Preparation(channels="grey", longest_px=0, fov="auto")
COLOUR = Preparation(channels="rgb", longest_px=0, fov="auto")
CUT = Cut(side_px=32, whole=False, vessel_share=0.5, level="none")


def grey_image(seed: int = 0, size: int = 96) -> np.ndarray:
    return paint(draw_lines(seed, size), seed)


def disc(size: int = 96) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    return (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (0.45 * size) ** 2


def test_values_have_mean_0_and_deviation_1_inside_the_field_of_view():
    view = disc()
    image = np.where(view, grey_image(), 0).astype(np.uint8)
    prepared = prepare_image(image, GREY, view)
    values = prepared.whole()
    assert values.shape == (1, 96, 96) and values.dtype == np.float32
    assert abs(values[0][view].mean()) < 1e-3 and abs(values[0][view].std() - 1) < 1e-3


def test_the_depth_does_not_matter():
    image = grey_image()
    deep = image.astype(np.uint16) * 16 + 1000  # 12 bits and a pedestal
    seen = [prepare_image(one, GREY).whole() for one in (image, deep)]
    assert np.abs(seen[0] - seen[1]).max() < 1e-4


def test_grey_and_colour_come_to_the_channels_of_the_model():
    grey = grey_image()
    colour = np.stack([grey, grey // 2, grey // 3], axis=2)
    assert prepare_image(grey, COLOUR).pixels.shape == (96, 96, 3)
    assert prepare_image(colour, GREY).pixels.shape == (96, 96, 1)
    green = dataclasses.replace(GREY, channels="green")
    assert np.array_equal(prepare_image(colour, green).pixels[:, :, 0], colour[:, :, 1])
    shapes = [Shape((96, 96), False), Shape((96, 96), True)]
    assert choose_channels("auto", shapes) == "rgb"
    assert choose_channels("auto", shapes[:1]) == "grey"
    assert choose_channels("green", shapes) == "green"


def test_the_field_of_view_is_given_found_or_whole():
    view = disc()
    image = np.where(view, np.maximum(grey_image(), 60), 2).astype(np.uint8)
    other = np.zeros_like(view)
    other[10:50, 10:50] = True
    found = prepare_image(image, GREY).fov
    assert (found & view).sum() / (found | view).sum() > 0.95
    assert np.array_equal(prepare_image(image, GREY, other).fov, other)
    assert prepare_image(image, dataclasses.replace(GREY, fov="whole"), other).fov.all()
    assert prepare_image(grey_image(), GREY).fov.all(), "no disc, no field of view"
    with pytest.raises(DataError, match="--fov"):
        prepare_image(image, dataclasses.replace(GREY, fov="given"))


def test_images_are_scaled_to_one_longest_side_and_shots_never_beyond_their_own():
    small = dataclasses.replace(GREY, longest_px=48)
    assert prepare_image(grey_image()[:64], small).pixels.shape == (32, 48, 1)
    deep = grey_image().astype(np.uint16) * 257
    assert prepare_image(deep, small).pixels.dtype == np.uint16


def test_patches_cover_the_picture_and_favour_vessels(tmp_path):
    write_shots(tmp_path / "shots", 1)
    example = prepare_pair(open_folder(tmp_path / "shots")[0], GREY)
    seen = np.zeros((SIZE, SIZE), int)
    shares = []
    for share in (0.0, 1.0):
        cut = dataclasses.replace(CUT, vessel_share=share, side_px=16)
        vessel = []
        for k in range(300):
            drawn = draw_sample(rng_for(0, "test", k), example, cut)
            x, y = (int(c - 7.5) for c in drawn.centre)
            assert 0 <= x <= SIZE - 16 and 0 <= y <= SIZE - 16
            seen[y : y + 16, x : x + 16] += 1
            sample = cut_sample(example, drawn, 16)
            assert np.array_equal(sample["mask"][0] > 0, example.mask[y : y + 16, x : x + 16]), (
                "an unturned patch takes pixels as they are"
            )
            vessel.append(sample["mask"].mean())
        shares.append(np.mean(vessel))
    assert seen.min() > 0, "some pixels are never shown"
    assert shares[1] > 1.2 * shares[0]


@pytest.mark.parametrize("rows", [SIZE, SIZE - 1, SIZE - 10])
def test_a_whole_image_is_shown_whole_and_as_it_is(rows):
    mask = draw_lines(0, SIZE)[:rows]
    image = prepare_image(grey_image(0, SIZE)[:rows], GREY)
    labels = np.stack([mask, np.ones_like(mask)], axis=2).astype(np.uint8) * np.uint8(255)
    places = np.argwhere(mask).astype(np.int32)
    example = Example("one", image, labels, places, places)
    cut = Cut(side_px=SIZE, whole=True, vessel_share=0.0, level="none")
    sample = cut_sample(example, draw_sample(rng_for(0, "x"), example, cut), SIZE)
    top = next(k for k in range(SIZE) if np.allclose(sample["image"][:, k], image.whole()[:, 0]))
    shown = slice(top, top + rows)
    assert np.allclose(sample["image"][:, shown], image.whole(), atol=1e-6)
    assert np.array_equal(sample["mask"][0, shown] > 0, mask)
    assert sample["weight"].min() == 1


def test_a_patch_larger_than_the_picture_is_mirrored(tmp_path):
    write_shots(tmp_path / "shots", 1)
    example = prepare_pair(open_folder(tmp_path / "shots")[0], GREY)
    cut = dataclasses.replace(CUT, side_px=100)
    sample = cut_sample(example, draw_sample(rng_for(0, "x"), example, cut), 100)
    assert sample["image"].shape == (1, 100, 100) and np.isfinite(sample["image"]).all()


def test_outside_the_field_of_view_has_no_weight(tmp_path):
    folder = write_shots(tmp_path / "shots", 1)
    (folder / "fov").mkdir()
    view = np.zeros((SIZE, SIZE), bool)
    view[:, : SIZE // 2] = True
    (folder / "fov" / "shot-0.png").write_bytes(encode_mask(view))
    example = prepare_pair(open_folder(folder)[0], GREY)
    draw = Draw(centre=((SIZE - 1) / 2, (SIZE - 1) / 2), augmentation=Augmentation())
    sample = cut_sample(example, draw, SIZE)
    assert np.array_equal(sample["weight"][0] > 0, view)
    assert (example.vessels[:, 1] < SIZE // 2).all(), "patches are put where vessels count"


def test_memory_changes_no_value(tmp_path):
    pairs = open_folder(write_shots(tmp_path / "shots", 3))
    kept, read = Store(pairs, GREY, 100), Store(pairs, GREY, 0)
    for number in (2, 0, 2):
        one, other = kept.get(number), read.get(number)
        assert np.array_equal(one.image.pixels, other.image.pixels)
        assert np.array_equal(one.labels, other.labels)
    assert kept.get(2) is kept.get(2) and read.get(2) is not read.get(2)


def spoil(folder: Path) -> None:
    """Make four of five shots unusable, each in its own way."""
    (folder / "images" / "shot-0.png").write_bytes(b"\x89PNG not whole")
    (folder / "masks" / "shot-1.png").write_bytes(encode_mask(np.zeros((SIZE, SIZE), bool)))
    (folder / "masks" / "shot-2.png").write_bytes(encode_mask(draw_lines(0, SIZE + 8)))
    (folder / "masks" / "shot-3.png").write_bytes(encode_image(grey_image(2, SIZE)))


def test_all_bad_shots_are_told_in_one_report(tmp_path):
    folder = write_shots(tmp_path / "shots")
    spoil(folder)
    with pytest.raises(ProblemReport) as report:
        open_folder(folder)
    kinds = {problem.kind for problem in report.value.problems}
    assert {"truncated", "empty", "size", "grey"} <= kinds
    with pytest.warns(ShotWarning, match="left out"):
        assert [pair.stem for pair in open_folder(folder, skip_bad=True)] == ["shot-4"]


def test_shots_that_repeat_and_too_few_are_refused(tmp_path):
    folder = write_shots(tmp_path / "shots", 2)
    for name in ("images", "masks"):
        data = (folder / name / "shot-0.png").read_bytes()
        (folder / name / "again.png").write_bytes(data)
    with pytest.raises(ProblemReport, match="same file"):
        open_folder(folder)
    with pytest.raises(DataError, match="holds 2 shots"):
        open_folder(write_shots(tmp_path / "other", 2), wanted=5)
    assert len(open_folder(tmp_path / "other", wanted=1)) == 1


def test_synthetic_masks_may_be_empty_and_may_repeat(tmp_path):
    folder = write_shots(tmp_path / "made", 2)
    empty = encode_mask(np.zeros((SIZE, SIZE), bool))
    for k in range(2):
        (folder / "masks" / f"shot-{k}.png").write_bytes(empty)
    pairs = open_folder(folder, synthetic=True)
    assert len(pairs) == 2
    example = prepare_pair(pairs[0], GREY)
    assert draw_sample(rng_for(0, "x"), example, CUT) is not None


def test_the_checksum_is_of_the_content(tmp_path):
    pairs = find_pairs(write_shots(tmp_path / "a", 2))[0].pairs
    same = find_pairs(write_shots(tmp_path / "b", 2))[0].pairs
    assert hash_pairs(pairs) == hash_pairs(same) != hash_pairs(pairs[:1])
