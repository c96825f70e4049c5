"""The contact sheet command: what it draws, that the seed decides it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import main
from univg.masks import write_mask
from univg.sca.show import choose_masks


@pytest.fixture
def folders(tmp_path):
    for name, count in (("real", 5), ("synth", 20)):
        (tmp_path / name).mkdir()
        for k in range(count):
            canvas = np.zeros((96, 128), np.uint8)
            cv2.line(canvas, (0, 4 * k), (127, 90), 1, 2)
            write_mask(tmp_path / name / f"{k:02d}.png", canvas.astype(np.bool_))
    return tmp_path


def show(folder: Path, *more: str) -> tuple[int, Path]:
    out = folder / "out" / "sheet.png"
    words = ["sca", "show", "--synth", str(folder / "synth"), "--out", str(out), "--tile-px", "64"]
    return main([*words, *more]), out


def test_real_stands_beside_synthetic(folders, capsys):
    code, out = show(folders, "--real", str(folders / "real"), "--count", "6")
    assert code == 0
    assert "Real: 5 of 5, Synthetic: 6 of 20" in capsys.readouterr().out
    sheet = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert sheet.ndim == 2 and sheet.shape[1] > 6 * 64 and sheet.max() > 200


def test_synthetic_alone(folders):
    code, out = show(folders)
    assert code == 0
    assert cv2.imread(str(out), cv2.IMREAD_UNCHANGED).shape[1] < 7 * 72


def test_the_seed_decides_the_sheet(folders):
    sheets = []
    for seed in ("0", "0", "1"):
        _, out = show(folders, "--seed", seed, "--count", "6")
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_masks_are_chosen_once_each_and_in_order():
    paths = [Path(f"{k}.png") for k in range(10)]
    chosen = choose_masks(paths, 6, 3, "real")
    assert len(set(chosen)) == 6 and chosen == sorted(chosen, key=paths.index)
    assert choose_masks(paths, 60, 3, "real") == paths


def test_a_dry_run_writes_nothing(folders, capsys):
    code, out = show(folders, "--dry-run")
    assert code == 0 and not out.exists()
    assert "12 masks of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "sheet.jpg"], "ends? the name in .png|end the name in .png"),
        (["--real", "nowhere"], "nowhere: does not exist"),
        (["--count", "0"], "count"),
        (["--tile-px", "1"], "tile_px"),
    ],
)
def test_mistakes_give_one_line_and_code_2(folders, capsys, words, said):
    import re

    code, _ = show(folders, *words)
    error = capsys.readouterr().err
    assert code == 2 and re.search(said, error) and "Traceback" not in error


def test_a_sheet_never_replaces_a_mask(folders, capsys):
    target = folders / "synth" / "03.png"
    before = target.read_bytes()
    code, _ = show(folders, "--out", str(target))
    assert code == 2 and "is one of the masks" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_every_unreadable_mask_is_named(folders, capsys):
    for name in ("03.png", "07.png"):
        (folders / "synth" / name).write_bytes(b"not a picture")
    code, out = show(folders, "--count", "20")
    error = capsys.readouterr().err
    assert code == 2 and not out.exists()
    assert "2 of 20 masks cannot be read" in error and "03.png" in error and "07.png" in error
