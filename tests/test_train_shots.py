"""Bad shots are refused in one report, before anything heavy is loaded."""

import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.errors import DataError, ProblemReport
from univg.images import encode_image
from univg.manifest import ManifestWriter
from univg.masks import write_mask
from univg.train.shots import ShotWarning, list_shot_pictures, read_shots


def draw_mask(number: int, height: int = 40, width: int = 40) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    cv2.line(canvas, (2, 3 + number), (width - 3, height - 4), 1, 2)
    return canvas.astype(bool)


def draw_image(number: int, height: int = 40, width: int = 40) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def add_pair(folder: Path, number: int, height: int = 40, width: int = 40) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    image = draw_image(number, height, width)
    (folder / "images" / f"s{number}.png").write_bytes(encode_image(image))
    write_mask(folder / "masks" / f"s{number}.png", draw_mask(number, height, width))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for number in range(5):
        add_pair(tmp_path / "shots", number)
    return tmp_path / "shots"


def kinds_of(report: ProblemReport) -> list[str]:
    return sorted(problem.kind for problem in report.problems)


def test_pairs_are_read_in_order_at_the_size_of_training(pairs):
    shots = read_shots(pairs, need="pairs", size_px=32, wanted=5)
    assert [shot.name for shot in shots] == ["s0", "s1", "s2", "s3", "s4"]
    for shot in shots:
        assert shot.image.shape == (32, 32, 3) and shot.image.dtype == np.uint8
        assert shot.mask.shape == (32, 32) and shot.mask.dtype == np.bool_ and shot.mask.any()
        assert set(shot.files) == {"image", "mask"}
    assert len({shot.sha256 for shot in shots}) == 5


def test_masks_alone_come_from_pairs_from_a_plain_folder_and_from_a_manifest(pairs, tmp_path):
    of_pairs = read_shots(pairs, need="masks", size_px=32, wanted=5)
    plain = read_shots(pairs / "masks", need="masks", size_px=32, wanted=5)
    assert all(shot.image is None and set(shot.files) == {"mask"} for shot in of_pairs)
    assert [s.sha256 for s in of_pairs] == [s.sha256 for s in plain]
    with ManifestWriter(pairs) as manifest:
        manifest.append([{"id": "only", "image": "images/s1.png", "mask": "masks/s1.png"}])
    (only,) = read_shots(pairs, need="masks", size_px=32)
    assert np.array_equal(only.mask, plain[1].mask)
    assert [s.name for s in read_shots(pairs, need="pairs", size_px=32)] == ["only"]


def test_a_changed_file_has_another_sum(pairs):
    before = read_shots(pairs, need="pairs", size_px=32)
    write_mask(pairs / "masks" / "s2.png", draw_mask(9))
    after = read_shots(pairs, need="pairs", size_px=32)
    assert [a.sha256 == b.sha256 for a, b in zip(before, after, strict=True)] == [
        *(True, True, False, True, True)
    ]


def test_everything_wrong_is_told_at_once(pairs):
    write_mask(pairs / "masks" / "s0.png", np.zeros((40, 40), bool))
    write_mask(pairs / "masks" / "s1.png", ~draw_mask(1))
    write_mask(pairs / "masks" / "s2.png", draw_mask(2, 40, 30))
    data = (pairs / "images" / "s3.png").read_bytes()
    (pairs / "images" / "s3.png").write_bytes(data[: len(data) // 2])
    (pairs / "images" / "s4.png").write_bytes(encode_image(np.full((40, 40), 7, np.uint8)))
    with pytest.raises(ProblemReport) as caught:
        read_shots(pairs, need="pairs", size_px=32, wanted=6)
    assert kinds_of(caught.value) == [
        *("blank", "empty", "inverted", "size", "too few", "truncated")
    ]
    text = str(caught.value)
    assert "5 pairs of image and mask, 0 of them usable; 6 are asked for" in text
    assert "30x40 px, its image 40x40 px" in text and "is it inverted?" in text


def test_bad_shots_are_left_out_where_asked_for(pairs):
    write_mask(pairs / "masks" / "s1.png", np.zeros((40, 40), bool))
    with pytest.raises(ProblemReport, match="has no vessel pixel"):
        read_shots(pairs, need="pairs", size_px=32)
    with pytest.warns(ShotWarning, match=r"left out: .*s1\.png: has no vessel pixel"):
        shots = read_shots(pairs, need="pairs", size_px=32, wanted=4, skip_bad=True)
    assert [shot.name for shot in shots] == ["s0", "s2", "s3", "s4"]
    with pytest.raises(ProblemReport, match="4 of them usable; 5 are asked for"):
        read_shots(pairs, need="pairs", size_px=32, wanted=5, skip_bad=True)


def test_of_more_the_first_are_taken(pairs):
    shots = read_shots(pairs, need="pairs", size_px=32, wanted=2)
    assert [shot.name for shot in shots] == ["s0", "s1"]


def test_copies_among_the_shots_are_found_in_any_file_format(pairs):
    image = cv2.imread(str(pairs / "images" / "s0.png"))
    (pairs / "images" / "s3.png").unlink()
    cv2.imwrite(str(pairs / "images" / "s3.bmp"), image)
    write_mask(pairs / "masks" / "s4.png", draw_mask(1))
    with pytest.raises(ProblemReport) as caught:
        read_shots(pairs, need="pairs", size_px=32)
    assert kinds_of(caught.value) == ["duplicate", "duplicate"]
    assert "s3.bmp: has the same pixels as s0.png" in str(caught.value)


def test_exchanged_folders_are_noticed(pairs):
    (pairs / "images").rename(pairs / "x")
    (pairs / "masks").rename(pairs / "images")
    (pairs / "x").rename(pairs / "masks")
    with pytest.raises(ProblemReport, match="are images/ and masks/ exchanged"):
        read_shots(pairs, need="pairs", size_px=32)


def test_grey_and_16_bit_images_become_rgb(pairs):
    grey = np.linspace(0, 4095, 1600).reshape(40, 40).astype(np.uint16)  # 12 bits of 16
    (pairs / "images" / "s0.png").write_bytes(encode_image(grey))
    first = read_shots(pairs, need="pairs", size_px=40)[0].image
    assert first.shape == (40, 40, 3) and (first == first[:, :, :1]).all()
    assert first.min() == 0 and first.max() == 255 and abs(float(first.mean()) - 127.5) < 2


def test_a_hot_pixel_does_not_darken_a_16_bit_image(pairs):
    grey = np.random.default_rng(0).integers(100, 1000, (40, 40)).astype(np.uint16)
    grey[5, 5] = 65535
    (pairs / "images" / "s0.png").write_bytes(encode_image(grey))
    first = read_shots(pairs, need="pairs", size_px=40)[0].image
    assert 110 < np.median(first) < 145


@pytest.mark.parametrize(("fit", "warned"), [("stretch", True), ("crop", False), ("pad", False)])
def test_strong_stretching_is_told_in_one_line(tmp_path, fit, warned):
    for number in range(3):
        add_pair(tmp_path / "wide", number, 40, 60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_shots(tmp_path / "wide", need="pairs", size_px=32, fit=fit)
    lines = [str(w.message) for w in caught]
    assert len(lines) == warned
    assert not warned or "3 of 3 shots change their proportions by up to 1.50" in lines[0]


def test_a_vessel_that_the_crop_loses_is_told(tmp_path):
    add_pair(tmp_path / "wide", 0, 40, 120)
    mask = np.zeros((40, 120), bool)
    mask[:, 2:5] = True
    write_mask(tmp_path / "wide" / "masks" / "s0.png", mask)
    with pytest.raises(ProblemReport, match="no vessel inside the part that fit=crop keeps"):
        read_shots(tmp_path / "wide", need="pairs", size_px=32, fit="crop")


def test_a_mask_with_soft_edges_is_cut_with_a_warning(pairs):
    soft = cv2.GaussianBlur(draw_mask(0).astype(np.uint8) * 255, (3, 3), 0)
    (pairs / "masks" / "s0.png").write_bytes(encode_image(soft))
    with pytest.warns(ShotWarning, match="is no clean mask"):
        shots = read_shots(pairs, need="masks", size_px=40)
    assert 0.5 < shots[0].mask.sum() / draw_mask(0).sum() < 2


def test_folders_that_are_none_are_one_line(tmp_path, pairs):
    with pytest.raises(DataError, match="does not exist; check the path"):
        read_shots(tmp_path / "nowhere", need="pairs", size_px=32)
    with pytest.raises(DataError, match="has no images/"):
        read_shots(pairs / "masks", need="pairs", size_px=32)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds 0 masks; 5 are asked for"):
        read_shots(tmp_path / "void", need="masks", size_px=32, wanted=5)
    with pytest.raises(DataError, match=r"one at least is needed \(give a folder of masks"):
        read_shots(tmp_path / "void", need="masks", size_px=32)
    (pairs / "masks" / "s1.png").unlink()
    with pytest.raises(ProblemReport, match=r"s1\.png: this image has no mask"):
        read_shots(pairs, need="pairs", size_px=32, wanted=4)


def test_shots_become_the_pictures_that_training_runs_over(pairs):
    shots = read_shots(pairs, need="pairs", size_px=32)
    images = list_shot_pictures(shots, "image", "fundus image", "fundus")
    masks = list_shot_pictures(shots, "mask", "mask of fundus vessels")
    assert [p.mask_path for p in images] == [p.path for p in masks]
    assert {p.prompt for p in images} == {"fundus image"} and images[0].modality == "fundus"
    assert len({p.sha256 for p in [*images, *masks]}) == 10


def test_no_torch_is_needed_to_refuse_shots():
    code = (
        "import sys, univg.train.shots, univg.train.pictures;"
        "assert not {'torch', 'diffusers', 'skimage.morphology'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
