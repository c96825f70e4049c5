"""`univg generate images` as a user runs it: what it writes, and that nothing can disturb it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from univg.config import from_plain, parse
from univg.errors import ConfigError, DataError, ProblemReport, ResumeError, UserError
from univg.generate.images import Images, plan, run
from univg.generate.looks import look_from_plain
from univg.generate.procedural import render, render_pair
from univg.generate.sources import open_source
from univg.images import encode_image, read_image
from univg.manifest import encode_row, read_rows
from univg.masks import MaskWarning, inspect_mask, read_mask, write_mask
from univg.modalities import modality_names
from univg.pairs import check_pairs, open_pairs
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize

SIDES = (72, 96)
COMMAND = (
    "import sys; from univg.config import parse; from univg.generate.images import Images, run; "
    "run(parse(Images, sys.argv[1:], 'univg generate images').settings)"
)


@pytest.fixture(scope="module")
def synth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `univg sca synth`, of 6 small masks."""
    out = tmp_path_factory.mktemp("synth")
    synthesize(Synth(out=out, count=6, size=SIDES, seed=5, workers=1))
    return out


def make(masks: Path, out: Path, **changes: object) -> None:
    run(from_plain(Images, {"masks": masks, "out": out, "seed": 3, "workers": 1, **changes}))


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pictures(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in hashes(folder).items() if name.endswith(".png")}


def draw_cross(shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.line(mask, (5, 8), (shape[1] - 9, shape[0] - 7), 1, 4)
    cv2.line(mask, (6, shape[0] - 9), (shape[1] - 6, 9), 1, 2)
    return mask > 0


@pytest.mark.parametrize("name", modality_names())
def test_pairs_of_a_modality(name, synth_folder, tmp_path):
    make(synth_folder, tmp_path / "out", modality=name)
    found = open_pairs(tmp_path / "out", verify=True)
    assert [pair.stem for pair in found.pairs] == [f"fundus-{k:06d}" for k in range(6)]
    assert check_pairs(tmp_path / "out", strict=True) == []
    for pair in found.pairs:
        image, reading = read_image(pair.image), inspect_mask(pair.mask)
        assert image.dtype == np.uint8 and image.std() > 3
        assert image.shape == ((*SIDES, 3) if name == "fundus" else SIDES)
        assert reading.stored == "binary 0/255" and reading.mask.shape == SIDES
        source = read_mask(synth_folder / "masks" / pair.mask.name)
        assert not (reading.mask & ~source).any(), "no vessel that the source does not have"
        assert reading.mask.sum() >= 0.6 * source.sum()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.yaml", "images", "manifest.jsonl", "masks", "run.json",
    ]  # fmt: skip


def test_any_number_of_workers_writes_the_same_bytes(synth_folder, tmp_path):
    for workers in (1, 3):
        make(synth_folder, tmp_path / str(workers), variants=7, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")
    assert len(pictures(tmp_path / "1")) == 2 * 42


def test_run_again_nothing_changes(synth_folder, tmp_path, capsys):
    make(synth_folder, tmp_path / "a")
    before = hashes(tmp_path / "a")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.png")}
    make(synth_folder, tmp_path / "a")
    assert hashes(tmp_path / "a") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.png")} == times
    assert "6 were there already" in capsys.readouterr().out


def test_a_part_of_a_run_is_the_same_as_in_the_whole(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a", variants=2)
    make(synth_folder, tmp_path / "b", variants=2, first=7, count=2)
    assert sorted(pictures(tmp_path / "b")) == [
        f"{kind}/fundus-00000{k}.png" for kind in ("images", "masks") for k in ("3-v01", "4-v00")
    ]
    assert pictures(tmp_path / "b").items() < pictures(tmp_path / "a").items()
    make(synth_folder, tmp_path / "b", variants=2, count=7)
    make(synth_folder, tmp_path / "b", variants=2)
    rows = (tmp_path / "b" / "manifest.jsonl").read_bytes()
    assert rows == (tmp_path / "a" / "manifest.jsonl").read_bytes()
    assert pictures(tmp_path / "b") == pictures(tmp_path / "a")


def test_variants_of_a_mask_differ_in_their_look_only(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a", variants=3, count=3, modality="octa")
    rows = read_rows(tmp_path / "a")
    assert {row["source"] for row in rows} == {"fundus-000000.png"}
    assert len({row["sha256"]["mask"] for row in rows}) == 1
    assert len({row["sha256"]["image"] for row in rows}) == 3


def test_the_manifest_is_enough_to_make_a_pair_again(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a")
    for row in read_rows(tmp_path / "a"):
        source = read_mask(synth_folder / "masks" / row["source"])
        made = render(source, look_from_plain(row["parameters"]))
        assert encode_image(made.image) == (tmp_path / "a" / row["image"]).read_bytes()
        assert (made.mask == read_mask(tmp_path / "a" / row["mask"])).all()
        image, mask = render_pair(source, "fundus", 3, row["index"])
        assert (image == made.image).all() and (mask == made.mask).all()


@pytest.mark.parametrize("damage", ["image lost", "mask cut"])
def test_a_lost_or_damaged_file_is_made_again(synth_folder, tmp_path, damage):
    make(synth_folder, tmp_path / "a")
    whole = hashes(tmp_path / "a")
    if damage == "image lost":
        (tmp_path / "a" / "images" / "fundus-000002.png").unlink()
    else:
        path = tmp_path / "a" / "masks" / "fundus-000004.png"
        path.write_bytes(path.read_bytes()[:-30])
    make(synth_folder, tmp_path / "a")
    assert hashes(tmp_path / "a") == whole


def test_a_pair_that_cannot_be_made_again_is_not_replaced(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.jsonl"
    row = read_rows(tmp_path / "a")[1]
    manifest.write_text(manifest.read_text().replace(row["sha256"]["image"], "0" * 64))
    with pytest.raises(DataError, match="differs from the one in the manifest"):
        make(synth_folder, tmp_path / "a")


def test_a_torn_manifest_is_mended(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a")
    whole = hashes(tmp_path / "a")
    path = tmp_path / "a" / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    make(synth_folder, tmp_path / "a")
    assert hashes(tmp_path / "a") == whole


def wait_for(condition: Callable[[], bool], at_most_s: float = 600.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(synth_folder, tmp_path):
    """kill -9 in the middle of the second chunk, with worker processes."""
    words = ["--masks", synth_folder, "--out", tmp_path / "a", "--seed", 3, "--variants", 12]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words), "--workers", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    manifest, images = tmp_path / "a" / "manifest.jsonl", tmp_path / "a" / "images"
    wait_for(lambda: process.poll() is not None or (manifest.exists() and manifest.stat().st_size))
    many = len(list(images.iterdir()))
    wait_for(lambda: process.poll() is not None or len(list(images.iterdir())) > many)
    os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert 0 < len(read_rows(tmp_path / "a")) < 72
    make(synth_folder, tmp_path / "a", variants=12)
    make(synth_folder, tmp_path / "b", variants=12)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_run_goes_by_its_own_config(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a", modality="oct", variants=2, count=3)
    words = ["--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")]
    run(parse(Images, words, "univg generate images").settings)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"modality": "octa"}, "modality is 'fundus' there and 'octa' here"),
        ({"look": "plain"}, "look"),
        ({"variants": 2}, "variants"),
        ({"size": (64, 64)}, "size_px"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(synth_folder, tmp_path, changes, named):
    make(synth_folder, tmp_path / "a")
    before = hashes(tmp_path / "a")
    with pytest.raises(ResumeError, match=named):
        make(synth_folder, tmp_path / "a", **changes)
    assert hashes(tmp_path / "a") == before


def test_other_masks_are_another_run(tmp_path):
    (tmp_path / "m").mkdir()
    write_mask(tmp_path / "m" / "a.png", draw_cross())
    make(tmp_path / "m", tmp_path / "out")
    write_mask(tmp_path / "m" / "a.png", ~draw_cross() & (np.arange(64) > 40))
    with pytest.raises(ResumeError, match="masks"):
        make(tmp_path / "m", tmp_path / "out")


def test_masks_of_many_sizes_and_one_size_for_all(tmp_path):
    (tmp_path / "m").mkdir()
    for name, shape in (("a", (48, 64)), ("b", (130, 90))):
        write_mask(tmp_path / "m" / f"{name}.png", draw_cross(shape))
    make(tmp_path / "m", tmp_path / "own", modality="brain")
    assert [row["size_px"] for row in read_rows(tmp_path / "own")] == [[48, 64], [130, 90]]
    make(tmp_path / "m", tmp_path / "same", modality="brain", size=(40, 56))
    for pair in open_pairs(tmp_path / "same").pairs:
        assert read_image(pair.image).shape == (40, 56)
        assert cv2.connectedComponents(read_mask(pair.mask).astype(np.uint8))[0] == 2
    assert check_pairs(tmp_path / "same", strict=True) == []


def test_a_folder_of_pairs_serves_as_masks(synth_folder, tmp_path):
    make(synth_folder, tmp_path / "a")
    make(tmp_path / "a", tmp_path / "b", modality="coronary")
    assert len(open_pairs(tmp_path / "b").pairs) == 6


def test_what_cannot_be_used_is_refused_before_anything_is_written(tmp_path, synth_folder):
    out = tmp_path / "out"
    for masks, named in (
        (tmp_path / "nowhere", "does not exist"),
        (synth_folder / "run.json", "is a file"),
    ):
        with pytest.raises(DataError, match=named):
            make(masks, out)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        make(tmp_path / "bare", out)
    bad = tmp_path / "bad"
    bad.mkdir()
    write_mask(bad / "empty.png", np.zeros((40, 40), np.bool_))
    (bad / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    with pytest.raises(ProblemReport) as caught:
        make(bad, out)
    assert {problem.path.name for problem in caught.value.problems} == {"empty.png", "torn.png"}
    assert not out.exists()


def test_grey_masks_are_cut_at_half_with_a_word_or_refused(tmp_path):
    (tmp_path / "m").mkdir()
    soft = cv2.GaussianBlur(draw_cross().astype(np.uint8) * 255, (0, 0), 1.0)
    assert cv2.imwrite(str(tmp_path / "m" / "soft.png"), soft)
    with pytest.raises(ProblemReport, match="no clean mask"):
        make(tmp_path / "m", tmp_path / "out", strict=True)
    with pytest.warns(MaskWarning, match=r"1 masks have grey levels.*soft\.png"):
        make(tmp_path / "m", tmp_path / "out", modality="octa")
    written = read_mask(tmp_path / "out" / "masks" / "soft.png")
    assert (written == (soft > (float(soft.min()) + float(soft.max())) / 2)).all()


def test_images_are_of_the_modality_of_their_masks(tmp_path):
    synthesize(
        Synth(out=tmp_path / "m", modality=("octa",), count=1, size=(48, 48), seed=5, workers=1)
    )
    make(tmp_path / "m", tmp_path / "a")
    assert [row["modality"] for row in read_rows(tmp_path / "a")] == ["octa"]
    make(tmp_path / "m", tmp_path / "b", modality="brain")
    assert [row["modality"] for row in read_rows(tmp_path / "b")] == ["brain"]


def test_a_photograph_is_no_mask(tmp_path):
    (tmp_path / "m").mkdir()
    write_mask(tmp_path / "m" / "a.png", draw_cross())
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    (tmp_path / "m" / "photo.png").write_bytes(encode_image(pixels))
    with pytest.raises(ProblemReport, match=r"photo\.png.*looks like an image"):
        make(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_rewritten_under_a_run_is_noticed(synth_folder, tmp_path):
    shutil.copytree(synth_folder, tmp_path / "m")
    source = open_source(tmp_path / "m")
    rows = read_rows(tmp_path / "m")
    data = b"".join(encode_row({**row, "scores": {"density": 0.1}}) for row in rows)
    (tmp_path / "m" / "manifest.jsonl").write_bytes(data)
    with pytest.raises(DataError, match="was changed while"):
        source.row_of(3)


def test_two_masks_of_one_name_are_refused(tmp_path):
    (tmp_path / "m").mkdir()
    write_mask(tmp_path / "m" / "a.png", draw_cross())
    assert cv2.imwrite(str(tmp_path / "m" / "A.tif"), draw_cross().astype(np.uint8) * 255)
    with pytest.raises(ProblemReport, match="has the same name as"):
        make(tmp_path / "m", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"count": 7}, "has 6 masks, so 6 pairs"),
        ({"first": 6}, "has 6 masks"),
        ({"prompt": "a retina"}, "prompt is of no use to image_engine procedural"),
        ({"look": "gloomy"}, "look `gloomy` is unknown: known: default, plain, brain"),
        ({"modality": "fundsu"}, "did you mean fundus"),
        ({"size": (10, 64)}, "size"),
        ({"image_engine": "magic"}, "image_engine"),
    ],
)
def test_settings_that_cannot_be(synth_folder, tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        make(synth_folder, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_the_masks_is_not_written_to(synth_folder):
    before = hashes(synth_folder)
    with pytest.raises(UserError):
        make(synth_folder, synth_folder)
    assert hashes(synth_folder) == before


def test_the_plan_writes_nothing(synth_folder, tmp_path):
    settings = Images(masks=synth_folder, out=tmp_path / "out", variants=4)
    assert "24 pairs" in plan(settings) and "fundus images" in plan(settings)
    assert not (tmp_path / "out").exists()


def test_a_look_of_ones_own_in_a_file(synth_folder, tmp_path):
    card = {"name": "noon", "renderer": "fundus", "values": {"vignette": 0, "tissue": {
        "colours": [[0.2, 0.3, 0.9]]}, "full_frame": 1, "lightness": 0.0}}  # fmt: skip
    path = tmp_path / "noon.yaml"
    path.write_text(yaml.safe_dump(card))
    make(synth_folder, tmp_path / "a", look=str(path))
    for row in read_rows(tmp_path / "a"):
        assert row["parameters"]["card"] == "noon"
        image = read_image(tmp_path / "a" / row["image"])
        assert image[:, :, 2].mean() > image[:, :, 0].mean() + 20, "blue, as asked for"
    path.write_text(yaml.safe_dump({**card, "values": {"vignete": 0}}))
    with pytest.raises(ConfigError, match=r"values\.vignete is not a value of renderer fundus"):
        make(synth_folder, tmp_path / "b", look=str(path))
    path.write_text(yaml.safe_dump({**card, "values": {"tissue": 0.5}}))
    with pytest.raises(ConfigError, match="tissue must be colours"):
        make(synth_folder, tmp_path / "b", look=str(path))
    path.write_text(yaml.safe_dump({**card, "renderer": "magic"}))
    with pytest.raises(ConfigError, match="renderer is 'magic'"):
        make(synth_folder, tmp_path / "b", look=str(path))


def test_a_modality_of_ones_own_gets_the_generic_look(synth_folder, tmp_path):
    card = {"name": "cornea", "title": "Nerves", "mask_prompt": "m", "image_prompt": "i", "sca": {}}
    path = tmp_path / "cornea.yaml"
    path.write_text(yaml.safe_dump(card))
    make(synth_folder, tmp_path / "a", modality=str(path), count=2)
    assert [row["parameters"]["card"] for row in read_rows(tmp_path / "a")] == ["generic"] * 2
    assert [row["modality"] for row in read_rows(tmp_path / "a")] == ["cornea"] * 2
