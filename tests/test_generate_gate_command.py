"""`univg generate check` as a user runs it: what it finds, writes, keeps, and goes on from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.cli import main
from univg.config import from_plain
from univg.errors import ConfigError, DataError, ProblemReport, ResumeError
from univg.generate.gate_command import Check, plan, run
from univg.generate.gate_kept import write_kept
from univg.generate.gate_run import GateResult
from univg.generate.gate_scores import attach_scores, read_scores
from univg.generate.gate_shots import read_shots
from univg.generate.images import Images
from univg.generate.images import run as render
from univg.images import encode_image, read_image
from univg.manifest import encode_row, lock_folder, read_rows
from univg.masks import encode_mask, read_mask
from univg.memorisation import measure_copying
from univg.pairs import check_pairs, open_pairs
from univg.vesselness import choose_polarity, measure_ridges

SIZE = 128
COUNT = 8
COMMAND = (
    "import sys; from univg.config import parse; "
    "from univg.generate.gate_command import Check, run; "
    "run(parse(Check, sys.argv[1:], 'univg generate check').settings)"
)


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for place, data in (("images", encode_image(image)), ("masks", encode_mask(mask))):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{name}.png").write_bytes(data)


def make_set(folder: Path, numbers: range, *, rgb: bool = False, contrast: float = -60.0) -> Path:
    for k in numbers:
        mask = draw_lines(k, SIZE, count=3, width=2)
        image = paint(mask, k, contrast=contrast)
        write_pair(folder, f"p{k:03d}", np.dstack([image] * 3) if rgb else image, mask)
    return folder


def change(image: np.ndarray) -> np.ndarray:
    """Return `image` turned, re-lit and grainy."""
    light = 0.7 + 0.3 * np.linspace(0, 1, SIZE)[:, None]
    grain = np.random.default_rng(3).normal(0, 3, (SIZE, SIZE))
    if image.ndim == 3:
        light, grain = light[..., None], grain[..., None]
    return np.clip(np.rot90(image) * light + 20 + grain, 0, 255).astype(np.uint8)


def plant(folder: Path, name: str, source: Path) -> None:
    """Add a changed copy of the pair whose image is `source`."""
    mask = read_mask(source.parent.parent / "masks" / source.name)
    write_pair(folder, name, change(read_image(source)), np.ascontiguousarray(np.rot90(mask)))


def judge(pairs: Path, **changes: Any) -> GateResult:
    return run(from_plain(Check, {"pairs": pairs, "workers": 1, **changes}))


def by_name(result: GateResult) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in result.rows}


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("shots"), range(100, 105))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, shots: Path) -> Path:
    """A folder without manifest: 8 pairs, a copy of a shot, a repetition, a wrong mask."""
    folder = make_set(tmp_path_factory.mktemp("plain"), range(COUNT))
    plant(folder, "x-copy", shots / "images" / "p102.png")
    plant(folder, "x-twin", folder / "images" / "p004.png")
    write_pair(
        folder, "x-wrong", paint(draw_lines(50, SIZE, count=3, width=2), 50), draw_lines(51, SIZE)
    )
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def test_planted_copies_and_repetitions_are_found_and_nothing_else(plain, shots, tmp_path):
    rows = by_name(judge(copy_of(plain, tmp_path / "set"), shots=shots))
    assert [name for name, row in rows.items() if row["scores"]["copied"]] == ["x-copy"]
    assert [name for name, row in rows.items() if row["scores"]["duplicate"]] == ["x-twin"]
    copy, twin = rows["x-copy"], rows["x-twin"]
    assert {copy["nearest_shot"][kind]["id"] for kind in ("mask", "image")} == {"p102"}
    assert copy["scores"]["mask_copied"] and copy["scores"]["image_copied"]
    assert {kind: twin["repeats"][kind]["id"] for kind in ("mask", "image")} == {
        "mask": "p004",
        "image": "p004",
    }
    agreement = {name: row["scores"]["agreement"] for name, row in rows.items()}
    assert min(agreement, key=lambda name: agreement[name]) == "x-wrong"
    assert agreement["x-wrong"] < 0.4 < np.median(list(agreement.values()))
    assert all(row["kept"] for row in rows.values())


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("contrast", [-60.0, 60.0])
def test_polarity_is_told_from_the_images(rgb, contrast, tmp_path):
    result = judge(make_set(tmp_path, range(4), rgb=rgb, contrast=contrast))
    assert result.polarity == ("dark" if contrast < 0 else "bright")
    assert min(result.values("agreement")) > 0.5
    assert "copied" not in result.rows[0]["scores"]


def test_distances_are_those_of_memorisation(plain, shots, tmp_path):
    result = judge(copy_of(plain, tmp_path / "set"), shots=shots)
    images, masks = (
        [read(path) for path in sorted((plain / place).iterdir())]
        for place, read in (("images", read_image), ("masks", read_mask))
    )
    real_images, real_masks = (
        [read(path) for path in sorted((shots / place).iterdir())]
        for place, read in (("images", read_image), ("masks", read_mask))
    )
    found = {
        "mask": measure_copying(masks, real_masks, kind="mask"),
        "image": measure_copying(
            images, real_images, kind="image", generated_masks=masks, shot_masks=real_masks
        ),
    }
    found["background"] = found["image"].background
    for kind, copying in found.items():
        wanted = [each.distance for each in copying.nearest]
        assert result.values(f"{kind}_distance") == pytest.approx(wanted, abs=1e-4), kind
        flags = [each.copied for each in copying.nearest]
        assert result.values(f"{kind}_copied") == flags
        assert result.shots is not None
        own = [scores[f"{kind}_distance"] for scores in result.shots.scores]
        assert own == pytest.approx(list(copying.real), abs=1e-4)


def test_any_number_of_workers_writes_the_same_bytes(plain, shots, tmp_path):
    names = ("scores.jsonl", "report.html", "measured/manifest.jsonl")
    made = []
    for workers in (1, 2):
        folder = copy_of(plain, tmp_path / str(workers) / "set")
        judge(folder, shots=shots, workers=workers)
        made.append([(folder / "quality" / name).read_bytes() for name in names])
    assert made[0] == made[1]


def test_only_what_is_new_or_changed_is_measured_again(plain, shots, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    assert judge(folder).fresh == COUNT + 3
    first = (folder / "quality" / "scores.jsonl").read_bytes()
    assert judge(folder).fresh == 0
    assert (folder / "quality" / "scores.jsonl").read_bytes() == first
    write_pair(folder, "p003", paint(draw_lines(60, SIZE), 60), draw_lines(60, SIZE))
    make_set(folder, range(20, 21))
    (folder / "images" / "x-twin.png").unlink()
    (folder / "masks" / "x-twin.png").unlink()
    assert judge(folder).fresh == 2
    assert [row["id"] for row in read_rows(folder / "quality" / "measured")] == [
        *(f"p{k:03d}" for k in (*range(COUNT), 20)), "x-copy", "x-wrong",
    ]  # fmt: skip
    assert judge(folder, shots=shots).fresh == COUNT + 3, "other shots, other distances"
    (folder / "quality" / "measured" / "manifest.jsonl").write_text("no rows\n")
    assert judge(folder, shots=shots).fresh == COUNT + 3


def test_a_killed_run_goes_on(shots, tmp_path):
    whole = make_set(tmp_path / "whole", range(40))
    cut = copy_of(whole, tmp_path / "cut")
    judge(whole, shots=shots, scores=tmp_path / "a" / "q")
    rows = tmp_path / "b" / "q" / "measured" / "manifest.jsonl"
    words = ["--pairs", str(cut), "--shots", str(shots), "--workers", "1"]
    command = [sys.executable, "-c", COMMAND, *words, "--scores", str(tmp_path / "b" / "q")]
    child = subprocess.Popen(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    deadline = time.monotonic() + 600
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with rows.open("ab") as stream:
        stream.write(b'{"id":"torn')
    assert not (tmp_path / "b" / "q" / "scores.jsonl").exists()
    result = judge(cut, shots=shots, scores=tmp_path / "b" / "q")
    assert 0 < result.fresh < 40 and result.fresh % 16 == 40 % 16
    for name in ("scores.jsonl", "measured/manifest.jsonl", "report.html"):
        assert (tmp_path / "a/q" / name).read_bytes() == (tmp_path / "b/q" / name).read_bytes()


def test_damaged_pairs_are_listed_and_the_others_measured(plain, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    broken = folder / "images" / "p001.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "masks" / "p002.png").write_bytes(encode_mask(draw_lines(2, 64)))
    (folder / "masks" / "p005.png").unlink()
    write_pair(folder, "p006", paint(draw_lines(6, SIZE), 6), np.zeros((SIZE, SIZE), bool))
    with pytest.warns(UserWarning) as told:
        result = judge(folder, keep="agreement > -1")
    rows = by_name(result)
    assert len(rows) == COUNT + 2 and len(result.problems) == len(told) == 3
    assert "no mask of the same name" in result.problems[0]
    assert "truncated" in rows["p001"]["problem"] and "64x64" in rows["p002"]["problem"]
    assert not rows["p001"]["kept"] and "scores" not in rows["p001"]
    assert rows["p006"]["scores"]["density"] == 0 and not rows["p006"]["kept"]
    assert len(result.kept) == COUNT - 1 and "2 cannot be read" in result.line()
    page = (folder / "quality" / "report.html").read_text()
    assert "p005" in page and "truncated" in page


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `univg generate images`: three masks, two images of each."""
    masks, out = tmp_path_factory.mktemp("masks"), tmp_path_factory.mktemp("run") / "out"
    for k in range(3):
        (masks / f"m{k}.png").write_bytes(encode_mask(draw_lines(k, SIZE, count=4)))
    render(from_plain(Images, {"masks": masks, "out": out, "variants": 2, "workers": 1}))
    return out


def test_images_of_one_mask_repeat_nothing(generated, tmp_path):
    folder = copy_of(generated, tmp_path / "set")
    assert not any(judge(folder).values("duplicate"))
    (folder / "manifest.jsonl").unlink()
    told = judge(folder, scores=tmp_path / "q")
    assert sum(told.values("mask_duplicate")) == 3, "without a manifest nobody knows better"
    assert not any(told.values("image_duplicate"))


def test_scores_go_into_the_manifest_and_nothing_else_changes(generated, tmp_path):
    folder = copy_of(generated, tmp_path / "set")
    before = read_rows(folder)
    result = judge(folder)
    after = read_rows(folder)
    assert [row.pop("scores") for row in after] == result.scores() and after == before
    assert len(open_pairs(folder, verify=True).pairs) == 6 and check_pairs(folder) == []
    assert judge(folder).fresh == 0
    assert judge(folder, attach=False).fresh == 0
    assert (folder / "manifest.jsonl").read_bytes() == b"".join(
        encode_row({**row, "scores": scores})
        for row, scores in zip(before, result.scores(), strict=True)
    )


def test_a_resumed_generation_accepts_rows_with_scores(generated, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for k in range(3):
        (masks / f"m{k}.png").write_bytes(encode_mask(draw_lines(k, SIZE, count=4)))
    wanted = {"masks": masks, "out": tmp_path / "out", "variants": 2, "workers": 1}
    render(from_plain(Images, {**wanted, "count": 4}))
    judge(tmp_path / "out")
    render(from_plain(Images, wanted))
    rows = read_rows(tmp_path / "out")
    assert ["scores" in row for row in rows] == [True] * 4 + [False] * 2
    assert judge(tmp_path / "out").fresh == 2
    plain_rows = [{k: v for k, v in row.items() if k != "scores"} for row in rows]
    assert plain_rows == read_rows(generated)


def test_scores_of_other_files_are_not_attached(generated, tmp_path):
    folder = copy_of(generated, tmp_path / "set")
    judge(folder, attach=False)
    rows = read_rows(folder)
    rows[1]["sha256"]["image"] = "0" * 64
    (folder / "manifest.jsonl").write_bytes(b"".join(encode_row(row) for row in rows))
    assert attach_scores(folder) == 5
    assert "scores" not in read_rows(folder)[1]
    with lock_folder(folder):
        with pytest.raises(ResumeError):
            attach_scores(folder)
        assert attach_scores(folder, lock=False) == 5
    with pytest.raises(DataError, match="run `univg generate check` first"):
        attach_scores(generated)
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(DataError, match="plain folder"):
        attach_scores(folder)


KEEP = "agreement > 0.4 and not copied and not duplicate"


def test_what_is_kept_becomes_a_folder_of_its_own(plain, shots, tmp_path, capsys):
    folder, out = copy_of(plain, tmp_path / "set"), tmp_path / "kept"
    result = judge(folder, shots=shots, keep=KEEP, out=out)
    assert not {"x-copy", "x-twin", "x-wrong"} & set(result.kept)
    said = capsys.readouterr().out
    assert "dropped 3 (1 by agreement > 0.4, 1 by not copied, 1 by not duplicate)" in said
    kept = open_pairs(out, verify=True)
    assert [pair.stem for pair in kept.pairs] == [f"p{k:03d}" for k in range(COUNT)]
    for pair in kept.pairs:
        assert pair.image.read_bytes() == (plain / "images" / pair.image.name).read_bytes()
        assert pair.image.stat().st_nlink == 2, "no second copy on the disk"
    rows = read_rows(out)
    assert rows[0]["scores"] == result.rows[0]["scores"]
    named = {row["id"]: row.get("dropped_by") for row in read_scores(folder / "quality")}
    assert named["x-copy"] == ["not copied"] and named["p000"] is None
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "images" / "p003.png").unlink()
    judge(folder, shots=shots, keep=KEEP, out=out)
    assert read_rows(out) == rows and set(out.rglob("*.png")) == set(before)
    with pytest.raises(ResumeError, match="holds another run"):
        judge(folder, shots=shots, keep="density < 1", out=out)


def test_kept_rows_of_a_manifest_stay_as_they_were(generated, tmp_path):
    folder, out = copy_of(generated, tmp_path / "set"), tmp_path / "kept"
    half = float(np.median(judge(folder).values("density")))
    result = judge(folder, keep=f"density <= {half}", out=out)
    assert 0 < len(result.kept) < 6
    before = {row["id"]: row for row in read_rows(folder)}
    assert read_rows(out) == [before[name] for name in result.kept]
    assert len(open_pairs(out, verify=True).pairs) == len(result.kept)


def test_a_killed_filter_goes_on(plain, tmp_path):
    folder, out = copy_of(plain, tmp_path / "set"), tmp_path / "kept"
    result = judge(folder, keep="density < 1", out=out)
    whole = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(whole[: len(whole) // 2])
    for path in sorted((out / "images").iterdir())[3:]:
        path.unlink()
    (out / "masks" / ".univg-tmp-1-1").write_bytes(b"left")
    judge(folder, keep="density < 1", out=out)
    assert (out / "manifest.jsonl").read_bytes() == whole
    assert len(open_pairs(out, verify=True).pairs) == len(result.kept) == COUNT + 3
    assert sorted(p.name for p in out.rglob(".univg-*")) == []


def test_the_field_of_view_goes_along(plain, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    (folder / "fov").mkdir()
    half = np.zeros((SIZE, SIZE), bool)
    half[:, : SIZE // 2] = True
    for path in (folder / "images").iterdir():
        (folder / "fov" / path.name).write_bytes(encode_mask(half))
    density = judge(folder, keep="density < 1", out=tmp_path / "kept").rows[0]["scores"]["density"]
    mask = read_mask(folder / "masks" / "p000.png")
    assert density == pytest.approx(mask[:, : SIZE // 2].mean(), abs=1e-4)
    assert all(pair.fov is not None for pair in open_pairs(tmp_path / "kept", verify=True).pairs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": "not copied"}, "add --shots"),
        ({"keep": "not duplicate", "near": False}, "leave out --no-near"),
        ({"out": "kept"}, "without --keep"),
        ({"keep": "agreement"}, "compare it"),
        ({"segmenter": "nothing"}, "package.module:function"),
        ({"pairs": "nowhere"}, "does not exist"),
        ({"scores": "set/images/p000.png"}, "choose another output path"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(changes, said, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copy_of(plain, tmp_path / "set")
    with pytest.raises(Exception, match=said) as caught:
        judge(**{"pairs": folder, **changes})
    assert isinstance(caught.value, ConfigError | DataError) or "scores" in changes
    assert sorted(path.name for path in folder.iterdir()) == ["images", "masks"]


def test_kept_pairs_do_not_go_into_the_folder_they_come_from(plain, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    for out in (folder, folder / "kept"):
        with pytest.raises(DataError, match="choose another --out"):
            judge(folder, keep="density < 1", out=out)
    assert not (folder / "quality").exists()  # told before all is measured
    judge(folder, keep="density < 1", out=tmp_path / "kept")
    shutil.rmtree(folder / "quality")
    with pytest.raises(ResumeError, match="keep is 'density < 1' there"):
        judge(folder, keep="density < 0.5", out=tmp_path / "kept")
    assert not (folder / "quality").exists()
    result = judge(folder)
    with pytest.raises(DataError, match="choose another --out"):
        write_kept(result.found, result.kept, folder / "images", {})


def test_pairs_that_cannot_be_written_are_told_at_once(generated, tmp_path, monkeypatch):
    folder = copy_of(generated, tmp_path / "set")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="add --no-attach"):
        judge(folder)
    assert not (folder / "quality").exists()


def test_damaged_shots_are_refused(plain, shots, tmp_path):
    folder, bad = copy_of(plain, tmp_path / "set"), copy_of(shots, tmp_path / "shots")
    (bad / "images" / "p101.png").write_bytes(b"\x89PNG")
    with pytest.raises(ProblemReport, match="p101"):
        judge(folder, shots=bad)
    assert not (folder / "quality").exists()


def test_one_shot_alone_gives_distances_and_no_verdict(plain, shots, tmp_path):
    one = make_set(tmp_path / "one", range(102, 103))
    result = judge(copy_of(plain, tmp_path / "set"), shots=one, keep="not copied")
    copy = by_name(result)["x-copy"]["scores"]
    assert copy["mask_distance"] < 0.1 and copy["copied"] is None
    assert not result.kept, "what is not known is not kept"


def test_polarity_of_shots_is_the_one_their_masks_tell(tmp_path):
    """Bright vessels among more and stronger dark lines that nobody has labelled."""
    for k in range(3):
        mask, decoys = draw_lines(k, SIZE, count=2, width=2), draw_lines(k + 50, SIZE, width=2)
        image = paint(decoys & ~mask, k, contrast=-70).astype(np.int64)
        write_pair(tmp_path, f"s{k}", np.where(mask, image + 40, image).astype(np.uint8), mask)
    images = [read_image(path) for path in sorted((tmp_path / "images").iterdir())]
    assert choose_polarity([measure_ridges(image) for image in images]) == "dark"
    assert read_shots(tmp_path).polarity == "bright"


def segment_nothing(image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], np.float32)


def segment_badly(image: np.ndarray) -> np.ndarray:
    return np.zeros((2, 2), np.float32)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_segmenter_of_the_user(plain, tmp_path, workers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    folder = copy_of(plain, tmp_path / "set")
    given = {"segmenter": f"{__name__}:segment_nothing", "workers": workers}
    result = judge(folder, **given)
    assert set(result.values("agreement")) == {0.0}
    with pytest.raises(DataError, match=r"p000\.png: the segmenter returned float32 of \(2, 2\)"):
        judge(folder, segmenter=f"{__name__}:segment_badly", workers=workers)


def test_the_page_stands_alone_and_names_what_matters(plain, shots, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    judge(folder, shots=shots, keep=KEEP)
    page = (folder / "quality" / "report.html").read_text()
    assert len(page) < 3_000_000
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    for word in (
        "x-wrong",
        "x-copy",
        "x-twin",
        "p102",
        "not copied",
        "Random",
        f"Kept {COUNT} of {COUNT + 3}",
    ):
        assert word in page, word
    assert str(folder) not in page, "a page can be handed on"
    small = tmp_path / "small"
    make_set(small, range(1))
    judge(small, near=False)
    assert "Copies of shots" not in (small / "quality" / "report.html").read_text()


def test_the_plan_writes_nothing(plain, tmp_path, capsys):
    folder = copy_of(plain, tmp_path / "set")
    said = plan(from_plain(Check, {"pairs": folder, "keep": "density<1", "out": tmp_path / "o"}))
    assert f"{COUNT + 3} pairs" in said and "density<1" in said and str(tmp_path / "o") in said
    assert main(["generate", "check", "--pairs", str(folder), "--dry-run"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["images", "masks"]
    code = main(["generate", "check", "--pairs", str(folder), "--keep", "speed > 1"])
    assert code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "measures: density, components" in line


def test_scores_are_plain_json(plain, tmp_path):
    folder = copy_of(plain, tmp_path / "set")
    judge(folder)
    for line in (folder / "quality" / "scores.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda word: pytest.fail(word))
        assert set(row) <= {"id", "image", "mask", "sha256", "scores", "kept", "repeats"}
