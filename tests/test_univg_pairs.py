"""Pairs are matched by name and nothing else; a manifest is trusted, and held to its word."""

import json
from pathlib import Path

import numpy as np
import pytest

from univg.errors import DataError, ProblemReport
from univg.files import sha256_of_file
from univg.images import encode_image
from univg.manifest import ManifestWriter
from univg.masks import write_mask
from univg.pairs import (
    DEFAULT_SUFFIXES,
    check_pairs,
    find_masks,
    match_stems,
    open_pairs,
    strip_stem,
)

RNG = np.random.default_rng(0)


def add_image(path: Path, height: int = 12, width: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(RNG.integers(0, 255, (height, width, 3)).astype(np.uint8)))
    return path


def add_mask(path: Path, height: int = 12, width: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((height, width), bool)
    mask[2:4] = True
    write_mask(path, mask)
    return path


def make_pairs(folder: Path, stems: str = "abc") -> Path:
    for stem in stems:
        add_image(folder / "images" / f"{stem}.png")
        add_mask(folder / "masks" / f"{stem}.png")
    return folder


@pytest.mark.parametrize(
    ("stem", "plain"),
    [
        ("21_training", "21"),
        ("21_training_mask", "21"),
        ("01_test_mask", "01"),
        ("21_MANUAL1", "21"),
        ("Image_01L_1stHO", "Image_01L"),
        ("im0001.ah", "im0001"),
        ("_mask", "_mask"),
        ("plain", "plain"),
    ],
)
def test_endings_are_dropped(stem: str, plain: str) -> None:
    assert strip_stem(stem, DEFAULT_SUFFIXES) == plain


def test_beginnings_are_dropped_where_asked_for() -> None:
    assert strip_stem("label_s1_i3", ("image_*", "label_*", "_i3")) == "s1"


def test_names_match_first_exactly_then_stripped() -> None:
    images = [Path(f"images/{n}") for n in ("b_test.png", "a.jpg", "C.tif", "lone.png")]
    masks = [Path(f"masks/{n}") for n in ("c_manual1.gif", "b_test.png", "a_1stHO.png", "x.png")]
    matching = match_stems(images, masks)
    assert [(s, i.name, m.name) for s, i, m in matching.pairs] == [
        ("C", "C.tif", "c_manual1.gif"),
        ("a", "a.jpg", "a_1stHO.png"),
        ("b_test", "b_test.png", "b_test.png"),
    ]
    assert [p.name for p in matching.unmatched_images] == ["lone.png"]
    assert [p.name for p in matching.unmatched_masks] == ["x.png"]
    assert matching.duplicates == ()


def test_position_never_matters() -> None:
    images = [Path(f"images/{n}.png") for n in ("1", "10", "2")]
    masks = [Path(f"masks/{n}.png") for n in ("2", "1", "10")]
    assert all(i.stem == m.stem == s for s, i, m in match_stems(images, masks).pairs)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a.png", "a.tif"], ["a.png"]),
        (["a.png"], ["a_manual1.gif", "a_mask.png"]),
        (["a_test.png", "a_training.png"], ["a_manual1.png"]),
    ],
)
def test_doubles_are_told_and_never_paired(images: list[str], masks: list[str]) -> None:
    matching = match_stems([Path("i", n) for n in images], [Path("m", n) for n in masks])
    assert matching.pairs == ()
    doubles = [sorted(p.name for p in group) for group in matching.duplicates]
    assert sorted(max(images, masks, key=len)) in doubles


def test_a_folder_of_pairs_is_opened_with_its_fields_of_view(tmp_path: Path) -> None:
    make_pairs(tmp_path, "ba")
    add_mask(tmp_path / "fov" / "a_mask.png")
    for junk in ("._a.png", "Thumbs.db", ".univg-tmp-3-a.png"):
        (tmp_path / "images" / junk).write_bytes(b"x")
    found = open_pairs(tmp_path)
    assert [(p.stem, p.image.name, p.mask.name) for p in found.pairs] == [
        ("a", "a.png", "a.png"),
        ("b", "b.png", "b.png"),
    ]
    assert found.pairs[0].fov == tmp_path / "fov" / "a_mask.png" and found.pairs[1].fov is None
    assert check_pairs(tmp_path) == []


def test_everything_without_a_partner_is_told_at_once(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a")
    add_image(tmp_path / "images" / "b.png")
    add_mask(tmp_path / "masks" / "c.png")
    add_mask(tmp_path / "fov" / "d.png")
    with pytest.raises(ProblemReport) as caught:
        open_pairs(tmp_path)
    text = str(caught.value)
    assert all(name in text for name in ("b.png", "c.png", "d.png")) and "a.png" not in text


def test_every_bad_file_is_named_in_one_report(tmp_path: Path) -> None:
    make_pairs(tmp_path, "abcdefg")
    (tmp_path / "images" / "a.png").write_text("no")
    cut = tmp_path / "masks" / "b.png"
    cut.write_bytes(cut.read_bytes()[:50])
    write_mask(tmp_path / "masks" / "c.png", np.zeros((12, 16), bool))
    write_mask(tmp_path / "masks" / "d.png", np.ones((12, 16), bool))
    add_mask(tmp_path / "masks" / "e.png", 16, 12)
    (tmp_path / "masks" / "f.png").unlink()
    problems = check_pairs(tmp_path)
    assert {(p.path.parent.name, p.path.name, p.kind) for p in problems} == {
        ("images", "a.png", "unreadable"),
        ("masks", "b.png", "truncated"),
        ("masks", "c.png", "empty"),
        ("masks", "d.png", "full"),
        ("masks", "e.png", "size"),
        ("images", "f.png", "unmatched"),
    }


def with_manifest(folder: Path, stems: str) -> Path:
    rows = []
    for stem in stems:
        files = {"image": f"images/{stem}.png", "mask": f"masks/{stem}.png"}
        sums = {role: sha256_of_file(folder / name) for role, name in files.items()}
        rows.append({"id": stem, **files, "sha256": sums})
    with ManifestWriter(folder) as manifest:
        manifest.append(rows)
    return folder


def test_only_what_the_manifest_names_counts(tmp_path: Path) -> None:
    with_manifest(make_pairs(tmp_path, "abc"), "ca")
    add_image(tmp_path / "images" / "z.png")
    assert [p.stem for p in open_pairs(tmp_path).pairs] == ["c", "a"]
    assert check_pairs(tmp_path) == []
    assert [p.name for p in find_masks(tmp_path)] == ["a.png", "c.png"]


def test_missing_and_changed_files_of_the_manifest_are_told(tmp_path: Path) -> None:
    with_manifest(make_pairs(tmp_path, "abc"), "abc")
    (tmp_path / "images" / "a.png").unlink()
    add_mask(tmp_path / "masks" / "b.png", 12, 17)
    with pytest.raises(ProblemReport, match=r"a\.png: is named by manifest\.jsonl and missing"):
        open_pairs(tmp_path)
    kinds = {(p.path.name, p.kind) for p in check_pairs(tmp_path)}
    assert kinds == {("a.png", "missing"), ("b.png", "changed"), ("b.png", "size")}
    with pytest.raises(ProblemReport, match=r"masks/b\.png: differs"):
        open_pairs(tmp_path, verify=True)


def test_images_without_masks_in_a_manifest_are_kept_apart(tmp_path: Path) -> None:
    with_manifest(make_pairs(tmp_path, "a"), "a")
    add_image(tmp_path / "images" / "u.png")
    with ManifestWriter(tmp_path) as manifest:
        manifest.append([{"id": "u", "image": "images/u.png"}])
    found = open_pairs(tmp_path)
    assert [p.stem for p in found.pairs] == ["a"]
    assert found.unlabelled == (tmp_path / "images" / "u.png",)


def test_a_manifest_that_names_an_item_twice_is_refused(tmp_path: Path) -> None:
    with_manifest(make_pairs(tmp_path, "abc"), "abca")
    with pytest.raises(ProblemReport, match="names a twice, again in line 4"):
        open_pairs(tmp_path)
    assert [(p.path.name, p.kind) for p in check_pairs(tmp_path)] == [
        ("manifest.jsonl", "duplicate")
    ]


def test_rows_without_an_id_go_by_their_files(tmp_path: Path) -> None:
    make_pairs(tmp_path, "ab")
    rows = [{"image": f"images/{s}.png", "mask": f"masks/{s}.png"} for s in "ab"]
    with ManifestWriter(tmp_path) as manifest:
        manifest.append([*rows, {"note": 1}, {"note": 2}])
        assert [p.stem for p in open_pairs(tmp_path).pairs] == ["a", "b"]
        manifest.append(rows[:1])
    with pytest.raises(ProblemReport, match="names a twice"):
        open_pairs(tmp_path)


def test_a_manifest_may_name_what_no_disk_can_hold(tmp_path: Path) -> None:
    row = {"id": "a", "image": f"images/{'n' * 300}.png", "mask": "masks/a.png"}
    make_pairs(tmp_path, "a")
    with ManifestWriter(tmp_path) as manifest:
        manifest.append([row])
    assert [p.kind for p in check_pairs(tmp_path)] == ["missing"]


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", 7])
def test_a_manifest_cannot_lead_outside(tmp_path: Path, name: object) -> None:
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"image": name, "mask": name}) + "\n")
    with pytest.raises(ProblemReport, match="not a path inside the folder"):
        open_pairs(tmp_path)
    with pytest.raises(ProblemReport, match="not a path inside the folder"):
        find_masks(tmp_path)


def test_masks_are_found_in_either_kind_of_folder(tmp_path: Path) -> None:
    make_pairs(tmp_path, "ba")
    assert [p.name for p in find_masks(tmp_path)] == ["a.png", "b.png"]
    assert find_masks(tmp_path) == find_masks(tmp_path / "masks")


def test_folders_that_are_something_else_are_refused_clearly(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    hollow = tmp_path / "hollow"
    (hollow / "images").mkdir(parents=True)
    expected = {
        tmp_path / "absent": "does not exist",
        file: "is a file",
        empty: "has no images/ and no masks/",
        hollow: "has no masks/",
    }
    for folder, text in expected.items():
        with pytest.raises(DataError, match=text):
            open_pairs(folder)
    for folder, text in {
        **expected,
        empty: "holds no picture",
        hollow: "has images/ but no masks/",
    }.items():
        with pytest.raises(DataError, match=text):
            find_masks(folder)
    (hollow / "masks").mkdir()
    with pytest.raises(DataError, match="hold no picture"):
        open_pairs(hollow)
