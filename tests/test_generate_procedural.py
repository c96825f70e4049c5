"""Rendering: vessels are where the mask says, visible, and all else is drawn by the look alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from univg.generate import fields
from univg.generate.looks import (
    Chance,
    find_look,
    look_from_plain,
    look_names,
    sample_look,
)
from univg.generate.procedural import RENDERERS, render, render_pair
from univg.generate.trees import split_trees
from univg.generate.vessels import find_hub, measure_vessels
from univg.modalities import find_modality, modality_names
from univg.sca.compose import grow_mask
from univg.sca.params import growth_of
from univg.seeds import rng_for

SIDES = (128, 128)


def grow(name: str, index: int, sides: tuple[int, int] = SIDES) -> np.ndarray:
    growth = growth_of(find_modality(name))
    return np.asarray(grow_mask(growth, *sides, rng_for(1, name, index)).pixels > 0)


@pytest.fixture(scope="module")
def masks() -> dict[str, list[np.ndarray]]:
    return {name: [grow(name, index) for index in range(6)] for name in modality_names()}


def local_contrast(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """How much vessels differ from the ground beside them, and how much that ground varies."""
    grey = (image[:, :, 1] if image.ndim == 3 else image).astype(np.float32)
    local = grey - cv2.GaussianBlur(grey, (0, 0), 6)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    beside = (away > 1.5) & (away < 6)
    return float(local[mask].mean() - local[beside].mean()), float(local[beside].std())


@pytest.mark.parametrize("look", ["default", "plain", "unseen"])
@pytest.mark.parametrize("name", modality_names())
def test_vessels_are_visible_in_most_images(name, look, masks):
    """Averaged over its pixels the contrast of vessels is far above what chance would give."""
    visible = 0
    for index in range(24):
        image, mask = render_pair(masks[name][index % 6], name, 8, index, look)
        difference, spread = local_contrast(image, mask)
        visible += abs(difference) > max(2.0, 0.25 * spread)
    assert visible >= (22 if look == "default" else 24)


@pytest.mark.parametrize(
    ("name", "sign", "least"),
    [("fundus", -1, 40), ("octa", 1, 40), ("coronary", -1, 40), ("oct", -1, 28), ("brain", -1, 32)],
)
def test_vessels_are_dark_or_bright_as_in_the_modality(name, sign, least, masks):
    signs = [
        np.sign(local_contrast(*render_pair(masks[name][k % 6], name, 9, k))[0]) for k in range(40)
    ]
    assert signs.count(sign) >= least
    assert name not in {"oct", "brain"} or signs.count(-sign) > 0, "rarely the other way round"


@pytest.mark.parametrize("name", modality_names())
def test_the_image_follows_its_own_mask(name, masks):
    """The contrast goes when the mask is shifted: the image shows these vessels and no others."""
    for index in range(6):
        image, mask = render_pair(masks[name][index], name, 3, index, "plain")
        own = abs(local_contrast(image, mask)[0])
        for shift in ((9, 0), (0, -11), (-7, 8)):
            assert own > 2 * abs(local_contrast(image, np.roll(mask, shift, (0, 1)))[0])


def test_thin_vessels_are_fainter_in_a_fundus_image(masks):
    for index in range(6):
        mask = masks["fundus"][index]
        look = sample_look(find_look("fundus", "plain"), rng_for(5, "thin", index))
        # Without a round window, at whose rim everything is bright against the outside.
        image = render(mask, replace(look, values={**look.values, "full_frame": 1.0})).image
        vessels = measure_vessels(mask)
        # Not over the disc, which is bright; and not at the walls, which are soft.
        off_disc = fields.distance_from(SIDES, find_hub(vessels), (20, 20)) > 1
        seen = mask & off_disc & (vessels.across < 0.8)
        green = image[:, :, 1].astype(np.float32)
        local = green - cv2.GaussianBlur(green, (0, 0), 8)
        low, high = np.percentile(vessels.radius_px[seen], [20, 80])
        thick, thin = (seen & (vessels.radius_px >= high), seen & (vessels.radius_px <= low))
        assert local[thick].mean() < 1.3 * local[thin].mean() < 0


@pytest.mark.parametrize("name", [*modality_names(), "cornea"])
def test_the_same_pair_again_and_from_its_parameters(name, masks):
    mask = masks.get(name, masks["brain"])[0]
    first, second = (render_pair(mask, name, 4, 7) for _ in range(2))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    assert (render_pair(mask, name, 4, 8)[0] != first[0]).any()
    assert (render_pair(mask, name, 5, 7)[0] != first[0]).any()
    drawn = sample_look(find_look(name), rng_for(4, f"generate/images/{name}", 7))
    stored = look_from_plain(json.loads(json.dumps(drawn.to_plain())))
    assert stored == drawn
    assert (render(mask, stored).image == first[0]).all()


@pytest.mark.parametrize("name", ["octa", "oct", "cornea"])
def test_without_a_window_the_mask_stays_as_it_is(name, masks):
    for index in range(6):
        mask = masks["octa"][index]
        assert (render_pair(mask, name, 2, index)[1] == mask).all()


def test_what_lies_outside_the_view_is_neither_seen_nor_labelled(masks):
    clipped = 0
    for index in range(30):
        mask = masks["fundus"][index % 6]
        image, visible = render_pair(mask, "fundus", 6, index)
        assert not (visible & ~mask).any()
        lost = mask & ~visible
        clipped += bool(lost.any())
        if lost.any():
            assert image[lost].max(axis=1).mean() < 0.5 * image[visible].max(axis=1).mean()
    assert clipped > 0


@pytest.mark.parametrize("sides", [(16, 16), (37, 201), (180, 64)])
@pytest.mark.parametrize("look", [*look_names(), "cornea"])
def test_any_size_and_any_mask(look, sides):
    """No vessel, one pixel, one blob, a line, nearly full: an image for each, and no warning."""
    masks = [np.zeros(sides, np.bool_) for _ in range(5)]
    masks[1][sides[0] // 2, 3] = True
    masks[2][2:9, 4:12] = True
    masks[3][:, sides[1] // 2] = True
    masks[4][:] = True
    masks[4][0, 0] = False
    for index, mask in enumerate(masks):
        image, visible = render_pair(mask, look if look != "unseen" else "brain", 0, index,
                                     "unseen" if look == "unseen" else "default")  # fmt: skip
        assert image.shape[:2] == sides and image.dtype == np.uint8
        assert visible.shape == sides and visible.dtype == np.bool_


def test_sizes_scale_together():
    """At twice the size the same look has the same colours, disc and window."""
    large = grow("fundus", 3, (256, 256))
    small = cv2.resize(large.astype(np.uint8), (128, 128), interpolation=cv2.INTER_AREA) > 0
    for index in range(4):
        one = render_pair(small, "fundus", 1, index, "plain")[0].astype(np.float32)
        two = render_pair(large, "fundus", 1, index, "plain")[0]
        two = cv2.resize(two, (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32)
        coarse = [cv2.resize(p, (8, 8), interpolation=cv2.INTER_AREA) for p in (one, two)]
        assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.9


def test_the_hub_of_a_retina_is_its_disc():
    growth = growth_of(find_modality("fundus"))
    misses = []
    for index in range(20):
        made = grow_mask(growth, 192, 192, rng_for(2, "hub", index))
        x, y = made.parameters["points"]["disc"]
        if made.parameters["mirrored"]:
            x = 1 - x
        hub = find_hub(measure_vessels(made.pixels > 0))
        misses.append(np.hypot(hub[0] / 192 - y, hub[1] / 192 - x))
    assert np.median(misses) < 0.03 and np.percentile(misses, 85) < 0.06


def test_radius_and_depth_of_a_drawn_tube():
    canvas = np.zeros((90, 120), np.uint8)
    canvas[20:31, 10:111] = 1
    canvas[63:68, 10:111] = 1
    canvas[80:82, 10:111] = 1
    vessels = measure_vessels(canvas > 0)
    assert vessels.radius_px[25, 60] == pytest.approx(5.5, abs=0.6)
    assert vessels.radius_px[65, 60] == pytest.approx(2.5, abs=0.6)
    assert vessels.radius_px[80, 60] == pytest.approx(1.0, abs=0.2), "even widths too"
    assert vessels.radius_px[5, 60] == pytest.approx(5.5, abs=0.6), "known outside too"
    assert vessels.depth_px[25, 60] > 1.8 * vessels.depth_px[65, 60]
    assert vessels.depth_px[25, 60] > 1.5 * vessels.depth_px[30, 60] > 0
    assert not vessels.depth_px[canvas == 0].any()
    assert vessels.across[25, 60] < 0.3 < 0.8 < vessels.across[30, 60] <= 1.1


def test_trees_from_the_hub_are_of_one_kind_each_for_the_most_part():
    """A vessel keeps its kind over its length, and both kinds occur."""
    mask = grow("fundus", 2, (192, 192))
    vessels = measure_vessels(mask)
    shares, even = [], []
    for index in range(10):
        kinds = split_trees(vessels, find_hub(vessels), 15, rng_for(0, "trees", index))
        assert kinds.min() >= 0 and kinds.max() <= 1
        inside = kinds[mask]
        even.append(((inside < 0.1) | (inside > 0.9)).mean())
        shares.append(inside.mean())
    assert np.median(even) > 0.75
    assert 0.2 < np.mean(shares) < 0.8 and np.std(shares) > 0.02


def test_plain_varies_less_than_default_and_unseen_lies_outside(masks):
    mask = masks["fundus"][0]

    def grounds(look: str) -> np.ndarray:
        made = [render_pair(mask, "fundus", 1, index, look)[0] for index in range(16)]
        return np.array([np.median(image[~mask], axis=0) for image in made])

    default, plain, unseen = (grounds(look) for look in ("default", "plain", "unseen"))
    assert plain.std(axis=0).max() < 0.5 * default.std(axis=0).min()
    assert (np.abs(plain.mean(axis=0) - default.mean(axis=0)) < 3 * default.std(axis=0)).all()
    blueness = [colours[:, 2] - colours[:, 0] for colours in (default, unseen)]
    assert blueness[0].max() < 0 < blueness[1].min()


@pytest.mark.parametrize("name", look_names())
def test_a_card_is_whole_and_its_draws_lie_in_its_ranges(name):
    card = find_look("fundus", name)
    assert card.renderer in RENDERERS and card.description
    for index in range(20):
        look = sample_look(card, rng_for(0, "draws", index))
        for key, draw in card.values.items():
            if isinstance(draw, tuple):
                assert min(draw) - 1e-9 <= look[key] <= max(draw) + 1e-9
            elif isinstance(draw, Chance):
                low, high = sorted(draw.range)
                assert look[key] == 0 or low - 1e-4 <= look[key] <= high + 1e-4


def test_one_value_changed_leaves_the_others_as_they_were():
    card = find_look("octa")
    values = {**card.values, "bed": 0.5, "zone_radius": (0.01, 0.02)}
    other = type(card)(
        name=card.name, renderer=card.renderer, values=dict(reversed(values.items()))
    )
    one, two = (sample_look(c, rng_for(3, "x", 1)) for c in (card, other))
    assert {key for key in one.values if one.values[key] != two.values[key]} == {
        "bed",
        "zone_radius",
    }
    assert one.texture_seed == two.texture_seed


@pytest.mark.parametrize("scale", [2.0, 9.0, 40.0])
def test_noise_has_its_scale_and_unit_spread(scale):
    field = fields.smooth_noise(rng_for(0, "noise"), (160, 200), scale)
    assert field.shape == (160, 200) and field.dtype == np.float32
    assert abs(field.mean()) < 0.1 and 0.8 < field.std() < 1.2
    step = max(1, round(scale / 4))
    near = np.corrcoef(field[:, step:].ravel(), field[:, :-step].ravel())[0, 1]
    far = round(1.6 * scale)
    distant = np.corrcoef(field[:, far:].ravel(), field[:, :-far].ravel())[0, 1]
    assert near > 0.5 and abs(distant) < 0.45


def test_no_deep_learning_is_imported():
    code = (
        "import sys, univg.generate.images, univg.generate.building, univg.generate.fundus; "
        "import univg.generate.image_makers; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
