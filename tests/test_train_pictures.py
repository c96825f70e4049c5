"""The list of what training runs over: complete, in order, with the right prompts."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest

from univg.errors import DataError, ProblemReport
from univg.files import sha256_of_file
from univg.images import PictureError, encode_image
from univg.manifest import ManifestWriter
from univg.masks import encode_mask
from univg.modalities import find_modality
from univg.train.checksums import hash_files
from univg.train.pictures import (
    PictureWarning,
    list_pictures_of,
    load_mask,
    load_picture,
    turn,
    turn_back,
)

RNG = np.random.default_rng(0)


def add_image(path: Path, side: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(RNG.integers(0, 256, (side, side, 3)).astype(np.uint8)))
    return path


def add_mask(path: Path, side: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), bool)
    mask[int(RNG.integers(2, side - 4)) :, 5:9] = True
    path.write_bytes(encode_mask(mask))
    return path


def make_pairs(folder: Path, stems: str = "ab") -> Path:
    for stem in stems:
        add_image(folder / "images" / f"{stem}.png")
        add_mask(folder / "masks" / f"{stem}.png")
    return folder


def test_folders_named_by_modality_have_the_prompts_of_their_cards(tmp_path):
    make_pairs(tmp_path / "octa")
    add_image(tmp_path / "fundus" / "images" / "x.png")  # images without masks
    add_image(tmp_path / "brain" / "y.png")  # a plain folder
    (tmp_path / "logs").mkdir()  # nothing to do with it
    found = list_pictures_of([tmp_path], "image")
    assert [(p.modality, p.path.name) for p in found] == [
        *[("brain", "y.png"), ("fundus", "x.png"), ("octa", "a.png"), ("octa", "b.png")]
    ]
    assert [p.prompt for p in found[:3]] == [
        *("brain angiography image", "fundus image", "octa image")
    ]
    assert [p.mask_path and p.mask_path.parent.name for p in found] == [
        *(None, None, "masks", "masks")
    ]
    assert [p.sha256 for p in found] == [sha256_of_file(p.path) for p in found]


def test_masks_come_from_the_same_kinds_of_folders(tmp_path):
    make_pairs(tmp_path / "octa")
    add_mask(tmp_path / "fundus" / "m.png")
    found = list_pictures_of([tmp_path / "octa", tmp_path / "fundus"], "mask")
    assert [p.path.name for p in found] == ["a.png", "b.png", "m.png"]  # roots in their order
    assert [p.prompt for p in found] == [
        *("mask of octa vessels", "mask of octa vessels", "mask of fundus vessels")
    ]
    assert all(p.kind == "mask" and p.mask_path is None for p in found)


def test_only_what_a_manifest_names_counts_and_its_rows_name_the_modality(tmp_path):
    make_pairs(tmp_path / "run", "abc")
    add_image(tmp_path / "run" / "images" / "lone.png")
    rows = [
        {"id": "a", "image": "images/a.png", "mask": "masks/a.png", "modality": "oct"},
        {"id": "lone", "image": "images/lone.png", "modality": "oct"},
    ]
    with ManifestWriter(tmp_path / "run") as manifest:
        manifest.append(rows)
    found = list_pictures_of([tmp_path / "run"], "image")
    assert [(p.path.name, p.modality) for p in found] == [("a.png", "oct"), ("lone.png", "oct")]
    assert [p.path.name for p in list_pictures_of([tmp_path / "run"], "mask")] == ["a.png"]


def test_a_folder_of_no_known_modality_asks_for_one(tmp_path):
    make_pairs(tmp_path / "mine")
    with pytest.raises(DataError, match="its modality is not known"):
        list_pictures_of([tmp_path / "mine"], "image")
    of_prompt = list_pictures_of([tmp_path / "mine"], "image", default="retina by lamplight")
    assert {(p.prompt, p.modality) for p in of_prompt} == {("retina by lamplight", "")}
    of_card = list_pictures_of([tmp_path / "mine"], "mask", default=find_modality("coronary"))
    assert {(p.prompt, p.modality) for p in of_card} == {("mask of coronary vessels", "coronary")}


def test_images_alone_need_no_partners_and_pairs_do(tmp_path):
    make_pairs(tmp_path / "oct")
    add_image(tmp_path / "oct" / "images" / "lone.png")
    assert len(list_pictures_of([tmp_path / "oct"], "image")) == 3
    with pytest.raises(ProblemReport, match=r"lone\.png: this image has no mask"):
        list_pictures_of([tmp_path / "oct"], "image", paired=True)
    with pytest.warns(PictureWarning, match=r"left out: .*lone\.png"):
        paired = list_pictures_of([tmp_path / "oct"], "image", paired=True, skip_bad=True)
    assert [p.path.name for p in paired] == ["a.png", "b.png"]


def test_bad_files_are_told_at_once_or_left_out(tmp_path):
    make_pairs(tmp_path / "oct", "abcd")
    for stem in "bd":
        (tmp_path / "oct" / "images" / f"{stem}.png").write_bytes(b"")
    with pytest.raises(ProblemReport) as caught:
        list_pictures_of([tmp_path / "oct"], "image")
    assert [p.path.name for p in caught.value.problems] == ["b.png", "d.png"]
    with pytest.warns(PictureWarning, match="left out"):
        found = list_pictures_of([tmp_path / "oct"], "image", skip_bad=True)
    assert [p.path.name for p in found] == ["a.png", "c.png"]


def test_wrong_folders_are_one_line(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list_pictures_of([tmp_path / "nowhere"], "image")
    with pytest.raises(DataError, match="holds no picture"):
        list_pictures_of([tmp_path], "image")
    add_mask(tmp_path / "octa" / "masks" / "a.png")
    (tmp_path / "octa" / "images").mkdir()
    with pytest.raises(DataError, match="holds no image to train on"):
        list_pictures_of([tmp_path], "image")


def test_masks_load_black_and_white_and_images_as_they_are(tmp_path):
    make_pairs(tmp_path / "octa", "a")
    (image,) = list_pictures_of([tmp_path], "image")
    (mask,) = list_pictures_of([tmp_path], "mask")
    assert load_picture(image, 24, "stretch").shape == (24, 24, 3)
    pixels = load_picture(mask, 32, "pad")
    assert pixels.shape == (32, 32, 3) and set(np.unique(pixels)) == {0, 255}
    assert np.array_equal(load_mask(image.mask_path, 32, "pad"), pixels[:, :, 1] > 0)


def test_exchanged_folders_are_noticed(tmp_path):
    make_pairs(tmp_path / "octa", "a")
    (image,) = list_pictures_of([tmp_path], "image")
    (mask,) = list_pictures_of([tmp_path], "mask")
    for picture, kind, like in ((image, "mask", "an image"), (mask, "image", "a mask")):
        with pytest.raises(PictureError, match=f"this looks like {like}"):
            load_picture(dataclasses.replace(picture, kind=kind), 24, "stretch")


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (4, 7)])
def test_turns_are_the_eight_of_the_square_and_can_be_undone(shape):
    array = RNG.integers(0, 256, shape).astype(np.uint8)
    turned = [turn(array, k) for k in range(8)]
    assert np.array_equal(turned[0], array)
    assert len({(t.shape, t.tobytes()) for t in turned}) == 8
    for k, t in enumerate(turned):
        assert t.flags["C_CONTIGUOUS"] and np.array_equal(turn_back(t, k), array)
        assert sorted(t.ravel()) == sorted(array.ravel())
    with pytest.raises(ValueError, match="from 0 to 7"):
        turn(array, 8)


def test_an_image_and_its_mask_turn_alike():
    mask = RNG.random((9, 9)) > 0.5
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8)
    for k in range(8):
        assert np.array_equal(turn(mask, k), turn(image, k)[:, :, 2] > 0)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_remembered_checksum_counts_while_the_file_is_the_same(tmp_path):
    memory, file = tmp_path / "run" / "hashes.json", tmp_path / "a.bin"
    file.write_bytes(b"one")
    age(file, 60)
    first, _ = hash_files([file], memory)
    # Something that only a remembered sum can show: the content changes behind its back.
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_files([file], memory)[0] == first
    age(file, 30)
    assert hash_files([file], memory)[0] == {file: sha256_of_file(file)}
    memory.write_text("{damaged")
    assert hash_files([file], memory)[0] == {file: sha256_of_file(file)}


def test_a_file_written_just_now_is_not_remembered(tmp_path):
    memory, file = tmp_path / "run" / "hashes.json", tmp_path / "a.bin"
    file.write_bytes(b"one")
    hash_files([file], memory)
    assert not memory.exists()
