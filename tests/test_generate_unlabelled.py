"""Unlabelled images lend their grounds: vessels found in them go, those of the shots come."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import main
from univg.errors import DataError, ProblemReport
from univg.files import make_folder
from univg.generate.composite import build_library, render_composite, sample_recipe
from univg.generate.composite_library import spread_out
from univg.generate.procedural import render_pair
from univg.generate.unlabelled import DEEP, read_unlabelled
from univg.images import encode_image, read_image
from univg.masks import encode_mask
from univg.modalities import find_modality
from univg.sca.compose import grow_mask
from univg.sca.params import growth_of
from univg.seeds import rng_for

SIDES = (160, 176)
OTHER = 90
"""Index of the unlabelled image: its look and vessels are none of the shots'."""


def grow(index: int) -> np.ndarray:
    growth = growth_of(find_modality("coronary"))
    return np.asarray(grow_mask(growth, *SIDES, rng_for(4, "coronary", index)).pixels > 0)


def make_pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    return render_pair(grow(index), "coronary", 2, index, "default")


def write(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shots, masks, unlabelled images and what was found in them, as the commands write them."""
    place = tmp_path_factory.mktemp("unlabelled")
    for index in range(2):
        image, mask = make_pair(index)
        write(place / "shots" / "images" / f"s{index}.png", encode_image(image))
        write(place / "shots" / "masks" / f"s{index}.png", encode_mask(mask))
    for index in (OTHER, OTHER + 1):
        image, mask = make_pair(index)
        write(place / "others" / f"u{index}.png", encode_image(image))
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
        found = place / "found" / "probabilities" / f"u{index}.png"
        write(found, encode_image((soft * DEEP).astype(np.uint16)))
    for index in range(20, 26):
        write(place / "masks" / f"m{index}.png", encode_mask(grow(index)))
    return place


def words(place: Path, out: Path, *more: str) -> list[str]:
    return [
        "generate", "images", "--masks", str(place / "masks"), "--shots", str(place / "shots"),
        "--modality", "coronary", "--out", str(out), "--workers", "1", *more,
    ]  # fmt: skip


def lent(place: Path) -> list[str]:
    return ["--unlabelled", str(place / "others"), "--found", str(place / "found")]


def test_grounds_come_of_them_and_vessels_of_the_shots(place):
    shots = [(f"s{index}", *make_pair(index), None) for index in range(2)]
    others = read_unlabelled(place / "others", place / "found")
    alone, library = build_library(shots), build_library(shots, others=others)
    assert [ground.name for ground in library.grounds] == ["s0", "s1", "u90", "u91"]
    assert library.identity != alone.identity
    assert np.array_equal(library.style.level, alone.style.level)
    assert np.array_equal(library.style.core, alone.style.core)
    assert build_library(shots, others=[]).identity == alone.identity

    image, mask = make_pair(OTHER)
    ground = library.grounds[2].picture[:, :, 0].astype(np.float32)
    beside = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    beside &= ~(cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
    before = abs(float(image[mask].mean()) - float(image[beside].mean()))
    after = abs(float(ground[mask].mean()) - float(ground[beside].mean()))
    assert after < 0.4 * before

    wanted = grow(30)
    recipes = (sample_recipe(library, rng_for(1, "test", index)) for index in range(20))
    made = render_composite(wanted, library, next(r for r in recipes if r.base == 2))
    assert made.image.shape == SIDES and made.mask.any()


def test_the_command_uses_them_and_makes_a_pair_again(place, tmp_path):
    out = tmp_path / "out"
    assert main(words(place, out, *lent(place))) == 0
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert max(row["parameters"]["base"] for row in rows) >= 2
    plain = tmp_path / "plain"
    assert main(words(place, plain)) == 0
    assert (out / "images/m20.png").read_bytes() != (plain / "images/m20.png").read_bytes()
    assert main(["generate", "one", "--manifest", str(out), "--id", "m22"]) == 0
    assert main(words(place, out)) == 2, "a run without them is another run"


def test_what_is_not_theirs_is_told(place, tmp_path, capsys):
    assert main(words(place, tmp_path / "out", *lent(place)[:2])) == 2
    assert "belong together" in capsys.readouterr().err
    more = ("--image-engine", "procedural", *lent(place))
    plain = words(place, tmp_path / "out", *more)
    at = plain.index("--shots")
    assert main(plain[:at] + plain[at + 2 :]) == 2
    assert "unlabelled is of no use to image_engine procedural" in capsys.readouterr().err
    with pytest.raises(DataError, match="no probabilities/"):
        read_unlabelled(place / "others", place / "shots")
    with pytest.raises(DataError, match="holds no picture"):
        read_unlabelled(place / "found", place / "found")
    assert not (tmp_path / "out").exists()


def test_images_without_a_finding_or_with_that_of_another_are_told_together(place, tmp_path):
    others = make_folder(tmp_path / "others")
    for name in ("a", "b", "c"):
        (others / f"{name}.png").write_bytes((place / "others" / "u90.png").read_bytes())
    (others / "d.png").write_bytes((place / "others" / "u90.png").read_bytes()[:-300])
    found = tmp_path / "found" / "probabilities"
    write(found / "a.png", encode_image(np.zeros(SIDES, np.uint16)))
    write(found / "b.png", encode_image(np.zeros((8, 8), np.uint16)))
    write(found / "d.png", encode_image(np.zeros(SIDES, np.uint16)))
    with pytest.raises(ProblemReport) as caught:
        read_unlabelled(others, tmp_path / "found")
    kinds = [(problem.path.name, problem.kind) for problem in caught.value.problems]
    assert kinds == [("b.png", "shape"), ("c.png", "missing"), ("d.png", "truncated")]


def test_an_image_that_is_all_vessel_has_no_ground(place, tmp_path, capsys):
    found = tmp_path / "found" / "probabilities"
    write(found / "u90.png", encode_image(np.zeros(SIDES, np.uint16)))
    write(found / "u91.png", encode_image(np.full(SIDES, DEEP, np.uint16)))
    assert [name for name, *_ in read_unlabelled(place / "others", tmp_path / "found")] == ["u90"]
    write(found / "u90.png", encode_image(np.full(SIDES, DEEP, np.uint16)))
    more = ("--unlabelled", str(place / "others"), "--found", str(tmp_path / "found"))
    assert main(words(place, tmp_path / "out", *more)) == 2
    assert "leaves no ground" in capsys.readouterr().err


def test_large_ones_are_used_in_part():
    many = [
        (str(k), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.bool_), None) for k in range(9)
    ]
    assert [name for name, *_ in spread_out(many, 3)] == ["0", "3", "6"]
    assert [name for name, *_ in spread_out(many, 0)] == ["0"]
    assert spread_out(many, 100) == many and spread_out([], 5) == []


def test_images_of_another_kind_are_refused(place):
    shots = [("s0", *make_pair(0), None)]
    image = read_image(place / "others" / "u90.png")
    colour = np.dstack([image] * 3)
    nothing = np.zeros(SIDES, np.bool_)
    with pytest.raises(DataError, match="u is colour, uint8 and the shot s0 is grey, uint8"):
        build_library(shots, others=[("u", colour, nothing, None)])
    assert len(build_library(shots, others=[("u", image, nothing, None)]).grounds) == 2
