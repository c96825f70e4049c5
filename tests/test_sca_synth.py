"""`univg sca synth` as a user runs it: what it writes, and that nothing can disturb it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
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
from PIL import Image

from univg.cli import main
from univg.config import to_plain
from univg.manifest import read_rows
from univg.modalities import find_modality, modality_names

SMALL = ["--size", "96", "128", "--seed", "7"]
COMMAND = "import sys; from univg.cli import main; sys.exit(main(sys.argv[1:]))"
HAS_PROC = Path("/proc/self/stat").exists()


def synth(out: Path, *words: object) -> int:
    return main(["sca", "synth", "--out", str(out), *map(str, words)])


def start(out: Path, *words: object) -> subprocess.Popen[str]:
    """Start the command in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sca", "synth", "--out", str(out), *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def masks(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in hashes(folder).items() if name.endswith(".png")}


def read_all(folder: Path) -> list[np.ndarray]:
    """Read the masks with another library than the one that wrote them."""
    pictures = []
    for path in sorted((folder / "masks").glob("*.png")):
        with Image.open(path) as picture:
            assert picture.mode == "L" and picture.format == "PNG"
            pictures.append(np.array(picture))
    return pictures


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three masks that stand for real ones: the project's own, at another size."""
    out = tmp_path_factory.mktemp("real")
    assert synth(out, "--count", 3, "--size", 200, 200, "--seed", 99, "--workers", 1) == 0
    return out / "masks"


@pytest.mark.parametrize("name", modality_names())
def test_masks_of_a_modality(name, tmp_path):
    words = ["--modality", name, "--count", 8, "--size", 256, 256, "--workers", 1]
    assert synth(tmp_path, *words) == 0
    pictures = read_all(tmp_path)
    assert len(pictures) == 8
    for picture in pictures:
        assert picture.shape == (256, 256) and picture.dtype == np.uint8
        assert set(np.unique(picture)) == {0, 255}
        assert 0.01 < (picture > 0).mean() < 0.45
    for first, second in itertools.combinations(pictures, 2):
        assert (first != second).mean() > 0.01


@pytest.mark.parametrize("size", [(37, 201), (300, 700), (16, 16), (64, 65)])
@pytest.mark.parametrize("name", modality_names())
def test_any_size(name, size, tmp_path):
    words = ["--modality", name, "--count", 1, "--size", *size, "--workers", 1]
    assert synth(tmp_path, *words) == 0
    assert [picture.shape for picture in read_all(tmp_path)] == [size]


def test_the_manifest_says_how_each_mask_was_made(tmp_path):
    assert synth(tmp_path, *SMALL, "--count", 5, "--workers", 1) == 0
    rows = read_rows(tmp_path)
    assert [row["index"] for row in rows] == list(range(5))
    assert len({row["seed"] for row in rows}) == 5
    for row in rows:
        data = (tmp_path / row["mask"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert row["modality"] == "fundus" and row["size_px"] == [96, 128]
        assert row["parameters"]["nodes"] > 0 and row["version"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "manifest.jsonl",
        "masks",
        "run.json",
    ]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["seed"], config["count"], config["size"]) == (7, 5, [96, 128])


@pytest.mark.parametrize("extra", [[], ["--real", "REAL"]], ids=["plain", "real"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, real_folder, extra):
    words = [str(real_folder) if word == "REAL" else word for word in extra]
    found = []
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        assert synth(out, *SMALL, "--count", 70, *words, "--workers", workers) == 0
        found.append(hashes(out))
    assert len(found[0]) == 73
    assert found[0] == found[1] == found[2]


def test_run_again_nothing_changes(tmp_path):
    words = [*SMALL, "--count", 5, "--workers", 1]
    assert synth(tmp_path, *words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").iterdir()}
    whole = hashes(tmp_path)
    assert synth(tmp_path, *words) == 0
    assert hashes(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").iterdir()} == before


def test_more_masks_of_the_same_run(tmp_path):
    assert synth(tmp_path / "a", *SMALL, "--count", 4, "--workers", 1) == 0
    few = masks(tmp_path / "a")
    assert synth(tmp_path / "a", *SMALL, "--count", 9, "--workers", 2) == 0
    assert synth(tmp_path / "b", *SMALL, "--count", 9, "--workers", 1) == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert few.items() < masks(tmp_path / "a").items()


def test_fewer_masks_than_are_there_take_nothing_away(tmp_path):
    assert synth(tmp_path, *SMALL, "--count", 6, "--workers", 1) == 0
    before = masks(tmp_path)
    assert synth(tmp_path, *SMALL, "--count", 2, "--workers", 1) == 0
    assert masks(tmp_path) == before and len(read_rows(tmp_path)) == 6


def test_one_mask_alone_is_the_same_as_in_its_run(tmp_path, real_folder):
    for extra in ([], ["--real", real_folder]):
        name = "real" if extra else "plain"
        whole, alone = tmp_path / f"{name}-whole", tmp_path / f"{name}-alone"
        assert synth(whole, *SMALL, "--count", 6, *extra, "--workers", 1) == 0
        assert synth(alone, *SMALL, "--first", 4, "--count", 1, *extra, "--workers", 1) == 0
        assert list(masks(alone)) == ["masks/fundus-000004.png"]
        assert masks(alone).items() < masks(whole).items()
        assert read_rows(alone)[0] == read_rows(whole)[4]


def test_the_parts_of_a_run_made_apart_are_its_masks(tmp_path):
    assert synth(tmp_path / "a", *SMALL, "--count", 6, "--workers", 1) == 0
    for first in (3, 0):
        words = [*SMALL, "--first", first, "--count", 3, "--workers", 1]
        assert synth(tmp_path / "b", *words) == 0
    assert masks(tmp_path / "a") == masks(tmp_path / "b")


@pytest.mark.parametrize("damage", ["lost", "cut", "swapped", "empty"])
def test_a_lost_or_damaged_mask_is_made_again(tmp_path, damage):
    words = [*SMALL, "--count", 5, "--workers", 1]
    assert synth(tmp_path, *words) == 0
    whole = hashes(tmp_path)
    path = tmp_path / "masks" / "fundus-000002.png"
    if damage == "lost":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "swapped":
        path.write_bytes((tmp_path / "masks" / "fundus-000003.png").read_bytes())
    else:
        path.write_bytes(b"")
    assert synth(tmp_path, *words) == 0
    assert hashes(tmp_path) == whole


def test_a_run_goes_by_its_own_config(tmp_path, real_folder):
    assert synth(tmp_path / "a", "--real", real_folder, "--seed", 3, "--count", 3) == 0
    config = tmp_path / "a" / "config.yaml"
    assert main(["sca", "synth", "--config", str(config), "--out", str(tmp_path / "b")]) == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_masks_made_out_of_order_stand_in_order(tmp_path):
    assert synth(tmp_path / "a", "--first", 4, "--count", 2) == 0
    assert synth(tmp_path / "a", "--count", 6) == 0
    assert [row["index"] for row in read_rows(tmp_path / "a")] == list(range(6))
    assert synth(tmp_path / "b", "--count", 6) == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_mask_that_cannot_be_made_again_is_not_replaced(tmp_path, capsys):
    assert synth(tmp_path, "--count", 3) == 0
    manifest = tmp_path / "manifest.jsonl"
    rows = read_rows(tmp_path)
    manifest.write_text(manifest.read_text().replace(rows[1]["sha256"], "0" * 64))
    edited = tmp_path / rows[1]["mask"]
    edited.write_bytes(b"by hand")
    assert synth(tmp_path, "--count", 3) == 2
    assert "differs from the one in the manifest" in capsys.readouterr().err
    assert edited.read_bytes() == b"by hand"


def test_a_torn_manifest_is_mended(tmp_path):
    words = [*SMALL, "--count", 5, "--workers", 1]
    assert synth(tmp_path, *words) == 0
    whole = hashes(tmp_path)
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-25])
    assert synth(tmp_path, *words) == 0
    assert hashes(tmp_path) == whole


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seed", 8], "seed is 7 there and 8 here"),
        (["--size", 96, 96], "size_px"),
        (["--exponent", 3.1], "exponent"),
        (["--modality", "octa"], "modality is 'fundus' there and 'octa' here"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tmp_path, capsys, words, named):
    assert synth(tmp_path, *SMALL, "--count", 3, "--workers", 1) == 0
    before = hashes(tmp_path)
    capsys.readouterr()
    assert synth(tmp_path, *SMALL, *words, "--count", 3, "--workers", 1) == 2
    assert named in capsys.readouterr().err
    assert hashes(tmp_path) == before


def test_other_real_masks_are_another_run(tmp_path, real_folder, capsys):
    words = [*SMALL, "--count", 2, "--workers", 1]
    assert synth(tmp_path / "a", *words, "--real", real_folder) == 0
    before = hashes(tmp_path / "a")
    one = tmp_path / "one"
    one.mkdir()
    first = sorted(real_folder.iterdir())[0]
    (one / first.name).write_bytes(first.read_bytes())
    assert synth(tmp_path / "a", *words, "--real", one) == 2
    assert "real" in capsys.readouterr().err
    assert hashes(tmp_path / "a") == before


def test_another_seed_makes_other_masks(tmp_path):
    for seed in (1, 2):
        out = tmp_path / str(seed)
        assert synth(out, "--size", 96, 96, "--seed", seed, "--count", 3, "--workers", 1) == 0
    assert not set(masks(tmp_path / "1").values()) & set(masks(tmp_path / "2").values())


def test_real_masks_are_followed_and_named_in_the_manifest(tmp_path, real_folder):
    words = ["--count", 4, "--size", 200, 200, "--seed", 1, "--workers", 1, "--real", real_folder]
    assert synth(tmp_path, *words, "--strength", 1.0) == 0
    stems = {path.stem for path in real_folder.iterdir()}
    for row in read_rows(tmp_path):
        assert row["parameters"]["template"] in stems
        assert row["parameters"]["strength"] == 1.0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["real"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
                           for p in real_folder.iterdir()}  # fmt: skip
    real = {hashlib.sha256(path.read_bytes()).hexdigest() for path in real_folder.iterdir()}
    assert not real & set(masks(tmp_path).values())


def test_real_masks_of_many_forms(tmp_path, real_folder):
    """0/1 and RGB files of the same masks steer as the 0/255 files do."""
    forms = tmp_path / "forms"
    forms.mkdir()
    for number, path in enumerate(sorted(real_folder.iterdir())):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        stored = (mask // 255, cv2.merge([mask] * 3), mask)[number % 3]
        assert cv2.imwrite(str(forms / path.name), stored)
    words = [*SMALL, "--count", 3, "--workers", 1, "--real"]
    assert synth(tmp_path / "a", *words, forms) == 0
    assert synth(tmp_path / "b", *words, real_folder) == 0
    assert masks(tmp_path / "a") == masks(tmp_path / "b")


def test_several_modalities_get_a_folder_each(tmp_path):
    words = [*SMALL, "--count", 2, "--workers", 1]
    assert synth(tmp_path / "all", *words, "--modality", "all") == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == modality_names()
    name = modality_names()[0]
    assert synth(tmp_path / "one", *words, "--modality", name) == 0
    assert masks(tmp_path / "all" / name) == masks(tmp_path / "one")


def write_card(folder: Path, change: Callable[[dict], None] = lambda _: None) -> Path:
    card = to_plain(find_modality("fundus")) | {"name": "cornea", "title": "Corneal nerves"}
    change(card)
    path = folder / "cornea.yaml"
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    return path


def test_a_card_of_ones_own_is_a_new_modality_without_code(tmp_path):
    card = write_card(tmp_path)
    assert synth(tmp_path / "a", *SMALL, "--count", 3, "--workers", 1, "--modality", card) == 0
    assert [row["modality"] for row in read_rows(tmp_path / "a")] == ["cornea"] * 3
    assert len(list((tmp_path / "a" / "masks").glob("cornea-*.png"))) == 3


def test_a_card_that_was_changed_is_another_run(tmp_path, capsys):
    words = [*SMALL, "--count", 2, "--workers", 1, "--modality"]
    assert synth(tmp_path / "a", *words, write_card(tmp_path)) == 0
    before = hashes(tmp_path / "a")

    def widen(card: dict) -> None:
        card["sca"]["widths"]["max_radius_px"] = 12.5

    assert synth(tmp_path / "a", *words, write_card(tmp_path, widen)) == 2
    assert "max_radius_px" in capsys.readouterr().err
    assert hashes(tmp_path / "a") == before


def write_bush(folder: Path) -> Path:
    """A smallest card: a point, a root and a round of growth are enough."""
    card = {
        "name": "bush",
        "title": "A bush",
        "mask_prompt": "mask",
        "image_prompt": "image",
        "sca": {
            "points": {"foot": {"at": [0.5, 0.9], "spread": [0.1, 0.05]}},
            "roots": ["foot"],
            "stages": [{"attraction_px": 200, "kill_px": 12, "step_px": 6, "cell_px": 40}],
        },
    }
    path = folder / "bush.yaml"
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    return path


def test_a_smallest_card(tmp_path):
    words = ["--count", 3, "--workers", 1, "--modality", write_bush(tmp_path)]
    assert synth(tmp_path / "a", *words) == 0
    for picture in read_all(tmp_path / "a"):
        assert cv2.connectedComponents(picture, connectivity=8)[0] == 2
        assert 0.01 < (picture > 0).mean() < 0.4


def test_a_second_run_at_the_same_time_is_refused(tmp_path, capsys):
    first = start(tmp_path, *SMALL, "--count", 100_000, "--workers", 1)
    try:
        wait_for(lambda: (tmp_path / "manifest.jsonl").exists() or first.poll() is not None)
        assert synth(tmp_path, *SMALL, "--count", 1, "--workers", 1) == 2
        assert "another run is writing" in capsys.readouterr().err
    finally:
        first.kill()
        first.communicate()


# Interruptions.


def wait_for(condition: Callable[[], bool], at_most_s: float = 60.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)


def living_in_session(session: int) -> list[int]:
    """Processes of `session` that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[3]) == session and state[0] != "Z":
            found.append(int(entry.name))
    return found


def count_masks(folder: Path) -> int:
    try:
        return len(os.listdir(folder / "masks"))  # noqa: PTH208, quick, and it may vanish
    except OSError:
        return 0


def kill_at_random(out: Path, words: list[object], dice: random.Random) -> bool:
    """Run until a random moment, then kill -9; return whether a kill found it running.

    Half of the moments are a random time after the start, half a random number of masks after it.
    """
    process = start(out, *words)
    if dice.random() < 0.3:
        limit = time.monotonic() + dice.uniform(0.02, 1.5)
        wait_for(lambda: process.poll() is not None or time.monotonic() > limit)
    else:
        enough = count_masks(out) + dice.randrange(1, 60)
        wait_for(lambda: process.poll() is not None or count_masks(out) >= enough)
        time.sleep(dice.uniform(0, 0.02))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert running or process.returncode == 0, said
    if HAS_PROC:
        wait_for(lambda: not living_in_session(process.pid), 10)
    return running


def check_kills(tmp_path: Path, kills: int, seed: int, words: list[object]) -> None:
    """Kill runs of 1, 2 and 3 workers `kills` times in all; they end as an undisturbed one."""
    dice = random.Random(seed)
    assert synth(tmp_path / "whole", *words, "--workers", 1) == 0
    wanted = hashes(tmp_path / "whole")
    done, round_number = 0, 0
    while done < kills:
        round_number += 1
        out = tmp_path / f"killed-{round_number}"
        while kill_at_random(out, [*words, "--workers", dice.randint(1, 3)], dice):
            done += 1
            rows = read_rows(out)
            assert [row["index"] for row in rows] == list(range(len(rows)))
            for row in rows[-40:]:
                data = (out / row["mask"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == row["sha256"]
            if done >= kills:
                assert synth(out, *words, "--workers", 2) == 0
                break
        assert hashes(out) == wanted  # no orphan, no duplicate, no temporary file either


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path):
    card = write_bush(tmp_path)
    check_kills(tmp_path, 22, 1, [*SMALL, "--count", 400, "--modality", card])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_more_often(tmp_path, seed, real_folder):
    check_kills(tmp_path, 45, seed, [*SMALL, "--count", 800, "--real", real_folder])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], dict[str, str]]:
    """The words of a run of some seconds, and the hashes of what it writes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words: list[object] = [*SMALL, "--count", 200, "--modality", write_bush(folder)]
    assert synth(folder / "out", *words, "--workers", 2) == 0
    return words, hashes(folder / "out")


@pytest.mark.parametrize(("workers", "to_all"), [(1, False), (2, False), (2, True)])
def test_ctrl_c_is_answered_with_130_and_can_be_gone_on_from(
    tmp_path, workers, to_all, undisturbed
):
    """`to_all`: as a terminal does it, which sends Ctrl-C to the workers, too."""
    words, wanted = undisturbed
    out = tmp_path / "out"
    process = start(out, *words, "--workers", workers)
    wait_for(lambda: count_masks(out) > 32 or process.poll() is not None)
    if to_all:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1].startswith("univg: stopped")
    assert "Traceback" not in said
    if HAS_PROC:
        wait_for(lambda: not living_in_session(process.pid), 10)
    assert count_masks(out) < 200
    assert synth(out, *words, "--workers", 1) == 0
    assert hashes(out) == wanted
