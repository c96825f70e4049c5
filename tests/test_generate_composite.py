"""The composite engine: new vessels are seen, old ones are gone, a recipe gives the same bytes."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from univg.agreement import measure_agreement
from univg.errors import DataError
from univg.generate.blend import blend, count_levels, join_bands, measure_grain, split_bands
from univg.generate.composite import (
    Recipe,
    build_library,
    find_place,
    render_composite,
    sample_recipe,
)
from univg.generate.composite_fill import fill_holes, fill_smoothly
from univg.generate.composite_library import MAP_PX, Library, Shot, map_vessels, widen_vessels
from univg.generate.composite_vessels import draw_ranks, measure_courses
from univg.generate.procedural import render_pair
from univg.images import encode_image
from univg.modalities import find_modality
from univg.pool import Workers
from univg.sca.compose import grow_mask
from univg.sca.params import growth_of
from univg.seeds import rng_for

SIDES = (224, 240)
NAMES = ("fundus", "octa", "coronary")


def grow(name: str, index: int, sides: tuple[int, int] = SIDES) -> np.ndarray:
    growth = growth_of(find_modality(name))
    return np.asarray(grow_mask(growth, *sides, rng_for(11, name, index)).pixels > 0)


def make_shots(name: str, count: int = 5, sides: tuple[int, int] = SIDES) -> list[Shot]:
    shots: list[Shot] = []
    for index in range(count):
        image, mask = render_pair(grow(name, index, sides), name, 2, index, "plain")
        shots.append((f"shot{index}", image, mask, None))
    return shots


@pytest.fixture(scope="module")
def shots() -> dict[str, list[Shot]]:
    return {name: make_shots(name) for name in NAMES}


@pytest.fixture(scope="module")
def libraries(shots: dict[str, list[Shot]]) -> dict[str, Library]:
    return {name: build_library(each) for name, each in shots.items()}


def draw(library: Library, index: int = 0) -> Recipe:
    return sample_recipe(library, rng_for(5, "composite", index))


def local_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Return how much vessels differ from the ground beside them."""
    grey = (image[:, :, 1] if image.ndim == 3 else image).astype(np.float32)
    local = grey - cv2.GaussianBlur(grey, (0, 0), 6)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return float(local[mask].mean() - local[(away > 2) & (away < 6)].mean())


@pytest.mark.parametrize("name", NAMES)
def test_new_vessels_are_seen_as_those_of_the_shots_are(name, shots, libraries):
    real = measure_agreement([s[1] for s in shots[name]], [s[2] for s in shots[name]])
    images, masks = [], []
    for index in range(4):
        made = render_composite(
            grow(name, 50 + index), libraries[name], draw(libraries[name], index)
        )
        images.append(made.image)
        masks.append(made.mask)
        contrast = local_contrast(made.image, made.mask)
        wanted = np.mean([local_contrast(image, mask) for _, image, mask, _ in shots[name]])
        assert contrast * wanted > 0
        assert 0.4 < contrast / wanted < 2.5
    made = measure_agreement(images, masks, polarity=real.polarity)
    assert made.cldice > 0.75 * real.cldice
    assert made.chance is not None
    assert made.cldice > made.chance + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_old_vessels_are_gone_from_the_grounds(name, shots, libraries):
    library = libraries[name]
    grounds = [g.picture[:, :, 0] if library.grey else g.picture for g in library.grounds]
    masks, views = [s[2] for s in shots[name]], [g.view for g in library.grounds]
    polarity = "bright" if name == "octa" else "dark"
    before = measure_agreement([s[1] for s in shots[name]], masks, polarity=polarity)
    after = measure_agreement(grounds, masks, fovs=views, polarity=polarity)
    assert after.chance is not None
    assert after.cldice < after.chance + 0.08 < before.cldice
    for ground, mask in zip(grounds, masks, strict=True):
        assert abs(local_contrast(ground, mask)) < 4


@pytest.mark.parametrize("name", NAMES)
def test_a_hole_has_the_texture_of_the_ground_around(name, shots, libraries):
    """A smear would be smoother than what lies beside it."""
    for (_, image, mask, _), ground in zip(shots[name], libraries[name].grounds, strict=True):
        picture = ground.picture.astype(np.float32).mean(axis=2)
        fine = np.abs(picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
        deep = cv2.erode(ground.view.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        hole = widen_vessels(mask) & deep
        beside = ~widen_vessels(mask) & deep
        assert image.shape[:2] == picture.shape
        assert 0.02 < widen_vessels(mask).mean() < 0.8
        assert 0.6 < fine[hole].mean() / fine[beside].mean() < 1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_the_same_bytes_again(name, libraries):
    library, mask = libraries[name], grow(name, 60)
    recipe = draw(library)
    first = render_composite(mask, library, recipe)
    again = Recipe.from_plain(json.loads(json.dumps(recipe.to_plain())))
    assert again == recipe
    copy = pickle.loads(pickle.dumps(library))
    second = render_composite(mask.copy(), copy, again)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    other = render_composite(mask, library, replace(recipe, texture_seed=recipe.texture_seed + 1))
    assert not np.array_equal(first.image, other.image)


def test_a_library_is_the_same_built_again_and_known_by_its_shots(shots):
    few = shots["octa"][:2]
    first, again = build_library(few), build_library(few)
    recipe, mask = draw(again), grow("octa", 61)
    assert again.identity == first.identity
    one, two = (render_composite(mask, lib, recipe).image for lib in (again, first))
    np.testing.assert_array_equal(one, two)
    changed = list(few)
    image = changed[0][1].copy()
    image[0, 0] ^= 1
    changed[0] = ("shot0", image, *changed[0][2:])
    assert build_library(changed).identity != again.identity
    assert build_library(few, (96, 96)).identity != again.identity


def make_one(library: Library, index: int) -> bytes:
    """Make image `index` in a worker."""
    return encode_image(render_composite(grow("octa", index), library, draw(library, index)).image)


def test_workers_and_threads_change_no_byte(libraries):
    library = libraries["octa"]
    alone = [make_one(library, index) for index in range(4)]
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if threads > 1 else 3)
        assert [make_one(library, index) for index in (3, 0)] == [alone[3], alone[0]]
    finally:
        cv2.setNumThreads(threads)


def test_grey_shots_give_grey_images_and_colour_gives_colour(libraries):
    for name, library in libraries.items():
        made = render_composite(grow(name, 62), library, draw(library))
        assert made.image.dtype == np.uint8
        assert made.image.shape == (SIDES if name != "fundus" else (*SIDES, 3))
        assert made.mask.dtype == np.bool_


def test_shots_of_16_bits_look_as_those_of_8(shots):
    deep: list[Shot] = [(n, i.astype(np.uint16) * 16, m, f) for n, i, m, f in shots["coronary"][:2]]
    library, plain = build_library(deep), build_library(shots["coronary"][:2])
    recipe, mask = draw(plain), grow("coronary", 63)
    made, wanted = (render_composite(mask, each, recipe).image for each in (library, plain))
    assert made.dtype == np.uint8
    # Of 16 times the values, scaled back by the largest: the same picture but for its range.
    assert np.corrcoef(made.ravel(), wanted.ravel())[0, 1] > 0.95


def test_vessels_end_where_the_camera_sees_no_more(shots):
    height, width = SIDES
    y, x = np.mgrid[:height, :width]
    fov = np.hypot(y - height / 2, x - width / 2) < 100
    inside: list[Shot] = []
    for name, image, mask, _ in shots["fundus"]:
        dark = image.copy()
        dark[~fov] = 3
        inside.append((name, dark, mask & fov, fov))
    library = build_library(inside)
    whole = grow("fundus", 64)
    made = render_composite(whole, library, draw(library))
    np.testing.assert_array_equal(made.mask, whole & fov)
    assert (whole & ~fov).any()
    np.testing.assert_array_equal(made.image[~fov], 3)


@pytest.mark.parametrize("sides", [(97, 131), (33, 40), (400, 300)])
def test_the_mask_decides_the_size(sides, libraries):
    for name, library in libraries.items():
        mask = np.zeros(sides, np.bool_)
        row = sides[0] // 2
        mask[row : row + 3, sides[1] // 4 : -sides[1] // 4] = True
        made = render_composite(mask, library, draw(library))
        assert made.image.shape[:2] == sides
        assert made.mask.shape == sides
        if min(sides) > 90 and made.mask.any():
            assert local_contrast(made.image, made.mask) * (1 if name == "octa" else -1) > 0


def test_a_library_of_a_given_size_is_that_size(shots):
    library = build_library(shots["octa"], (96, 128))
    assert library.size == (96, 128)
    assert library.grounds[0].picture.shape == (96, 128, 1)
    assert library.at((96, 128)) is library


def test_shots_of_different_sizes_come_to_one(shots):
    mixed = [*shots["octa"][:2], *make_shots("octa", 3, (120, 100))]
    mixed = [(f"m{k}", *shot[1:]) for k, shot in enumerate(mixed)]
    library = build_library(mixed)
    assert library.size == (120, 100)
    made = render_composite(grow("octa", 65, (120, 100)), library, draw(library))
    assert made.image.shape == (120, 100)


def test_one_shot_is_enough(shots):
    library = build_library(shots["coronary"][:1])
    recipe = draw(library)
    assert (recipe.base, recipe.other) == (0, 0)
    assert render_composite(grow("coronary", 66), library, recipe).image.std() > 1


def test_an_empty_mask_gives_the_ground_alone(libraries):
    for library in libraries.values():
        made = render_composite(np.zeros(SIDES, np.bool_), library, draw(library))
        assert not made.mask.any()
        assert made.image.std() > 1


def test_a_mask_of_nothing_but_specks_and_a_full_one_are_drawn(libraries):
    mask = np.zeros(SIDES, np.bool_)
    mask[::23, ::29] = True
    library = libraries["octa"]
    assert render_composite(mask, library, draw(library)).image.shape == SIDES
    assert render_composite(np.ones(SIDES, np.bool_), library, draw(library)).mask.all()


def test_bad_shots_are_refused_in_one_line(shots):
    name, image, mask, _ = shots["octa"][0]
    colour = shots["fundus"][0]
    bad: list[tuple[list[Shot], str]] = [
        ([], "needs labelled shots"),
        ([(name, image, np.zeros_like(mask), None)], "shows no vessel"),
        ([(name, image, np.ones_like(mask), None)], "nothing but vessels"),
        ([(name, image, mask[:-1], None)], "bring them to one size"),
        ([(name, image, mask, mask[1:])], "bring them to one size"),
        ([(name, image, mask, np.zeros_like(mask))], "field of view"),
        ([shots["octa"][0], colour], "bring all shots to one kind"),
    ]
    for given, text in bad:
        with pytest.raises(DataError, match=text) as told:
            build_library(given)
        assert "\n" not in str(told.value)


def test_recipes_that_do_not_fit_are_refused(libraries):
    library = libraries["octa"]
    recipe = draw(library)
    with pytest.raises(DataError, match="names shots"):
        render_composite(grow("octa", 1), library, replace(recipe, base=9))
    with pytest.raises(DataError, match="extra"):
        Recipe.from_plain({**recipe.to_plain(), "extra": 1})


def test_recipes_differ_and_use_all_shots(libraries):
    recipes = [draw(libraries["octa"], index) for index in range(60)]
    assert {each.base for each in recipes} == set(range(5))
    assert all(each.other != each.base for each in recipes)
    assert len({each.texture_seed for each in recipes}) == 60


def test_a_ground_is_laid_so_that_its_vessels_meet_the_new_ones():
    mask = np.zeros((96, 96), np.bool_)
    mask[20:60, 30:34] = True
    mask[40:44, 30:70] = True
    moved = np.roll(mask, (6, -10), (0, 1))
    mirrored, shift = find_place(map_vessels(mask), map_vessels(moved))
    assert not mirrored
    assert shift[0] * 96 == pytest.approx(6, abs=96 / MAP_PX + 0.1)
    assert shift[1] * 96 == pytest.approx(-10, abs=96 / MAP_PX + 0.1)
    assert find_place(map_vessels(mask[:, ::-1]), map_vessels(mask))[0]


def test_bands_join_to_the_picture_they_were_split_from():
    picture = rng_for(0, "test").random((53, 70, 3), np.float32) * 255
    levels = count_levels(picture.shape)
    assert levels == 2
    np.testing.assert_allclose(join_bands(split_bands(picture, levels)), picture, atol=1e-3)


def test_a_blend_is_each_picture_on_its_side_and_has_no_step():
    first, second = np.full((96, 96), 50, np.float32), np.full((96, 96), 90, np.float32)
    weight = np.zeros((96, 96), np.float32)
    weight[:, 48:] = 1
    mixed = blend(first, second, weight)
    assert mixed[:, 0] == pytest.approx(50, abs=4)
    assert mixed[:, -1] == pytest.approx(90, abs=4)
    assert np.abs(np.diff(mixed, axis=1)).max() < 4
    np.testing.assert_array_equal(blend(first, first, weight), first)


def test_grain_is_measured_in_grey_levels():
    noise = rng_for(0, "test").standard_normal((64, 64, 1)).astype(np.float32)
    assert measure_grain(2 * noise)[0] == pytest.approx(2 * measure_grain(noise)[0], rel=1e-5)


def test_what_is_known_stays_and_a_slope_goes_on_through_a_hole():
    slope = np.broadcast_to(np.linspace(20, 200, 120, dtype=np.float32), (90, 120))[:, :, None]
    known = np.ones((90, 120), np.bool_)
    known[:, 56:64] = False
    filled = fill_holes(np.ascontiguousarray(slope), known, 2.0, rng_for(0, "test"))
    far = cv2.erode(known.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    np.testing.assert_allclose(filled.picture[far], slope[far], atol=0.01)
    assert np.abs(filled.picture - slope).max() < 8
    assert np.isfinite(fill_smoothly(slope, np.zeros_like(known), 2.0)).all()


def test_branches_that_meet_are_alike():
    differences, all_ranks = [], []
    for index in range(5):
        courses = measure_courses(grow("fundus", index), 2.0)
        assert courses is not None
        ranks = draw_ranks(courses, rng_for(0, "test", index))
        all_ranks += list(ranks)
        ends = courses.graph.ends
        for one in range(len(ranks)):
            for other in range(one):
                if set(ends[one][ends[one] >= 0]) & set(ends[other][ends[other] >= 0]):
                    differences.append(abs(ranks[one] - ranks[other]))
    assert 0 <= min(all_ranks) <= max(all_ranks) <= 1
    assert np.mean(differences) < 0.8 / 3  # of independent ones it is a third


def test_workers_give_the_same_bytes(libraries):
    library = libraries["octa"]
    with Workers(2, _keep, (library,)) as workers:
        made = list(workers.map_in_order(_make_kept, range(3)))
    assert made == [make_one(library, index) for index in range(3)]


_KEPT: list[Library] = []


def _keep(library: Library) -> None:
    _KEPT.append(library)


def _make_kept(index: int) -> bytes:
    return make_one(_KEPT[0], index)
