"""Copies of shots are found, however turned, moved, lit or grainy; strangers are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_ground, draw_lines, paint

from univg.errors import DataError
from univg.memorisation import correlation_table, measure_copying, sign_images
from univg.overlap import TURNS, make_thumbnail, nearest_overlap, overlap_table, turn_over

SHOTS = range(5)
MASKS = [draw_lines(k) for k in SHOTS]
IMAGES = [paint(mask, k) for k, mask in enumerate(MASKS)]


def noisy(image: np.ndarray, spread: float = 15.0) -> np.ndarray:
    grain = np.random.default_rng(7).normal(0, spread, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def lit(image: np.ndarray) -> np.ndarray:
    light = 0.6 + 0.5 * np.linspace(0, 1, image.shape[0])[:, None]
    return np.clip(image * light + 20, 0, 255).astype(np.uint8)


def moved(image: np.ndarray) -> np.ndarray:
    return np.roll(image, (13, -9), axis=(0, 1))


CHANGES = {
    "same": lambda image: image,
    "turned": lambda image: np.rot90(image)[:, ::-1],
    "moved": moved,
    "noisy": noisy,
    "lit": lit,
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "brighter": lambda image: np.clip(image * 0.5 + 100, 0, 255).astype(np.uint8),
    "all at once": lambda image: lit(noisy(moved(np.rot90(image, 3)))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_images_are_found(change):
    copies = [CHANGES[change](image) for image in IMAGES]
    found = measure_copying(copies, IMAGES, kind="image")
    assert found.share == 1 and found.copies == 5
    assert [each.shot for each in found.nearest] == list(SHOTS)


def test_new_images_are_no_copies():
    strangers = [paint(draw_lines(k), k) for k in range(100, 116)]
    found = measure_copying(strangers[:8], IMAGES, strangers[8:], kind="image")
    assert found.copies == 0 and found.share <= 0.3
    assert found.expected == pytest.approx(1 / 14)
    assert len(found.real) == 5 + 8 and min(found.real) == found.threshold


def test_one_copy_among_strangers_is_the_worst():
    images = [paint(draw_lines(k), k) for k in range(200, 205)]
    images[3] = lit(np.rot90(IMAGES[2]))
    found = measure_copying(images, IMAGES, kind="image")
    worst = found.worst(1)[0]
    assert (worst.index, worst.shot, worst.copied) == (3, 2, True) and found.copies == 1
    # Laid on the item as it says, the shot fits.
    laid = turn_over(IMAGES[2], worst.turn)
    assert np.corrcoef(laid.ravel(), images[3].ravel())[0, 1] > 0.5
    assert f"{found.copies} of them copies" in found.describe() and "\n" not in found.describe()


def test_a_copied_background_under_new_vessels_is_found():
    shots = [paint(mask, k, contrast=-60) for k, mask in enumerate(MASKS)]
    masks = [draw_lines(k) for k in range(300, 305)]
    reused = [paint(mask, k, contrast=-60) for k, mask in enumerate(masks)]
    fresh = [paint(mask, k + 400, contrast=-60) for k, mask in enumerate(masks)]
    given = {"kind": "image", "generated_masks": masks, "shot_masks": MASKS}
    assert measure_copying(reused, shots, **given).background.share == 1
    found = measure_copying(fresh, shots, **given)
    assert found.background.copies == 0
    assert "without the vessels" in found.describe()


def test_vessels_alone_are_no_copied_background():
    shots = [paint(mask, k) for k, mask in enumerate(MASKS)]
    same_masks = [paint(mask, k + 500) for k, mask in enumerate(MASKS)]
    found = measure_copying(
        same_masks, shots, kind="image", generated_masks=MASKS, shot_masks=MASKS
    )
    assert found.background.copies == 0


@pytest.mark.parametrize("turn", range(TURNS))
def test_turned_and_moved_masks_are_found(turn):
    copies = [moved(turn_over(mask, turn)) for mask in MASKS]
    found = measure_copying(copies, MASKS, kind="mask")
    assert found.share == 1 and found.copies == 5
    assert {each.turn for each in found.nearest} == {turn}
    assert [each.shot for each in found.nearest] == list(SHOTS)


def test_new_masks_are_no_copies():
    strangers = [draw_lines(k) for k in range(100, 130)]
    found = measure_copying(strangers[:10], MASKS, strangers[10:], kind="mask")
    assert found.copies == 0 and found.share <= 0.3 and found.background is None


def test_shots_of_one_subject_do_not_hide_copies():
    """Two frames of one patient are near each other; the threshold must not sink to them."""
    shots = [*IMAGES, noisy(np.roll(IMAGES[0], 3, axis=1), 8)]
    found = measure_copying([lit(IMAGES[1])], shots, kind="image")
    assert sorted(found.real)[1] < 0.2 < found.threshold
    assert found.copies == 1


def test_a_real_item_that_is_a_shot_is_left_out():
    strangers = [draw_lines(k) for k in range(600, 604)]
    found = measure_copying(strangers, MASKS, [*MASKS, draw_lines(700)], kind="mask")
    assert len(found.real) == 5 + 1 and min(found.real) > 0.1


def test_many_real_ones_give_a_rank():
    strangers = [draw_lines(k, 128) for k in range(800, 840)]
    found = measure_copying(strangers[:2], strangers[2:5], strangers[5:], kind="mask")
    assert len(found.real) == 38
    assert found.threshold == sorted(found.real)[1] and found.expected == pytest.approx(2 / 39)


def test_one_shot_has_distances_but_no_verdict():
    found = measure_copying(IMAGES[:2], IMAGES[:1], kind="image")
    assert found.share is None and found.threshold is None and found.copies == 0
    assert found.nearest[0].distance < 0.05 < found.nearest[1].distance
    assert "too few real ones" in found.describe()
    again = measure_copying(IMAGES[:2], [IMAGES[0]] * 3, kind="image")
    assert again.share is None


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="0 generated items, 5 shots"):
        measure_copying([], IMAGES, kind="image")


def test_empty_and_flat_items_have_distance_one():
    flat = np.full((256, 256), 90, np.uint8)
    assert measure_copying([flat], IMAGES, kind="image").nearest[0].distance == pytest.approx(1)
    empty = np.zeros((256, 256), bool)
    assert measure_copying([empty], MASKS, kind="mask").nearest[0].distance == 1


def test_light_and_colour_play_no_part_in_signatures():
    colour = np.stack([IMAGES[0] // 2, IMAGES[0], IMAGES[0] // 3], axis=-1)
    plain, coloured = sign_images([IMAGES[0]]), sign_images([colour])
    assert np.allclose(plain[0], coloured[0], atol=1e-5)
    table, turns = correlation_table(plain, sign_images([255 - IMAGES[0], IMAGES[0]]))
    assert table[0, 1] == pytest.approx(1, abs=1e-3) and turns[0, 1] == 0
    assert table[0, 0] < 0.6


def test_the_correlation_is_that_of_its_definition():
    """At shift 0 and turn 0, between two smooth pictures without borders to leave out."""
    first, second = (
        (128 + 30 * draw_ground(k, sigma=12)).clip(0, 255).astype(np.uint8) for k in (0, 1)
    )
    a, b = sign_images([first]), sign_images([second])
    plain = float((a[0] * b[0]).sum() / np.sqrt((a[0] ** 2).sum() * (b[0] ** 2).sum()))
    table, _ = correlation_table(a, b)
    assert plain <= table[0, 0] + 1e-6 <= 1


def test_batches_change_nothing():
    many = [paint(draw_lines(k, 128), k) for k in range(70)]
    whole, _ = correlation_table(sign_images(many), sign_images(many[:2]))
    alone, _ = correlation_table(sign_images(many[66:67]), sign_images(many[:2]))
    assert np.allclose(whole[66], alone[0], atol=1e-5)


def test_the_overlap_table_is_what_the_nearest_is_taken_from():
    masks = np.array([make_thumbnail(draw_lines(k)) for k in range(6)])
    table, _ = overlap_table(masks[:4], masks[3:])
    best, which = nearest_overlap(masks[:4], masks[3:])
    assert np.array_equal(best, table.max(axis=1)) and np.array_equal(which, table.argmax(axis=1))
    best, which = nearest_overlap(masks[3:4], masks[3:4], skip_equal=True)
    assert best[0] == 0 and which[0] == -1
