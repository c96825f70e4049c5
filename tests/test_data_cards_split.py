"""`univg data split`: deterministic, patient-wise, and never silently another split."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import main


@pytest.fixture
def pairs(tmp_path) -> Path:
    return make_pairs(
        tmp_path / "chase", [f"Image_{i:02d}{eye}" for i in range(1, 15) for eye in "LR"]
    )


def make_pairs(folder: Path, stems: list[str]) -> Path:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8] = 255
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for stem in stems:
        cv2.imwrite(str(folder / "images" / f"{stem}.png"), mask // 2)
        cv2.imwrite(str(folder / "masks" / f"{stem}.png"), mask)
    return folder


def split(folder: Path, *words: str, name: str = "split.json") -> dict:
    assert main(["data", "split", str(folder), *words]) == 0
    return json.loads((folder / name).read_text())


def patient(stem: str) -> str:
    return stem[6:8]


def test_halves_are_disjoint_and_shots_come_from_the_pool(pairs) -> None:
    content = split(pairs, "--seed", "3", "--draws", "4")
    pool, test = set(content["pool"]), set(content["test"])
    assert not pool & test and len(pool | test) == 28 and len(test) == 14
    assert len(content["draws"]) == 4
    for draw in content["draws"]:
        assert len(draw) == len(set(draw)) == 5 and set(draw) <= pool
    assert len({tuple(sorted(draw)) for draw in content["draws"]}) > 1
    assert content["seed"] == 3 and content["shots"] == 5 and content["test_share"] == 0.5


def test_endings_can_be_given(tmp_path, capsys) -> None:
    folder = make_pairs(tmp_path / "a", [f"p{i:02d}" for i in range(12)])
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_weird.png"))
    assert main(["data", "split", str(folder)]) == 2
    assert "--strip" in capsys.readouterr().err
    content = split(folder, "--strip", "_weird")
    assert sorted(content["pool"] + content["test"]) == [f"p{i:02d}" for i in range(12)]


def test_the_seed_decides_everything(pairs, tmp_path) -> None:
    first = split(pairs, "--seed", "3", "--draws", "2")
    words = ["--draws", "6", "--out", str(pairs / "more.json")]
    more = split(pairs, "--seed", "3", *words, name="more.json")
    assert more["draws"][:2] == first["draws"] and more["test"] == first["test"]
    other = split(pairs, "--seed", "4", "--out", str(pairs / "b.json"), name="b.json")
    assert other["test"] != first["test"]


def test_listing_order_does_not_matter(pairs, tmp_path) -> None:
    stems = sorted(p.stem for p in (pairs / "images").iterdir())
    again = make_pairs(tmp_path / "again", stems[::-1])
    split(pairs, "--seed", "1")
    split(again, "--seed", "1")
    assert (pairs / "split.json").read_bytes() == (again / "split.json").read_bytes()


def test_patients_stay_on_one_side_and_shots_are_of_different_ones(pairs) -> None:
    content = split(pairs, "--group-by", r"Image_(\d+)", "--shots", "7", "--draws", "5")
    assert not {patient(s) for s in content["pool"]} & {patient(s) for s in content["test"]}
    for draw in content["draws"]:
        assert len({patient(stem) for stem in draw}) == 7


def test_more_shots_than_patients_take_second_images(pairs) -> None:
    content = split(pairs, "--group-by", r"Image_(\d+)", "--shots", "10")
    (draw,) = content["draws"]
    assert len(set(draw)) == 10
    assert len({patient(stem) for stem in draw[:7]}) == 7


def test_list_of_tests(pairs, tmp_path) -> None:
    names = tmp_path / "tests.txt"
    names.write_text("# kept by the provider\nImage_01L.png\nImage_01R\n\nImage_02L  # left\n")
    content = split(pairs, "--test-list", str(names))
    assert content["test"] == ["Image_01L", "Image_01R", "Image_02L"]
    assert len(content["pool"]) == 25 and content["test_share"] is None


def test_paper_protocol_rest_is_test(pairs, tmp_path) -> None:
    content = split(pairs, "--test-share", "0.82")
    assert len(content["test"]) == 23 and len(content["pool"]) == 5
    assert sorted(content["draws"][0]) == content["pool"]


def test_the_same_split_again_is_left_alone(pairs, capsys) -> None:
    split(pairs)
    before = (pairs / "split.json").stat()
    time.sleep(0.01)
    split(pairs)
    after = (pairs / "split.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert "already there" in capsys.readouterr().out


def test_another_split_is_refused_until_asked_for(pairs, capsys) -> None:
    first = split(pairs, "--seed", "1")
    assert main(["data", "split", str(pairs), "--seed", "2"]) == 2
    assert one_line(capsys).endswith("--overwrite it\n")
    assert json.loads((pairs / "split.json").read_text()) == first
    assert split(pairs, "--seed", "2", "--overwrite")["seed"] == 2


def test_dry_run_tells_and_writes_nothing(pairs, capsys) -> None:
    before = sorted(pairs.iterdir())
    assert main(["data", "split", str(pairs), "--draws", "3", "--dry-run"]) == 0
    assert "14 in the pool, 14 tests, 3 draws of 5 shots" in capsys.readouterr().out
    assert sorted(pairs.iterdir()) == before


def test_file_holds_no_path(pairs) -> None:
    split(pairs)
    assert str(pairs) not in (pairs / "split.json").read_text()


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("univg: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shots", "15"], "leave 14 for the pool, fewer than the 15 shots"),
        (["--shots", "0"], "shots"),
        (["--test-share", "1.5"], "test_share"),
        (["--test-share", "0.01"], "not one of 28 pairs became a test"),
        (["--group-by", "Image_[0-9]+"], "has 0 groups"),
        (["--group-by", "Image_("], "is not a regular expression"),
        (["--group-by", "(Patient)"], "finds no patient in 28 of 28 names"),
        (["--group-by", "(Image)"], "not one of 28 pairs became a test"),
        (["--test-list", "no-such-file.txt"], "cannot be read"),
        (["--test-list", "x", "--test-share", "0.5"], "exclude each other"),
    ],
)
def test_mistakes_are_one_line(pairs, words, expected, capsys) -> None:
    assert main(["data", "split", str(pairs), *words]) == 2
    assert expected in one_line(capsys)
    assert not (pairs / "split.json").exists()


def test_wrong_folder_is_one_line(tmp_path, capsys) -> None:
    assert main(["data", "split", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in one_line(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["data", "split", str(tmp_path / "empty")]) == 2
    assert "images/" in one_line(capsys)


def test_test_list_with_strangers_or_half_patients(pairs, tmp_path, capsys) -> None:
    names = tmp_path / "tests.txt"
    names.write_text("Image_99L\n")
    assert main(["data", "split", str(pairs), "--test-list", str(names)]) == 2
    assert "for example Image_99L" in one_line(capsys)
    names.write_text("Image_01L\n")
    words = ["--test-list", str(names), "--group-by", r"Image_(\d+)"]
    assert main(["data", "split", str(pairs), *words]) == 2
    assert "for example Image_01R" in one_line(capsys)
