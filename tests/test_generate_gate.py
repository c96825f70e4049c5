"""The measures of a pair on masks with known answers, and near-duplicates among signatures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.errors import ConfigError, DataError
from univg.generate.gate import (
    MEASURES,
    measure_agreement_of,
    measure_mask,
    measure_pair,
    predict_vessels,
)
from univg.generate.gate_charts import draw_histogram, show_image, show_outline
from univg.generate.gate_near import (
    CANDIDATES,
    LENGTH,
    SIDE,
    find_candidates,
    number_groups,
    sign_ground,
    sign_mask,
    unpack,
)
from univg.generate.gate_segmenter import load_segmenter
from univg.memorisation import sign_images
from univg.overlap import TURNS, turn_over


def bar(width: int, side: int = 256) -> np.ndarray:
    """Return one horizontal bar from edge to edge."""
    mask = np.zeros((side, side), bool)
    top = (side - width) // 2
    mask[top : top + width] = True
    return mask


def test_measures_of_a_bar():
    found = measure_mask(bar(9))
    assert found["density"] == pytest.approx(9 / 256, abs=1e-4)
    assert (found["components"], found["specks"], found["largest"]) == (1, 0, 1.0)
    assert found["length"] == pytest.approx(1.0, abs=0.05)
    # 5 px from the middle row to the ground, at 512 px twice that.
    assert found["radius"] == pytest.approx(10.0, abs=0.3)


def test_length_of_a_diagonal_is_that_of_the_line():
    mask = np.eye(200, dtype=bool)
    assert measure_mask(mask)["length"] == pytest.approx(np.sqrt(2), abs=0.02)


def test_measures_do_not_depend_on_size_or_shape():
    small = draw_lines(3, 256, width=5)
    large = cv2.resize(small.astype(np.uint8), (768, 768), interpolation=cv2.INTER_NEAREST) > 0
    one, other = measure_mask(small), measure_mask(large)
    for name in ("density", "largest", "radius", "length"):
        assert one[name] == pytest.approx(other[name], rel=0.15), name
    wide = np.concatenate([small, np.zeros_like(small)], axis=1)
    assert measure_mask(wide)["density"] == pytest.approx(one["density"] / 2, abs=1e-4)


def test_pieces_and_specks_are_told_apart():
    mask = bar(8)
    mask[20:40, 20:26] = True
    mask[200, 200] = mask[220, 30] = True
    found = measure_mask(mask)
    assert (found["components"], found["specks"], found["speck_share"]) == (4, 2, 0.5)
    assert found["largest"] == pytest.approx(8 * 256 / (8 * 256 + 122), abs=1e-4)


def test_density_is_that_of_the_field_of_view():
    mask, fov = bar(8), np.zeros((256, 256), bool)
    fov[64:192] = True
    assert measure_mask(mask, fov)["density"] == pytest.approx(8 / 128)
    assert measure_mask(mask, np.zeros_like(fov))["density"] == 0


def test_empty_and_full_masks_have_measures():
    empty, full = np.zeros((64, 64), bool), np.ones((64, 64), bool)
    found = measure_pair(np.full((64, 64), 90, np.uint8), empty)
    assert (found["density"], found["components"], found["length"]) == (0, 0, 0)
    assert found["radius"] is None and found["agreement"] is None
    assert measure_mask(full)["density"] == 1 and measure_mask(full)["components"] == 1


@pytest.mark.parametrize("kind", ["grey", "rgb", "16 bits"])
def test_an_image_agrees_with_its_own_mask_only(kind):
    masks = [draw_lines(k, 192) for k in range(3)]
    image = paint(masks[0], 5)
    image = {
        "grey": image,
        "rgb": np.repeat(image[:, :, None], 3, axis=2),
        "16 bits": image.astype(np.uint16) * 257,
    }[kind]
    own = measure_agreement_of(image, masks[0], polarity="dark")
    others = [measure_agreement_of(image, mask, polarity="dark") for mask in masks[1:]]
    assert own["agreement"] > 0.7 and own["agreement_dice"] > 0.6
    assert all(other["agreement"] < 0.4 for other in others)
    wrong = measure_agreement_of(image, masks[0], polarity="bright")
    assert wrong["agreement"] < 0.4


def threshold(image: np.ndarray) -> np.ndarray:
    """A segmenter of a kind: dark is vessel."""
    assert image.dtype == np.uint8
    grey = image if image.ndim == 2 else image[:, :, 1]
    return (grey < 50).astype(np.float32)


def test_a_segmenter_takes_the_place_of_the_detector():
    mask = draw_lines(1, 128)
    image = np.where(mask, 20, 120).astype(np.uint8)
    for pixels in (image, image.astype(np.uint16) * 257, np.repeat(image[..., None], 3, axis=2)):
        found = measure_agreement_of(pixels, mask, segmenter=threshold)
        assert found == {"agreement": 1.0, "agreement_dice": 1.0}
    assert measure_agreement_of(image, ~mask, segmenter=threshold)["agreement_dice"] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((3, 3)), "float64 of (3, 3)"),
        (np.full((64, 64), 7.0), "from 7 to 7"),
        (np.full((64, 64), np.nan), "must return probabilities"),
        (None, "must return probabilities"),
    ],
)
def test_what_a_segmenter_must_return(given, said):
    with pytest.raises(DataError) as caught:
        predict_vessels(np.zeros((64, 64), np.uint8), lambda _: given)
    assert said in str(caught.value)


def test_a_segmenter_that_fails_is_named():
    def divide(image: np.ndarray) -> float:
        return 1 / 0

    with pytest.raises(DataError, match="segmenter failed with ZeroDivisionError: division by"):
        predict_vessels(np.zeros((8, 8), np.uint8), divide)


@pytest.mark.parametrize("name", ["threshold", "no.such:thing", "univg.masks:nothing", ":", "os:"])
def test_a_segmenter_that_is_not_there(name):
    with pytest.raises(ConfigError, match="segmenter is"):
        load_segmenter(name)
    assert load_segmenter(f"{__name__}:threshold")(np.zeros((4, 4), np.uint8)).shape == (4, 4)


def plant(count: int, planted: int, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return random signatures, the last of them turned and noisy copies of some of the first."""
    rng = np.random.default_rng(seed)
    signs = rng.integers(-127, 128, (count, LENGTH)).astype(np.int8)
    pairs = []
    for k in range(planted):
        first, later = 3 * k, count - 1 - k
        turned = turn_over(signs[first].reshape(SIDE, SIDE), k % TURNS).ravel()
        noisy = turned + rng.normal(0, 15, LENGTH)
        signs[later] = np.clip(noisy, -127, 127).astype(np.int8)
        pairs.append((first, later))
    return signs, sorted(pairs, key=lambda pair: pair[::-1])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("count", [40, 1500])
def test_planted_duplicates_are_found_and_nothing_else(exact, count):
    signs, pairs = plant(count, 10)
    found = find_candidates(signs, exact=exact)
    assert [tuple(each) for each in found] == pairs


@pytest.mark.slow
def test_twenty_thousand_are_searched_both_ways():
    signs, pairs = plant(20_000, 40)
    for exact in (True, False):
        found = {tuple(each) for each in find_candidates(signs, exact=exact)}
        assert found >= set(pairs) and len(found) < 60


@pytest.mark.parametrize("exact", [True, False])
def test_items_of_one_source_are_not_compared(exact):
    signs, pairs = plant(40, 10)
    groups = number_groups([None] * 30 + ["a"] * 10)
    assert len(set(groups.tolist())) == 31
    names: list[str | None] = [None] * 40
    for first, later in pairs[:4]:
        names[first] = names[later] = f"mask {first}"
    found = find_candidates(signs, number_groups(names), exact=exact)
    assert [tuple(each) for each in found] == pairs[4:]


@pytest.mark.parametrize("exact", [True, False])
def test_a_set_of_one_picture_stays_within_bounds(exact):
    signs = np.repeat(plant(1, 0)[0], 3000, axis=0)
    found = find_candidates(signs, exact=exact)
    assert len(found) <= CANDIDATES * 3000
    assert set(found[:, 1]) == set(range(1, 3000)) if exact else len(set(found[:, 1])) > 2900
    assert (found[:, 0] < found[:, 1]).all()


def test_too_few_to_compare():
    for count in (0, 1):
        for exact in (True, False):
            signs = np.zeros((count, LENGTH), np.int8)
            assert find_candidates(signs, exact=exact).shape == (0, 2)


def test_signatures_of_nothing_are_like_nothing():
    assert not sign_mask(np.zeros((64, 64), bool)).any()
    assert not sign_ground(np.zeros((64, 64), np.float32)).any()
    assert find_candidates(np.zeros((5, LENGTH), np.int8)).shape == (0, 2)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    one, other = unpack(np.stack([first, second]))
    turned = [turn_over(other.reshape(SIDE, SIDE), k).ravel() for k in range(TURNS)]
    return float(max(one @ each for each in turned))


def test_signatures_see_through_what_changes_little():
    mask = draw_lines(0)
    image = paint(mask, 0)
    grain = np.random.default_rng(1).normal(0, 6, image.shape)
    changed = np.clip(0.7 * np.rot90(image) + 30 + grain, 0, 255).astype(np.uint8)
    shifted = np.roll(mask, 4, axis=1)
    assert likeness(sign_mask(mask), sign_mask(np.rot90(mask)[:, ::-1])) > 0.97
    assert likeness(sign_mask(mask), sign_mask(shifted)) > 0.85
    values, _ = sign_images([image, changed], [mask, np.rot90(mask)])
    assert likeness(*(sign_ground(each) for each in values)) > 0.9
    for k in range(1, 6):
        stranger = draw_lines(k)
        assert likeness(sign_mask(mask), sign_mask(stranger)) < 0.8
        other, _ = sign_images([paint(stranger, k)], [stranger])
        assert likeness(sign_ground(values[0]), sign_ground(other[0])) < 0.8


def test_pictures_of_the_page():
    mask = draw_lines(0, 300)
    image = paint(mask, 0)
    outlined = show_outline(image, mask, 150)
    assert show_image(image, 150).shape == (150, 150) and outlined.shape == (150, 150, 3)
    coloured = (outlined[..., 0] < outlined[..., 2]).mean()
    assert 0.05 < coloured < 0.6 and not (outlined[..., 0] < outlined[..., 2])[~near(mask)].any()
    assert show_image(image.astype(np.uint16) * 257, 100).dtype == np.uint8
    assert show_image(image[:20, :30], 60).shape == (40, 60)
    chart = draw_histogram("density", [0.1, 0.2, 0.2, 0.3], [0.15])
    blue = (chart[..., 2] > 140) & (chart[..., 0] < 60)
    orange = (chart[..., 0] > 180) & (chart[..., 2] < 60)
    assert blue.any() and orange.any()
    assert not (draw_histogram("x", [1.0, 1.0])[..., 0] > 200).all()


def near(mask: np.ndarray) -> np.ndarray:
    """Return what lies within 6 px of `mask`, at half size."""
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13), np.uint8))
    return cv2.resize(wide, (150, 150), interpolation=cv2.INTER_NEAREST) > 0


def test_the_table_of_measures_is_complete():
    names = set(measure_pair(paint(draw_lines(0, 96), 0), draw_lines(0, 96)))
    alone = {name for name, measure in MEASURES.items() if not measure.needs}
    assert names == alone
