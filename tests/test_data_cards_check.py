"""The doctor: problems give exit code 2 and name each file, oddities are warnings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from univg.cli import main
from univg.images import encode_image
from univg.masks import write_mask


def noise(seed: int, shape: tuple[int, ...] = (24, 32, 3)) -> np.ndarray:
    # Coarse, so that a thumbnail keeps some of it.
    coarse = np.random.default_rng(seed).integers(
        0, 255, (shape[0] // 4, shape[1] // 4, *shape[2:])
    )
    return np.kron(coarse, np.ones((4, 4, *([1] * (len(shape) - 2))))).astype(np.uint8)


def vessels(seed: int, shape: tuple[int, int] = (24, 32)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[3 + seed % 5 : 6 + seed % 5] = True
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)
    for seed in range(6):
        (tmp_path / "d" / "images" / f"{seed}.png").write_bytes(encode_image(noise(seed)))
        write_mask(tmp_path / "d" / "masks" / f"{seed}.png", vessels(seed))
    return tmp_path / "d"


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", "check", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert code == 0 or err.startswith("univg: ")
    return code, out, err


def test_a_good_folder_is_summed_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(capsys, folder)
    assert code == 0 and err == "" and "warning" not in out
    assert "6 of 6 pairs good" in out and "32x24 (6)" in out and "3 x 8 bit (6)" in out
    assert "vessel share: 12.50% to 12.50%" in out and "binary 0/255 (6)" in out


def spoil_text(folder: Path) -> None:
    (folder / "images" / "0.png").write_text("no picture")


def spoil_truncated(folder: Path) -> None:
    path = folder / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:100])


def spoil_empty(folder: Path) -> None:
    write_mask(folder / "masks" / "0.png", np.zeros((24, 32), bool))


def spoil_full(folder: Path) -> None:
    write_mask(folder / "masks" / "0.png", np.ones((24, 32), bool))


def spoil_size(folder: Path) -> None:
    write_mask(folder / "masks" / "0.png", vessels(0, (32, 24)))


def spoil_unmatched(folder: Path) -> None:
    (folder / "masks" / "0.png").rename(folder / "masks" / "other.png")


def spoil_double(folder: Path) -> None:
    Image.fromarray(noise(0)).save(folder / "images" / "0.tif")


def spoil_fov(folder: Path) -> None:
    (folder / "fov").mkdir()
    write_mask(folder / "fov" / "0.png", np.ones((10, 10), bool))


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text('{"image":"images/0.png","mask":"masks/gone.png"}\n')


def spoil_manifest_text(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text("not json\n")


def spoil_clear(folder: Path) -> None:
    pixels = np.dstack([noise(0), noise(1)[..., 0]])
    Image.fromarray(pixels).save(folder / "images" / "0.png")


BAD = {
    "is not a picture": spoil_text,
    "truncated": spoil_truncated,
    "has no vessel pixel": spoil_empty,
    "every pixel is vessel": spoil_full,
    "the mask is 24x32 px, its image 32x24 px": spoil_size,
    "this mask has no image of the same name": spoil_unmatched,
    "2 files stand for one item": spoil_double,
    "the mask is 10x10 px": spoil_fov,
    "is named by manifest.jsonl and missing": spoil_manifest,
    "line 1 is not JSON": spoil_manifest_text,
    "transparent pixels": spoil_clear,
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_told_and_nothing_is_touched(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    BAD[text](folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, err = check(capsys, folder)
    assert code == 2 and text in out + err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_several_bad_files_are_all_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_empty(folder)
    (folder / "images" / "3.png").write_text("no")
    (folder / "masks" / "5.png").unlink()
    code, out, err = check(capsys, folder)
    assert code == 2 and "3 problems found" in err and "3 of 5 pairs good" in err
    lines = [
        line
        for line in out.splitlines()
        if line.split(":")[0] in {"empty", "unreadable", "unmatched"}
    ]
    assert len(lines) == 3 and all(line.endswith(")") for line in lines)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["absent"], "does not exist"),
        ([], "PATH"),
        (["FOLDER", "--shots", "0"], "shots"),
        (["FOLDER", "--shots", "many"], "shots"),
        (["FOLDER", "--stritc"], "--strict"),
        (["FOLDER/images"], "has no images/ and no masks/"),
        (["FOLDER/images/0.png"], "is a file"),
    ],
)
def test_wrong_command_lines_give_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    code, _, err = check(capsys, *(word.replace("FOLDER", str(folder)) for word in words))
    assert code == 2 and text in err and len(err.strip().splitlines()) == 1


def test_a_grey_mask_is_a_warning_and_an_error_where_strict(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "masks" / "0.png").unlink()
    Image.fromarray(vessels(0).astype(np.uint8) * 255).save(folder / "masks" / "0.jpg", quality=30)
    code, out, _ = check(capsys, folder)
    assert code == 0 and "warning:" in out and "0.jpg: is no clean mask" in out
    code, out, _ = check(capsys, folder, "--strict")
    assert code == 2 and "grey:" in out


def test_oddities_are_warnings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mask(folder / "masks" / "0.png", ~vessels(0))
    Image.fromarray(noise(2)).save(folder / "images" / "3.png")
    (folder / "images" / "4.png").write_bytes(encode_image(noise(4, (28, 32))))
    write_mask(folder / "masks" / "4.png", vessels(4, (28, 32)))
    code, out, _ = check(capsys, folder, "--shots", 7)
    assert code == 0
    assert "more than 50% vessel, inverted? 0" in out
    assert "nearly identical images: 2 = 3" in out
    assert "2 different sizes in one folder" in out and "2 different numbers of channels" in out
    assert "6 good pairs, fewer than the 7 shots" in out


def test_swapped_folders_are_noticed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images").rename(folder / "x")
    (folder / "masks").rename(folder / "images")
    (folder / "x").rename(folder / "masks")
    _, out, _ = check(capsys, folder)
    assert "are they swapped?" in out


def test_other_endings_can_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in list((folder / "masks").iterdir()):
        path.rename(path.with_stem(path.stem + "_truth"))
    assert check(capsys, folder)[0] == 2
    code, out, _ = check(capsys, folder, "--strip", "_truth")
    assert code == 0 and "6 of 6 pairs good" in out
