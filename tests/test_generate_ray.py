"""A run on a local Ray cluster; a worker is killed in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from univg.config import from_plain
from univg.errors import DataError
from univg.generate import images
from univg.generate.images import Images
from univg.generate.ray_workers import _Crew
from univg.run_folder import Written
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own; ours are asserted


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("masks")
    synthesize(Synth(out=out, count=6, size=(48, 64), seed=5, workers=1))
    return out


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def make(masks: Path, out: Path, **changes: object) -> None:
    values = {"masks": masks, "out": out, "seed": 3, "workers": 2, "variants": 40, **changes}
    images.run(from_plain(Images, values))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kill_a_worker(out: Path, killed: list[int]) -> None:
    """Wait until pairs are written, then kill -9 one of the processes that write them."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if (out / "manifest.jsonl").exists() and (out / "manifest.jsonl").stat().st_size:
            break
        time.sleep(0.005)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_Actor"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
                return


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_lost_worker_changes_no_byte(masks, cluster, tmp_path):
    make(masks, tmp_path / "one", workers=1)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "two", killed))
    killer.start()
    with pytest.warns(UserWarning, match="a Ray worker was lost"):
        make(masks, tmp_path / "two", engine="ray")
    killer.join()
    assert len(killed) == 1
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


class Lost(Exception):
    """A worker that is gone."""


class FakeCluster:
    """Ray as far as a crew uses it: the first worker is slow, and lost in the end."""

    exceptions = SimpleNamespace(RayActorError=Lost, RayTaskError=ZeroDivisionError)

    def remote(self, **_: object) -> object:
        return lambda kind: SimpleNamespace(remote=self.hire)

    def hire(self, *_: object) -> object:
        self.hired = getattr(self, "hired", 0) + 1
        slow = self.hired == 2  # the one at the end of the row goes to work first
        return SimpleNamespace(make=SimpleNamespace(remote=lambda task: (slow, tuple(task))))

    def wait(self, running: list[object], num_returns: int) -> tuple[list[object], list[object]]:
        assert running and num_returns == 1
        return sorted(running)[:1], []  # the slow one is ready last

    def get(self, ready: tuple[bool, tuple[int, ...]]) -> Written:
        slow, task = ready
        if slow:
            raise Lost
        return Written([{"index": index} for index in task])


def test_a_worker_lost_with_others_far_ahead_does_not_stop_the_run():
    """What is done waits for the lost task; that must not keep it from being given away."""
    crew = _Crew(SimpleNamespace(ray=FakeCluster(), gpus=0.0), None, "", 2)
    with pytest.warns(UserWarning, match="a Ray worker was lost"):
        found = [row["index"] for written in crew.work([[k] for k in range(30)])
                 for row in written.rows]  # fmt: skip
    assert found == list(range(30))


def test_what_a_worker_refuses_is_told_in_one_line(masks, cluster, tmp_path):
    import shutil

    shutil.copytree(masks, tmp_path / "m")
    path = tmp_path / "m" / "masks" / "fundus-000003.png"
    path.write_bytes((masks / "masks" / "fundus-000002.png").read_bytes())
    with pytest.raises(DataError, match=r"fundus-000003\.png: has changed since"):
        make(tmp_path / "m", tmp_path / "a", engine="ray", variants=1)
