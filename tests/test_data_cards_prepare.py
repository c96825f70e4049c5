"""A run of `data prepare` is whole, can go on after a kill, and refuses what would lose data."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from provider_trees import (
    HEIGHT,
    WIDTH,
    content,
    disc,
    make_fives,
    make_generic,
    make_stare,
    pack_zip,
    picture,
    prepare,
    save,
    vessels,
)

from univg.cli import main
from univg.data_cards.prepare import Prepare, Prepared, run
from univg.files import TEMPORARY_PREFIX
from univg.manifest import encode_row, lock_folder, read_rows
from univg.masks import read_mask


def test_sixteen_bit_images_keep_their_depth(tmp_path: Path) -> None:
    deep = np.random.default_rng(5).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    save(tmp_path / "from" / "images" / "a.tif", deep)
    save(tmp_path / "from" / "masks" / "a.png", vessels(0))
    assert prepare("generic", "--from", tmp_path / "from", "--out", tmp_path / "out") == 0
    stored = cv2.imread(str(tmp_path / "out" / "images" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and np.array_equal(stored, deep)


def test_the_field_of_view_is_found_or_left_out_on_request(tmp_path: Path) -> None:
    image = np.where(disc()[..., None], picture(3) // 2 + 100, 2).astype(np.uint8)
    save(tmp_path / "from" / "images" / "a.png", image)
    save(tmp_path / "from" / "masks" / "a.png", vessels(0))
    words = ("generic", "--from", tmp_path / "from", "--out")
    assert prepare(*words, tmp_path / "auto", "--fov", "auto") == 0
    found = read_mask(tmp_path / "auto" / "fov" / "a.png")
    assert 2 * (found & disc()).sum() / (found.sum() + disc().sum()) > 0.98
    assert prepare(*words, tmp_path / "none", "--fov", "none") == 0
    assert not (tmp_path / "none" / "fov").exists()


def test_folders_of_any_name_can_be_given_as_patterns(tmp_path: Path) -> None:
    save(tmp_path / "from" / "scans" / "a.png", picture(0))
    save(tmp_path / "from" / "truth" / "a.png", vessels(0))
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words, "--images", "scans/*", "--masks", "truth/*") == 0
    assert len(read_rows(tmp_path / "out")) == 1


def test_a_users_own_endings_are_dropped(tmp_path: Path) -> None:
    make_generic(tmp_path / "from")
    for mask in (tmp_path / "from" / "masks").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_weird{mask.suffix}"))
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 2
    assert prepare(*words, "--strip", "_weird") == 0
    assert len(read_rows(tmp_path / "out")) == 3


def test_endings_are_dropped_besides_the_cards(tmp_path: Path) -> None:
    wanted = make_fives(tmp_path / "from")
    for mask in (tmp_path / "from").glob("*/Ground truth/*.png"):
        mask.rename(mask.with_name(f"{mask.stem}_v2.png"))
    words = ("fives", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 2
    assert prepare(*words, "--strip", "_v2", "_v3") == 0
    assert sorted(row["id"] for row in read_rows(tmp_path / "out")) == sorted(wanted)


def test_images_of_stare_without_a_label_are_taken(tmp_path: Path) -> None:
    wanted = make_stare(tmp_path / "from")
    save(tmp_path / "from" / "stare-images" / "im0397.ppm.gz", picture(397))
    assert prepare("stare", "--from", tmp_path / "from", "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out")
    assert {row["id"]: "mask" in row for row in rows} == dict.fromkeys(wanted, True) | {
        "im0397": False
    }


@pytest.mark.parametrize("length", [245, 251])
def test_names_as_long_as_the_system_allows_are_prepared(tmp_path: Path, length: int) -> None:
    name = f"{'n' * length}.png"
    save(tmp_path / "from" / "images" / name, picture(0))
    save(tmp_path / "from" / "masks" / name, vessels(0))
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 0 and prepare(*words) == 0
    assert (tmp_path / "out" / "masks" / name).exists()
    assert main(["data", "check", str(tmp_path / "out")]) == 0


def test_a_name_that_is_too_long_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `train_` and `test_` go before stems that both groups share: too long only then.
    stem = "n" * 249
    for half, folder in itertools.product(("train", "test"), ("Original", "Ground truth")):
        pixels = picture(0) if folder == "Original" else vessels(0)
        save(tmp_path / "from" / half / folder / f"{stem}.png", pixels)
    words = ("fives", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 2
    assert "the name is longer than this system allows" in last_line(capsys)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for folder in ("images", "masks"):
            archive.write(tmp_path / f"from/test/Original/{stem}.png", f"{folder}/{'n' * 400}.png")
    assert prepare("generic", "--from", tmp_path / "p.zip", "--out", tmp_path / "out2") == 2
    assert "n" * 100 in last_line(capsys)
    assert prepare("generic", "--from", tmp_path / ("n" * 300), "--out", tmp_path / "out3") == 2
    assert "n" * 100 in last_line(capsys)
    make_generic(tmp_path / "plain")
    prepare("generic", "--from", tmp_path / "plain", "--out", tmp_path / "out4")
    row = read_rows(tmp_path / "out4")[0] | {"image": f"images/{'n' * 300}.png"}
    (tmp_path / "out4" / "manifest.jsonl").write_bytes(encode_row(row))
    assert main(["data", "check", str(tmp_path / "out4")]) == 2
    assert "Traceback" not in last_line(capsys)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("univg: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


def test_a_second_run_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_generic(tmp_path / "from")
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 0
    assert "3 items written" in capsys.readouterr().out
    before = content(tmp_path / "out")
    assert prepare(*words) == 0
    assert "nothing to do, 3 items in place" in capsys.readouterr().out
    assert content(tmp_path / "out") == before
    # The source may lie somewhere else, or be packed by now.
    packed = pack_zip(tmp_path / "from", tmp_path / "p.zip")
    assert prepare("generic", "--from", packed, "--out", tmp_path / "out") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_second_run_at_the_same_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_generic(tmp_path / "from")
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"):
        assert prepare("generic", "--from", tmp_path / "from", "--out", tmp_path / "out") == 2
    assert "another run is writing here" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_doubled_row_is_refused_and_found_by_the_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_generic(tmp_path / "from")
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 0
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes() + manifest.read_bytes().splitlines(True)[0])
    assert prepare(*words) == 2
    assert "stands twice" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "out")]) == 2
    assert "twice" in capsys.readouterr().out


def test_a_lost_or_changed_file_is_made_again(tmp_path: Path) -> None:
    make_generic(tmp_path / "from")
    settings = Prepare(name="generic", source=tmp_path / "from", out=tmp_path / "out")
    assert run(settings) == Prepared(tmp_path / "out", written=3, kept=0, skipped=0)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "images" / "a.png").unlink()
    (tmp_path / "out" / "masks" / "b.png").write_bytes(b"x")
    assert run(settings) == Prepared(tmp_path / "out", written=2, kept=1, skipped=0)
    assert content(tmp_path / "out") == before


def test_killed_runs_end_with_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for number in range(40):
        large = noise.integers(0, 256, (160, 160, 3)).astype(np.uint8)
        save(tmp_path / "from" / "images" / f"{number:02d}.png", large, compress_level=1)
        mask = np.zeros((160, 160), bool)
        mask[number : number + 3] = True
        save(tmp_path / "from" / "masks" / f"{number:02d}.png", mask)
    packed = pack_zip(tmp_path / "from", tmp_path / "p.zip")
    assert prepare("generic", "--from", packed, "--out", tmp_path / "whole") == 0

    out = tmp_path / "killed"
    words = ["data", "prepare", "generic", "--from", str(packed), "--out", str(out)]
    code = f"import sys; from univg.cli import main; sys.exit(main({words!r}))"
    killed = 0
    for rows_before_kill in (1, 9, 22, 30):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        manifest = out / "manifest.jsonl"
        while process.poll() is None:
            if manifest.exists() and manifest.read_bytes().count(b"\n") >= rows_before_kill:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.0005)
        killed += process.wait() == -signal.SIGKILL
        if rows_before_kill == 9:  # what a kill in the middle of two writes leaves
            (out / "images" / f"{TEMPORARY_PREFIX}1-x.png").write_bytes(b"half")
            with manifest.open("ab") as stream:
                stream.write(b'{"id":"torn')
    assert killed >= 2
    assert prepare(*words[2:]) == 0
    assert content(out) == content(tmp_path / "whole")


def test_grey_masks_are_told_and_refused_where_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_generic(tmp_path / "from")
    (tmp_path / "from" / "masks" / "a_mask.png").unlink()
    save(tmp_path / "from" / "masks" / "a_mask.jpg", vessels(0), quality=40)
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words, "--strict") == 2
    assert not (tmp_path / "out").exists()
    assert prepare(*words) == 0
    assert "a_mask.jpg: is no clean mask" in capsys.readouterr().err


def test_bad_files_are_all_told_or_left_out_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_generic(tmp_path / "from")
    save(tmp_path / "from" / "images" / "d.png", picture(4))
    save(tmp_path / "from" / "images" / "e.png", picture(5))
    save(tmp_path / "from" / "masks" / "e.png", vessels(5)[:20])
    words = ("generic", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words) == 2
    assert "d.png: this image has no mask" in capsys.readouterr().err
    save(tmp_path / "from" / "masks" / "d.png", vessels(4))
    (tmp_path / "from" / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert prepare(*words) == 2
    text = capsys.readouterr().err
    assert "2 files cannot be used" in text and "a.png: is truncated" in text
    assert f"the mask is {WIDTH}x20 px, its image {WIDTH}x{HEIGHT} px" in text
    assert not (tmp_path / "out").exists()
    assert prepare(*words, "--skip-bad") == 0
    assert [row["id"] for row in read_rows(tmp_path / "out")] == ["b", "c", "d"]
    assert "3 items written, 2 problems skipped" in capsys.readouterr().out


def test_problems_inside_archives_name_the_providers_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_generic(tmp_path / "from")
    (tmp_path / "from" / "masks" / "a_mask.png").write_text("no")
    packed = pack_zip(tmp_path / "from", tmp_path / "p.zip")
    assert prepare("generic", "--from", packed, "--out", tmp_path / "out") == 2
    assert "p.zip!masks/a_mask.png: is not a picture" in capsys.readouterr().err


def test_empty_masks_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_generic(tmp_path / "from")
    save(tmp_path / "from" / "masks" / "a_mask.png", np.zeros((HEIGHT, WIDTH), bool))
    assert prepare("generic", "--from", tmp_path / "from", "--out", tmp_path / "out") == 0
    assert "a_mask.png: no pixel of the mask is vessel" in capsys.readouterr().err
    assert len(read_rows(tmp_path / "out")) == 3


def spoil_nothing(root: Path) -> None:
    pass


def spoil_empty(root: Path) -> None:
    shutil.rmtree(root / "from")
    (root / "from").mkdir()


def spoil_masks(root: Path) -> None:
    shutil.rmtree(root / "from" / "masks")


def spoil_double(root: Path) -> None:
    save(root / "from" / "images" / "a.tif", picture(0))


def spoil_double_mask(root: Path) -> None:
    save(root / "from" / "masks" / "a_manual1.png", vessels(0))


def spoil_lone_mask(root: Path) -> None:
    save(root / "from" / "masks" / "x.png", vessels(0))


def spoil_zip(root: Path) -> None:
    whole = pack_zip(root / "from", root / "p.zip").read_bytes()
    (root / "p.zip").write_bytes(whole[: len(whole) // 2])


def spoil_bomb(root: Path) -> None:
    with zipfile.ZipFile(root / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", bytes(2_000_000))


def spoil_escape(root: Path) -> None:
    with zipfile.ZipFile(root / "p.zip", "w") as archive:
        archive.writestr("../../images/a.png", b"x")


def spoil_rar(root: Path) -> None:
    (root / "p.zip").write_bytes(b"Rar!\x1a\x07\0")


def spoil_out(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "thesis.txt").write_text("years of work")


def spoil_out_file(root: Path) -> None:
    (root / "out").write_text("a file")


def spoil_out_run(root: Path) -> None:
    shutil.copytree(root / "from", root / "other")
    save(root / "other" / "images" / "a.png", picture(77))
    save(root / "other" / "images" / "z.png", picture(78))
    save(root / "other" / "masks" / "z.png", vessels(78))
    assert prepare("generic", "--from", root / "other", "--out", root / "out") == 0


def spoil_out_row(root: Path) -> None:
    assert prepare("generic", "--from", root / "from", "--out", root / "out") == 0
    (root / "out" / "manifest.jsonl").write_text('{"image":"x.png"}\n')


def spoil_out_manifest(root: Path) -> None:
    assert prepare("generic", "--from", root / "from", "--out", root / "out") == 0
    (root / "out" / "manifest.jsonl").write_text("edited\n")


FROM = ("--from", "ROOT/from", "--out", "ROOT/out")
ZIP = ("--from", "ROOT/p.zip", "--out", "ROOT/out")
BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "no such card": (spoil_nothing, ("drvie", *FROM), "has no data card"),
    "no layout": (spoil_nothing, ("sbcd", *FROM), "does not know the provider's layout"),
    "no source": (spoil_nothing, ("generic", "--out", "ROOT/out"), "--from"),
    "absent": (spoil_nothing, ("generic", "--from", "ROOT/no", "--out", "ROOT/out"), "not exist"),
    "empty folder": (spoil_empty, ("generic", *FROM), "does not look like a folder of pairs"),
    "other layout": (spoil_nothing, ("drive", *FROM), "looked for **/training/images/*.tif"),
    "no masks": (spoil_masks, ("generic", *FROM), "3 images of this set, and no **/masks/*"),
    "double image": (spoil_double, ("generic", *FROM), "2 files stand for one item: a.png, a.tif"),
    "double mask": (spoil_double_mask, ("generic", *FROM), "a_manual1.png, a_mask.png"),
    "lone mask": (spoil_lone_mask, ("generic", *FROM), "x.png: this mask has no image"),
    "no such group": (spoil_nothing, ("drive", *FROM, "--group", "val"), "training, test"),
    "no classes": (spoil_nothing, ("drive", *FROM, "--labels", "vein"), "not a class"),
    "other class": (spoil_nothing, ("octa500", *FROM, "--labels", "vein"), "not a class"),
    "patterns": (spoil_nothing, ("drive", *FROM, "--images", "*"), "go with `generic`"),
    "limit": (spoil_nothing, ("generic", *FROM, "--limit-gib", "0"), "limit_gib"),
    "fov": (spoil_nothing, ("generic", *FROM, "--fov", "maybe"), "fov"),
    "unknown": (spoil_nothing, ("generic", *FROM, "--skipbad"), "--skip"),
    "cut zip": (spoil_zip, ("generic", *ZIP), "truncated or damaged zip"),
    "bomb": (spoil_bomb, ("generic", *ZIP, "--limit-gib", "0.001"), "raise --limit-gib"),
    "escape": (spoil_escape, ("generic", *ZIP), "leads outside the archive"),
    "rar": (spoil_rar, ("generic", *ZIP), "RAR archive"),
    "strangers": (spoil_out, ("generic", *FROM), "thesis.txt"),
    "out is a file": (spoil_out_file, ("generic", *FROM), "choose another"),
    "another run": (spoil_out_run, ("generic", *FROM), "holds another run"),
    "edited": (spoil_out_manifest, ("generic", *FROM), "is not JSON"),
    "other rows": (spoil_out_row, ("generic", *FROM), "line 1 is not a row of this command"),
    "inside": (spoil_nothing, ("generic", "--from", "ROOT/from", "--out", "ROOT/from/x"), "inside"),
    "same": (spoil_nothing, ("generic", "--from", "ROOT/from", "--out", "ROOT/from"), "inside"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_give_one_line_and_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    spoil, words, text = BAD[case]
    make_generic(tmp_path / "from")
    spoil(tmp_path)
    before = content(tmp_path)
    capsys.readouterr()
    assert prepare(*(word.replace("ROOT", str(tmp_path)) for word in words)) == 2
    err = capsys.readouterr().err
    assert any(line.startswith("univg: ") for line in err.splitlines())
    assert text in err and "Traceback" not in err
    assert content(tmp_path) == before
