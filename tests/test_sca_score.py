"""The score command: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from univg.cli import main
from univg.masks import write_mask
from univg.sca.score import score_masks


def vessels(seed: int, size: int = 192, width: int = 5) -> np.ndarray:
    """Return a random tree of lines."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size, size), np.uint8)
    tips = [(np.array([0.05, rng.uniform(0.4, 0.6)]) * size, 0.0, width)]
    for _ in range(4):
        after = []
        for at, angle, wide in tips:
            for turn in (0.5, -0.5):
                heading = angle + turn + rng.normal(0, 0.2)
                end = at + 0.22 * size * np.array([np.cos(heading), np.sin(heading)])
                ends = [tuple(int(v) for v in point) for point in (at, end)]
                cv2.line(canvas, ends[0], ends[1], 1, max(1, int(wide)))
                after.append((end, heading, wide * 0.8))
        tips = after
    return canvas.astype(bool)


@pytest.fixture
def folders(tmp_path):
    for name, first, width in (("real", 0, 5), ("alike", 20, 5), ("thick", 40, 11)):
        (tmp_path / name).mkdir()
        for k in range(8):
            write_mask(tmp_path / name / f"{k}.png", vessels(first + k, width=width))
    return tmp_path


def score(folder, *words):
    return main(["sca", "score", "--real", str(folder / "real"), "--size", "192", *words])


def test_masks_alike_are_near_and_others_far(folders, capsys):
    shown = {}
    for name in ("alike", "thick"):
        out = folders / "scores" / f"{name}.json"
        assert score(folders, "--synth", str(folders / name), "--out", str(out)) == 0
        shown[name] = json.loads(out.read_text())
    near, far = (shown[name]["comparison"] for name in ("alike", "thick"))
    assert near["ratio"] < 2 < 4 < far["ratio"]
    assert far["above_floor"] == 1
    worst = [difference["name"] for difference in shown["thick"]["differences"][:8]]
    assert any(name.startswith("width_") for name in worst)
    assert shown["thick"]["settings"]["seed"] == 0 and shown["thick"]["version"]
    text = capsys.readouterr().out
    for word in ("Fréchet", "energy", "floor", "Worst descriptors", "overlap", "Murray"):
        assert word in text


def test_the_same_seed_and_any_number_of_workers_give_the_same_file(folders):
    documents = []
    for workers in ("1", "2"):
        out = folders / f"{workers}.json"
        words = ["--synth", str(folders / "alike"), "--out", str(out), "--workers", workers]
        assert score(folders, *words, "--draws", "20") == 0
        document = json.loads(out.read_text())
        del document["settings"]
        documents.append(document)
    assert documents[0] == documents[1]


def test_a_copied_mask_shows_in_the_overlap():
    real = [vessels(k) for k in range(6)]
    synth = [vessels(30 + k) for k in range(5)] + [np.rot90(real[3])]
    result = score_masks(real, synth, size_px=192, draws=20)
    assert result.copies.max > 0.95 and result.copies.nearest == "5"
    assert result.copies_baseline.max < 0.9
    honest = score_masks(real, synth[:5], size_px=192, draws=20)
    assert honest.copies.max < 0.9
    sources = score_masks(real, synth, conditioned_on=real[:3], size_px=192, draws=20)
    assert sources.copies.max < 0.9  # real[3] is not among them


def test_a_second_real_folder_is_the_floor(folders):
    real = [vessels(k) for k in range(6)]
    far = [vessels(60 + k, width=11) for k in range(6)]
    assert score_masks(real, far, floor=far, size_px=192, draws=20).comparison.ratio < 1.3


def test_masks_of_any_size_and_even_empty_ones_are_scored():
    real = [vessels(k, size=100 + 40 * k) for k in range(4)]
    synth = [vessels(9), np.zeros((50, 70), bool), np.ones((30, 30), bool)]
    result = score_masks(real, synth, size_px=128, draws=20)
    assert np.isfinite(result.comparison.frechet.mean)
    json.dumps(result.to_plain(), allow_nan=False)


def test_mistakes_are_told_in_one_line_each(folders, capsys):
    (folders / "few").mkdir()
    (folders / "none").mkdir()
    write_mask(folders / "few" / "a.png", vessels(0))
    assert score(folders, "--synth", str(folders / "few")) == 2
    assert "few: --synth holds 1 masks, too few" in capsys.readouterr().err
    assert score(folders, "--synth", str(folders / "none")) == 2
    assert "none" in capsys.readouterr().err
    assert score(folders, "--synth", str(folders / "alike"), "--n", "9") == 2
    assert "n is 9: choose 2 to 8" in capsys.readouterr().err


def test_all_unreadable_masks_are_in_one_report(folders, capsys):
    (folders / "real" / "bad.png").write_bytes(b"no picture")
    (folders / "alike" / "torn.png").write_bytes(b"")
    assert score(folders, "--synth", str(folders / "alike")) == 2
    shown = capsys.readouterr().err
    assert "2 of 18 masks" in shown and "bad.png" in shown and "torn.png" in shown


def test_help_is_quick_and_a_dry_run_writes_nothing(folders, capsys):
    out = folders / "new" / "s.json"
    words = ["--synth", str(folders / "alike"), "--out", str(out), "--dry-run"]
    assert score(folders, *words) == 0
    assert "Writes" in capsys.readouterr().out and not out.parent.exists()
    command = (
        "import sys; from univg.cli import main; "
        "main(['sca', 'score', '--print-config', '--real', 'a', '--synth', 'b']); "
        "print([m for m in ('numba', 'cv2', 'skimage', 'scipy') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"  # nothing heavy was imported
    assert time.monotonic() - start < 5
