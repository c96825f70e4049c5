"""A run shared between processes is the run of one process; holes and doubles are found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from univg.cli import main
from univg.config import from_plain
from univg.errors import ConfigError, DataError, ResumeError
from univg.generate.images import Images, run
from univg.manifest import encode_row, read_rows
from univg.run_folder import Made, Maker, Tasks, require_joined
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize
from univg.shards import PARTS, Shard, merge_parts, parse_shard

COMMAND = "import sys; from univg.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("masks")
    synthesize(Synth(out=out, count=8, size=(48, 64), seed=5, workers=1))
    return out


@pytest.fixture(scope="module")
def whole(masks, tmp_path_factory) -> Path:
    """48 pairs, made by one process."""
    out = tmp_path_factory.mktemp("whole") / "a"
    make(masks, out)
    return out


def make(masks: Path, out: Path, shard: str | None = None, **changes: object) -> None:
    values = {"masks": masks, "out": out, "seed": 3, "workers": 1, "variants": 6, **changes}
    run(from_plain(Images, {**values, **({"shard": shard} if shard else {})}))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("block", [1, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize("of", [1, 3, 64])
def test_shards_share_a_run_without_holes_or_doubles(block, count, of):
    wanted = range(5, 5 + count)
    shares = [Shard(number, of).share(wanted, block) for number in range(of)]
    assert [index for share in shares for index in share] == list(wanted)
    for share in shares[1:]:  # no block is drawn by two
        assert len(share) == 0 or share.start % block == 0 or share.start == wanted.start


@pytest.mark.parametrize("word", ["3", "4/4", "a/b", "-1/3", "1/0", "0/64/2"])
def test_a_shard_that_cannot_be(word):
    with pytest.raises(ConfigError, match="NUMBER from 0"):
        parse_shard(word)


def test_shards_in_any_order_come_to_the_same_bytes(masks, whole, tmp_path):
    for number in (2, 0, 1):
        make(masks, tmp_path / "a", f"{number}/3")
    merged = merge_parts(tmp_path / "a", verify=True)
    assert (merged.items, merged.doubles) == (48, 0)
    assert hashes(tmp_path / "a") == hashes(whole)
    make(masks, tmp_path / "a")  # and a run like any other from then on
    assert hashes(tmp_path / "a") == hashes(whole)


def test_holes_are_told_with_the_shards_to_run_again(masks, whole, tmp_path):
    for number in (0, 2, 3):
        make(masks, tmp_path / "a", f"{number}/4")
    before = hashes(tmp_path / "a")
    with pytest.raises(DataError, match=r"12 of 48 items are missing; run these.*: 1/4$"):
        merge_parts(tmp_path / "a")
    assert hashes(tmp_path / "a") == before
    make(masks, tmp_path / "a", "1/4")
    merge_parts(tmp_path / "a")
    assert hashes(tmp_path / "a") == hashes(whole)


def test_a_row_that_stands_twice_counts_once_or_is_refused(masks, whole, tmp_path):
    for number in (0, 1):
        make(masks, tmp_path / "a", f"{number}/2")
    parts = sorted(path for path in (tmp_path / "a" / PARTS).iterdir() if path.is_dir())
    stray = read_rows(parts[1])[0]
    with (parts[0] / "manifest.jsonl").open("ab") as stream:
        stream.write(encode_row(stray))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert merge_parts(tmp_path / "a").doubles == 1
    assert hashes(tmp_path / "a") == hashes(whole)

    with (tmp_path / "b" / PARTS / parts[0].name / "manifest.jsonl").open("ab") as stream:
        stream.write(encode_row({**stray, "index": 3}))
    with pytest.raises(DataError, match="item 3 stands there twice and differs"):
        merge_parts(tmp_path / "b")


def test_a_damaged_file_is_found_when_asked_for(masks, tmp_path):
    make(masks, tmp_path / "a", "0/1")
    path = tmp_path / "a" / "images" / "fundus-000002-v01.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"1 files are missing or damaged.*000002-v01"):
        merge_parts(tmp_path / "a", verify=True)
    make(masks, tmp_path / "a", "0/1")
    assert merge_parts(tmp_path / "a", verify=True).items == 48


def test_other_cuts_and_runs_do_not_mix(masks, tmp_path):
    make(masks, tmp_path / "a", "0/3")
    with pytest.raises(ResumeError, match="shards 3"):
        make(masks, tmp_path / "a", "0/4")
    with pytest.raises(ResumeError, match="count 48"):
        make(masks, tmp_path / "a", "1/3", count=40)
    with pytest.raises(ResumeError, match="seed is 3 there and 4 here"):
        make(masks, tmp_path / "a", "1/3", seed=4)
    with pytest.raises(DataError, match="generate merge"):
        make(masks, tmp_path / "a")
    make(masks, tmp_path / "b")
    with pytest.raises(ResumeError, match="a whole run already"):
        make(masks, tmp_path / "b", "0/3")
    with pytest.raises(DataError, match="holds no shards"):
        merge_parts(tmp_path / "b")


def test_a_merge_that_was_killed_while_it_tidied_up_goes_on(masks, whole, tmp_path, monkeypatch):
    """Parts of which some are gone must not look like a run with holes, nor block the folder."""
    for number in (0, 1):
        make(masks, tmp_path / "a", f"{number}/2")
    remove = shutil.rmtree

    def remove_half(folder: Path, **_: object) -> None:
        for part in list(Path(folder).glob("*-of-*"))[:1]:
            remove(part)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", remove_half)
        merge_parts(tmp_path / "a")
    make(masks, tmp_path / "a")
    left = {k: v for k, v in hashes(tmp_path / "a").items() if not k.startswith(".univg-")}
    assert left == hashes(whole)


def test_shards_that_nobody_joined_are_no_set(masks, tmp_path):
    make(masks, tmp_path / "a", "0/2", count=4)
    folder = tmp_path / "a"
    for words in (
        ["export", folder, tmp_path / "out", "--to", "folder"],
        ["generate", "check", "--pairs", folder],
        ["generate", "images", "--masks", folder, "--out", tmp_path / "out"],
        ["generate", "one", "--manifest", folder, "--id", "fundus-000000"],
    ):
        before = hashes(tmp_path)
        assert main([str(word) for word in words]) == 2
        assert hashes(tmp_path) == before and not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="holds shards; join them by"):
        require_joined(folder)


@pytest.mark.parametrize("name", ["index", "sha256"])
def test_a_part_that_was_edited_is_named(name, masks, tmp_path):
    make(masks, tmp_path / "a", "0/1", count=2)
    part = tmp_path / "a" / PARTS / Shard(0, 1).name
    rows = [{k: v for k, v in row.items() if k != name} for row in read_rows(part)]
    (part / "manifest.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    with pytest.raises(DataError, match=r"00000-of-00001/manifest\.jsonl: a row is without"):
        merge_parts(tmp_path / "a", verify=True)
    assert not (tmp_path / "a" / "manifest.jsonl").exists()


def test_rows_come_into_order_even_where_nothing_is_left_to_make(masks, tmp_path):
    """As after a kill between the last pair of an earlier portion and the sorting of the rows."""
    make(masks, tmp_path / "a", count=4)
    before = hashes(tmp_path / "a")
    rows = read_rows(tmp_path / "a")
    shuffled = b"".join(encode_row(row) for row in [*rows[2:], *rows[:2]])
    (tmp_path / "a" / "manifest.jsonl").write_bytes(shuffled)
    make(masks, tmp_path / "a", count=4)
    assert hashes(tmp_path / "a") == before


class Blocks(Maker):
    """A maker that makes nothing: what tasks are cut by."""

    chunk = 3

    def __init__(self, block: int) -> None:
        self.block = block

    def identity(self) -> dict[str, object]:
        return {}

    def id_of(self, index: int) -> str:
        return str(index)

    def load(self, indices: object) -> object:
        return indices

    def draw(self, loaded: object) -> object:
        return loaded

    def finish(self, drawn: object) -> list[Made]:
        raise NotImplementedError


@pytest.mark.parametrize("block", [1, 4, 8])
@pytest.mark.parametrize("indices", [range(3, 21), [0, 1, 9, 10, 11, 30], [5], []])
def test_tasks_hold_each_index_once_and_no_block_is_parted(block, indices):
    for given in (indices, np.array(indices, np.int64)):
        tasks = Tasks(given, Blocks(block))
        assert [index for task in tasks for index in task] == list(indices)
        assert all(tasks) and len(list(tasks)) == len(tasks)
        if block == 1:
            assert all(len(task) <= 3 for task in tasks)
        else:
            numbers = [{index // block for index in task} for task in tasks]
            assert all(len(each) == 1 for each in numbers)
            assert len(set().union(*numbers)) == len(tasks)


def start(masks: Path, out: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-c", COMMAND, "generate", "images", "--masks", masks, "--out", out,
        "--seed", "3", "--workers", "1", "--variants", "6", *words,
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip


def test_shards_at_once_some_killed(masks, whole, tmp_path):
    """Four processes at work in one folder; two are killed and started again."""
    out = tmp_path / "a"
    running = {number: start(masks, out, "--shard", f"{number}/4") for number in range(4)}
    rng = random.Random(7)
    for number in (1, 3):
        part = out / PARTS / Shard(number, 4).name
        while running[number].poll() is None and not part.exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running[number].pid, signal.SIGKILL)
        running[number].communicate()
        running[number] = start(masks, out, "--shard", f"{number}/4")
    for process in running.values():
        _, said = process.communicate()
        assert process.returncode == 0, said
    merge_parts(out, verify=True)
    left = {k: v for k, v in hashes(out).items() if "/.univg-tmp-" not in k}
    assert left == hashes(whole)


def test_processes_of_a_launcher_share_a_run_and_join_it(masks, whole, tmp_path):
    """What `accelerate launch` and `torchrun` put into the environment is enough."""
    out = tmp_path / "a"
    running = [start(masks, out, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert hashes(out) == hashes(whole)


def test_a_launcher_started_again_changes_nothing(masks, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for _ in range(2):
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            make(masks, tmp_path / "a")
        assert hashes(tmp_path / "a") == hashes(whole)


@pytest.mark.parametrize("of", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_shards_with_failures_make_each_item_once(of, tmp_path):
    """A scheduler that loses jobs at random, starts some twice, and asks for a merge in between.

    The rows are those of a run; only the making of files is left out.
    """
    rng, count = random.Random(11), 5 * of
    wanted, done = range(count), dict.fromkeys(range(of), 0)
    rows: dict[int, list[int]] = {}
    queue = list(range(of)) + rng.choices(range(of), k=of // 20)
    failures = 0
    while queue:
        number = queue.pop(rng.randrange(len(queue)))
        share = Shard(number, of).share(wanted, 4)
        finished = rows.setdefault(number, [])
        todo = [index for index in share if index not in set(finished)]
        made = rng.randrange(len(todo) + 1) if rng.random() < 0.2 else len(todo)
        finished.extend(todo[:made])  # what the manifest of the part names
        if made < len(todo):
            failures += 1
            queue.append(number)
        else:
            done[number] += 1
    assert failures > of // 10 and max(done.values()) > 1
    folder = tmp_path / "run"
    (folder / PARTS).mkdir(parents=True)
    plan = {"first": 0, "count": count, "shards": of, "block": 4}
    (folder / PARTS / "plan.json").write_text(json.dumps(plan))
    for number, finished in rows.items():
        part = folder / PARTS / Shard(number, of).name
        part.mkdir()
        lines = [encode_row({"index": index, "sha256": ""}) for index in finished]
        (part / "manifest.jsonl").write_bytes(b"".join(lines))
    merged = merge_parts(folder)
    assert (merged.items, merged.doubles, merged.holes) == (count, 0, [])
    assert [row["index"] for row in read_rows(folder)] == list(wanted)
