"""`univg generate compare`: sets of known relation, copies, few images, refusals, same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.cli import main
from univg.config import from_plain
from univg.errors import ConfigError, DataError, ProblemReport
from univg.generate.compare import Compare, list_folders, plan, run
from univg.generate.compare_scores import Compared
from univg.generate.compare_sets import choose_pairs, measure_sets, name_sets
from univg.generate.compare_spread import (
    density_and_coverage,
    mean_mask_distance,
    pair_distances,
    repeat_backgrounds,
)
from univg.generate.compare_tables import format_markdown, make_tables
from univg.images import encode_image
from univg.looks import look_distance
from univg.masks import encode_mask
from univg.pairs import open_pairs
from univg.sca.score import score_masks

SIZE = 96
COUNT = 8


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for place, data in (("images", encode_image(image)), ("masks", encode_mask(mask))):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{name}.png").write_bytes(data)


def make_set(
    folder: Path,
    numbers: range,
    *,
    width: int = 2,
    lines: int = 5,
    blur: float = 0.0,
    rgb: bool = False,
    size: int = SIZE,
) -> Path:
    for k in numbers:
        mask = draw_lines(k, size, count=lines, width=width)
        image = paint(mask, k, contrast=-60.0)
        if blur:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur))
        write_pair(folder, f"p{k:03d}", np.dstack([image] * 3) if rgb else image, mask)
    return folder


def settings_for(synthetic: Path, real: Path, out: Path, **rest: Any) -> Compare:
    # Draws as few as allowed, masks small, no processes: what is tested does not hang on them.
    plain = {"size": SIZE, "draws": 20, "workers": 1, **rest}
    return from_plain(Compare, {"synthetic": synthetic, "real": real, "out": out, **plain})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real pairs; some of the same kind; some blurred and with other vessels; shots."""
    root = tmp_path_factory.mktemp("sets")
    far = make_set(root / "far", range(300, 300 + COUNT), width=6, lines=2, blur=4.0)
    shots = make_set(root / "shots", range(500, 505))
    near = make_set(root / "near" / "pairs", range(100, 100 + COUNT))
    # The third of the near set is a shot, brighter and mirrored: a copy all the same.
    mask = draw_lines(502, SIZE, count=5, width=2)
    image = paint(mask, 502, contrast=-60.0)
    lit = np.clip(image.astype(np.float64) * 1.1 + 8, 0, 255).astype(np.uint8)
    write_pair(near, "p102", np.ascontiguousarray(lit[:, ::-1]), mask[:, ::-1])
    return {
        "real": make_set(root / "real", range(2 * COUNT)),
        "near": near,
        "far": far,
        "shots": shots,
    }


@pytest.fixture(scope="module")
def compared(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compared, Path]:
    out = tmp_path_factory.mktemp("out")
    chosen = settings_for(
        folders["near"], folders["real"], out, shots=folders["shots"], against=[folders["far"]]
    )
    return run(chosen), out


def test_the_same_kind_lies_near_the_floor_and_another_far_off(compared):
    near, far = compared[0].sets
    for of in ("masks", "images"):
        close, off = getattr(near, of), getattr(far, of)
        assert 3 * close.ratio < off.ratio, of
        assert close.energy.low < close.energy_floor.high < off.energy.low, of
        assert close.n == off.n == COUNT // 2
        assert close.frechet_floor == off.frechet_floor, "one floor for all rows"
    assert near.spread.coverage.mean > 0.3 > far.spread.coverage.mean
    assert near.spread.density.mean > 0.3 > far.spread.density.mean


def test_the_numbers_are_those_of_the_other_commands(compared, folders):
    found, _ = compared
    real, near = found.real.measured, found.sets[0]
    read = [[draw_lines(k, SIZE, count=5, width=2) for k in range(2 * COUNT)]]
    read.append([draw_lines(k, SIZE, count=5, width=2) for k in range(100, 100 + COUNT)])
    read[1][2] = draw_lines(502, SIZE, count=5, width=2)[:, ::-1]
    score = score_masks(*read, size_px=SIZE, n=found.n, draws=20)
    assert score.comparison.frechet.mean == pytest.approx(near.masks.frechet.mean)
    assert score.murray_synth == near.murray
    again = look_distance(real.looks, near.measured.looks, n=found.n, draws=20)
    assert again == near.images


def test_a_copy_of_a_shot_is_found_and_named(compared):
    found, out = compared
    near, far = found.sets
    assert near.mask_copies.copies == near.image_copies.copies == 1
    assert near.image_copies.background.copies == 1
    assert far.mask_copies.copies == far.image_copies.copies == 0
    numbers = json.loads((out / "compare.json").read_text())
    worst = numbers["sets"][1]["copies"]["images"]["nearest"][0]
    assert (worst["pair"], worst["shot"], worst["copied"]) == ("p102", "p502", True)


def test_all_files_tell_the_same(compared):
    found, out = compared
    names = {"report.html", "compare.md", "compare.json", "looks.png", "masks.png"}
    assert {path.name for path in out.iterdir()} == names
    markdown, page = (out / "compare.md").read_text(), (out / "report.html").read_text()
    numbers = json.loads((out / "compare.json").read_text())
    assert [row["name"] for row in numbers["sets"]] == ["real", "near", "far"]
    assert numbers["sets"][1]["masks"]["ratio"] == found.sets[0].masks.ratio
    for name in ("real: half against half", "near", "far"):
        assert f"| {name} |" in markdown
        assert name in page
    for table in make_tables(found):
        assert {len(row) for row in table.rows} == {len(table.columns)}
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in markdown
    said = markdown.replace("it is no FID", "")
    assert "FID" not in said, "without its weights nothing is called FID"


def test_the_same_bytes_again_whatever_the_workers(compared, folders, tmp_path):
    _, out = compared
    chosen = settings_for(
        folders["near"],
        folders["real"],
        tmp_path / "again",
        shots=folders["shots"],
        against=[folders["far"]],
        workers=2,
    )
    run(chosen)
    first, second = (json.loads((p / "compare.json").read_text()) for p in (out, chosen.out))
    assert first["sets"] == second["sets"]
    for name in ("report.html", "compare.md", "looks.png", "masks.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_backgrounds_used_again_are_seen(compared, folders, tmp_path):
    """One ground under all vessels: likeness inside the set shows it, distances hardly."""
    for k in range(COUNT):
        mask = draw_lines(700 + k, SIZE, count=5, width=2)
        write_pair(tmp_path / "same", f"p{k}", paint(mask, 0, contrast=-60.0), mask)
    found = run(settings_for(tmp_path / "same", folders["real"], tmp_path / "out"))
    repeats = found.sets[0].spread.background_repeats
    assert repeats > 0.7 > compared[0].sets[0].spread.background_repeats
    assert found.shots is None
    assert found.sets[0].mask_copies is None
    assert "Copies" not in (tmp_path / "out" / "compare.md").read_text()


def test_masks_all_alike_are_less_varied(compared, folders, tmp_path):
    mask = draw_lines(1, SIZE, count=5, width=2)
    for k in range(4):
        write_pair(tmp_path / "one", f"p{k}", paint(mask, k, contrast=-60.0), mask)
    found = run(settings_for(tmp_path / "one", folders["real"], tmp_path / "out"))
    assert found.sets[0].spread.mask_distance == pytest.approx(0, abs=1e-9)
    assert found.real.spread.mask_distance > 0.3


@pytest.mark.parametrize("rgb", [False, True])
def test_few_pairs_grey_or_colour(rgb, tmp_path):
    real = make_set(tmp_path / "real", range(3), rgb=rgb)
    made = make_set(tmp_path / "made", range(10, 13), size=64)
    out = tmp_path / "out"
    found = run(settings_for(made, real, out))
    assert found.n == 2
    assert found.real.spread.coverage is None, "three are no two halves of two"
    assert found.sets[0].masks.frechet_floor is None
    assert "too few real pairs" in (out / "compare.md").read_text()


def test_empty_masks_do_not_stop_it(folders, tmp_path):
    """A generator may leave a mask empty; it is part of what it makes."""
    made = make_set(tmp_path / "made", range(20, 23))
    write_pair(made, "p020", paint(draw_lines(20, SIZE), 20), np.zeros((SIZE, SIZE), np.bool_))
    found = run(settings_for(made, folders["real"], tmp_path / "out"))
    assert np.isfinite(found.sets[0].masks.frechet.mean)


def test_masks_and_pictures_of_nothing_are_all_the_same():
    nothing = np.zeros((3, 128, 128), np.bool_)
    assert mean_mask_distance(nothing) == 0.0
    some = nothing.copy()
    some[0, 20:30, 10:100] = True
    assert mean_mask_distance(some) == pytest.approx(2 / 3)  # of three pairs one is the same
    even = [np.full((96, 96), level, np.uint8) for level in (90, 90, 120)]
    items: Any = SimpleNamespace(images=even, vessels=[np.zeros((96, 96), np.bool_)] * 3)
    assert repeat_backgrounds(items) == 1.0


def test_wrong_input_is_told_before_any_file(folders, tmp_path):
    out = tmp_path / "out"
    real, near = folders["real"], folders["near"]
    few = make_set(tmp_path / "few", range(2))
    for attempt in (run, plan):
        with pytest.raises(DataError, match="holds 2 pairs"):
            attempt(settings_for(few, real, out))
    with pytest.raises(ConfigError, match="given twice"):
        run(settings_for(real, real, out))
    with pytest.raises(ConfigError, match="a folder of pairs"):
        run(settings_for(near, real, near))
    for attempt in (run, plan):
        with pytest.raises(DataError, match="no such file"):
            attempt(settings_for(near, real, out, inception=tmp_path / "no.safetensors"))
    with pytest.raises(DataError, match="reads no pickles"):
        run(settings_for(near, real, out, inception=tmp_path / "weights.pth"))
    broken = make_set(tmp_path / "broken", range(4))
    (broken / "images" / "p001.png").write_bytes(b"no picture")
    (broken / "masks" / "p002.png").write_bytes(encode_mask(np.ones((9, 9), np.bool_)))
    with pytest.raises(ProblemReport) as told:
        run(settings_for(broken, real, out))
    assert {problem.path.name for problem in told.value.problems} == {"p001.png", "p002.png"}
    assert not out.exists()


def test_the_command_line_says_what_it_would_do(folders, tmp_path, capsys):
    words = ["generate", "compare", "--synthetic", str(folders["near"])]
    words += ["--real", str(folders["real"]), "--out", str(tmp_path / "out")]
    words += ["--against", str(folders["far"]), "--shots", str(folders["shots"]), "--count", "10"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "10 of 16 pairs" in said
    assert "5 of 5 pairs" in said
    assert not (tmp_path / "out").exists()
    chosen = settings_for(folders["near"], folders["real"], tmp_path / "out")
    assert str(tmp_path / "out") in plan(chosen)
    assert list(list_folders(chosen)) == ["real", "near"]


def test_shots_among_the_real_ones_are_told(folders, tmp_path):
    shots = make_set(tmp_path / "shots", range(2))
    chosen = settings_for(folders["near"], folders["real"], tmp_path / "out", shots=shots)
    with pytest.warns(UserWarning, match=r"2 of the images of .*real are shots"):
        run(chosen)


def test_a_subset_is_drawn_by_the_seed_in_its_own_order(folders):
    pairs = open_pairs(folders["real"]).pairs
    first, other = choose_pairs(pairs, 6, 0), choose_pairs(pairs, 6, 1)
    assert len(first) == 6
    assert first != other
    assert first == sorted(first, key=lambda pair: pair.stem) == choose_pairs(pairs, 6, 0)
    sets = measure_sets(
        {"a": folders["real"], "b": folders["shots"]}, size_px=64, count=3, seed=0, whole=["b"]
    )
    assert (len(sets["a"]), len(sets["b"]), sets["a"].found) == (3, 5, 16)


def test_names_tell_folders_apart():
    assert name_sets([Path("/a/run1/pairs"), Path("/b/real")]) == ["run1", "real"]
    assert name_sets([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


def test_density_and_coverage_of_known_points():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    within = pair_distances(real, real)
    # With the nearest neighbour: reach 1 about 0, 1 and 2, reach 8 about 10.
    density, coverage = density_and_coverage(within, pair_distances(real, np.array([[0.5]])), 1)
    assert (density, coverage) == (2.0, 0.5)
    far = density_and_coverage(within, pair_distances(real, np.array([[-50.0], [90.0]])), 1)
    assert far == (0.0, 0.0)


def test_markdown_of_names_with_bars(compared):
    table = make_tables(compared[0])[0]
    text = format_markdown("T", "L", [type(table)(caption="c", columns=("a",), rows=(("x|y",),))])
    assert "| x\\|y |" in text
