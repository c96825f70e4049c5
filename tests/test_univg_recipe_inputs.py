"""What `univg run` refuses before work starts: test sets, masks, folders that cannot be meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_univg_recipe import SIDES, settings_of, steps_in
from test_univg_recipe import data as data  # a fixture

from univg.errors import DataError
from univg.images import encode_image, read_image
from univg.masks import encode_mask, read_mask
from univg.recipe import check_inputs, run
from univg.recipe_segmenters import choose_grounds


@pytest.fixture
def place(data, tmp_path) -> Path:
    """Shots and a test set that may be spoilt."""
    place = tmp_path / "data"
    for name in ("shots", "test"):
        shutil.copytree(data / name, place / name)
        (place / name / "manifest.jsonl").unlink()
    return place


def files_of(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name).iterdir())


def to_colour(path: Path) -> None:
    image = read_image(path)
    path.write_bytes(encode_image(np.repeat(image[..., None], 3, axis=2)))


def to_16_bits(path: Path) -> None:
    path.write_bytes(encode_image(read_image(path).astype(np.uint16) * 257))


def refuse(place: Path, named: str, **changes: object) -> str:
    with pytest.raises(DataError, match=named) as caught:
        check_inputs(settings_of(place, place.parent / "out", **changes))
    return str(caught.value)


@pytest.mark.parametrize("change", [to_colour, to_16_bits])
def test_a_lossless_copy_of_a_shot_is_no_test_image(place, change):
    shot = files_of(place / "shots", "images")[1]
    copy = place / "test" / "images" / "zz.png"
    shutil.copy(shot, copy)
    change(copy)
    shutil.copy(files_of(place / "shots", "masks")[1], place / "test" / "masks" / "zz.png")
    refuse(place, f"zz.png: is the shot {shot.name}")


def as_jpeg(image: np.ndarray) -> np.ndarray:
    stream = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return cv2.imdecode(stream, cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    "save",
    [
        as_jpeg,
        lambda image: np.clip(image * 0.8 + 25, 0, 255).astype(np.uint8),
        lambda image: np.ascontiguousarray(image[:, ::-1]),
    ],
    ids=["as JPEG", "lightened", "mirrored"],
)
def test_a_shot_that_was_saved_again_is_no_test_image_and_no_second_shot(place, save):
    shot, mask = (files_of(place / "shots", name)[1] for name in ("images", "masks"))
    for folder, named in (("test", f"zz.png: is the shot {shot.name}, saved again"),
                          ("shots", f"is {shot.name}, saved again")):  # fmt: skip
        copy = place / folder / "images" / "zz.png"
        copy.write_bytes(encode_image(save(read_image(shot))))
        other = read_mask(mask)
        other[:3, :3] = True  # masks that are the same are told otherwise
        (place / folder / "masks" / "zz.png").write_bytes(encode_mask(other))
        refuse(place, named, **({"wanted": 6} if folder == "shots" else {}))
        copy.unlink()
        (place / folder / "masks" / "zz.png").unlink()


def exchange(masks: list[Path]) -> None:
    held = [path.read_bytes() for path in masks]
    for path, other in zip(masks, [*held[1:], held[0]], strict=True):
        path.write_bytes(other)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_masks_of_other_shots_are_refused(place, count):
    masks = files_of(place / "shots", "masks")
    exchange(masks[:count])
    told = refuse(place, f"{masks[0].name}: fits its image worse than")
    assert told.count("are masks mixed up?") == count


@pytest.mark.parametrize(
    ("turn", "told"), [(np.fliplr, "mirrored"), (lambda mask: mask.T, "rows and columns exchanged")]
)
def test_a_mask_that_is_turned_is_refused(place, turn, told):
    path = files_of(place / "shots", "masks")[2]
    path.write_bytes(encode_mask(np.ascontiguousarray(turn(read_mask(path)))))
    refuse(place, f"{path.name}: fits its image better .*{told}")


def test_a_test_set_that_is_exchanged_or_inverted_is_refused(place):
    test = place / "test"
    masks = {path: read_mask(path) for path in files_of(test, "masks")}
    for path, mask in masks.items():
        path.write_bytes(encode_mask(~mask))
    assert refuse(place, "is it inverted").count("inverted") == 3
    for path, mask in masks.items():
        path.write_bytes(encode_mask(mask))
    (test / "images").rename(test / "x")
    (test / "masks").rename(test / "images")
    (test / "x").rename(test / "masks")
    refuse(place, "swapped|neither vessel nor background")


def test_an_empty_field_of_view_in_a_test_set_is_refused(place):
    test = place / "test"
    (test / "fov").mkdir()
    for k, path in enumerate(files_of(test, "images")):
        view = np.full(SIDES, k > 0, np.bool_)
        (test / "fov" / path.name).write_bytes(encode_mask(view))
    refuse(place, f"fov/{files_of(test, 'images')[0].name}: is an empty field of view")


def test_a_manifest_may_name_other_folders_but_not_pairs_of_other_names(place):
    test = place / "test"
    (test / "images").rename(test / "pictures")
    names = [path.name for path in files_of(test, "masks")]
    rows = [{"image": f"pictures/{name}", "mask": f"masks/{name}"} for name in names]

    def write_rows() -> None:
        text = "\n".join(json.dumps(row) for row in rows)
        (test / "manifest.jsonl").write_text(f"{text}\n", encoding="utf-8")

    write_rows()
    check_inputs(settings_of(place, place.parent / "out"))
    (test / "pictures" / names[0]).rename(test / "pictures" / "else.png")
    rows[0]["image"] = "pictures/else.png"
    write_rows()
    refuse(place, f"else.png: has the mask {names[0]}")


def test_a_test_set_holds_each_image_once_and_some_vessel(place):
    test = place / "test"
    for name in ("images", "masks"):
        shutil.copy(files_of(test, name)[0], test / name / "zz.png")
    refuse(place, "zz.png: is the same picture as")
    for name in ("images", "masks"):
        (test / name / "zz.png").unlink()
    for path in files_of(test, "masks"):
        path.write_bytes(encode_mask(np.zeros(SIDES, np.bool_)))
    refuse(place, "no mask holds a vessel")


@pytest.mark.parametrize("count", [0, 1])
def test_fields_of_view_are_given_for_all_test_images_or_none(place, count):
    views = place / "test" / "fov"
    views.mkdir()
    for path in files_of(place / "test", "images")[:count]:
        (views / path.name).write_bytes(encode_mask(np.ones(SIDES, np.bool_)))
    refuse(place, f"{3 - count} of 3 images have no field of view")


def test_a_mask_belongs_to_one_shot(place):
    first, second, *_ = files_of(place / "shots", "masks")
    shutil.copy(first, second)
    refuse(place, f"{second.name}: is the same picture as {first.name}")


def test_shots_that_are_recombined_are_of_one_kind(place):
    to_colour(files_of(place / "shots", "images")[0])
    refuse(place, "bring all shots to one kind")


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (".", "holds the folder of the shots"),
        ("shots/masks", "lies in the folder of the shots"),
        ("test/masks", "lies in the folder of the test set"),
    ],
)
def test_folders_with_labels_are_not_unlabelled(place, where, named):
    refuse(place, named, unlabelled=place / where)


def test_masks_are_no_unlabelled_images_and_hidden_folders_do_not_count(place):
    others = place / "others"
    (others / ".thumbs").mkdir(parents=True)
    (others / "__MACOSX").mkdir()
    shot = files_of(place / "shots", "images")[0]
    for k, name in enumerate(("a.png", ".thumbs/b.png", "__MACOSX/c.png")):
        (others / name).write_bytes(encode_image(np.roll(read_image(shot), k + 3, axis=1)))
    assert [path.name for path in choose_grounds(others).values()] == ["a.png"]
    shutil.copy(files_of(place / "shots", "masks")[0], others / "m.png")
    refuse(place, "m.png: has two levels", unlabelled=others)


@pytest.mark.parametrize("save", [np.copy, as_jpeg], ids=["lossless", "as JPEG"])
@pytest.mark.parametrize("engine", ["composite", "diffusion"])
def test_test_images_saved_again_are_no_unlabelled_images(place, save, engine):
    others = place / "others"
    others.mkdir()
    test = files_of(place / "test", "images")[0]
    (others / "a.png").write_bytes(encode_image(np.roll(read_image(test)[::-1], 31, axis=0)))
    asked = {"unlabelled": others, "image_engine": engine}
    check_inputs(settings_of(place, place.parent / "out", **asked))
    cv2.imwrite(str(others / "b.tif"), save(read_image(test)))
    refuse(place, f"b.tif: is the test image {test.name}, saved again", **asked)


def test_what_an_earlier_recipe_left_is_taken_away_and_titles_change_nothing(place):
    import yaml

    from univg.modalities import CARD_FOLDER

    card = place / "card.yaml"
    plain = yaml.safe_load((CARD_FOLDER / "octa.yaml").read_text(encoding="utf-8"))
    card.write_text(yaml.safe_dump(plain), encoding="utf-8")
    out = place.parent / "out"
    asked = settings_of(place, out, modality=str(card), pairs=2, segment_steps=1)
    run(asked)
    steps = steps_in(out)
    assert (out / "table.md").exists()
    shutil.copy(out / "segmenter.safetensors", out / "segmenter-other.safetensors")
    (out / "segmenter-mine.safetensors").write_bytes(b"a file of the user's")
    card.write_text(yaml.safe_dump({**plain, "title": "Another"}), encoding="utf-8")
    run(settings_of(place, out, modality=str(card), pairs=2, segment_steps=1, test=None))
    assert steps_in(out) == steps
    assert not list(out.glob("table.*"))
    assert [path.name for path in out.glob("segmenter-*")] == ["segmenter-mine.safetensors"]
    assert (out / "segmenter.safetensors").exists()
