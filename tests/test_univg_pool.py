"""Work over processes: results in order, few under way, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from univg.errors import DataError, UserError
from univg.pool import map_in_order

_prepared: list[str] = []


def prepare(word: str) -> None:
    _prepared.append(word)


def slow_square(number: int) -> tuple[int, int, int]:
    time.sleep(0.02 * (number % 3))  # so that later items are ready before earlier ones
    return number * number, os.getpid(), len(_prepared)


def refuse_three(number: int) -> int:
    if number == 3:
        raise DataError("three is refused")
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    _prepared.clear()
    made = list(map_in_order(slow_square, range(12), workers, prepare, ("x",)))
    assert [square for square, _, _ in made] == [k * k for k in range(12)]
    assert {count for _, _, count in made} == {1}  # prepared once in each process
    assert (os.getpid() in {pid for _, pid, _ in made}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_items(workers):
    assert list(map_in_order(slow_square, [], workers, prepare, ("x",))) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_arrives_after_the_results_before_it(workers):
    results = map_in_order(refuse_three, range(6), workers, prepare, ("x",))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three is refused"):
        next(results)


def test_few_items_are_under_way():
    taken = []

    def items():
        for k in range(1000):
            taken.append(k)
            yield k

    results = map_in_order(slow_square, items(), 2, prepare, ("x",))
    for _ in range(3):
        next(results)
    assert len(taken) < 12
    results.close()


PARENT = """
import sys, time, os
sys.path.insert(0, sys.argv[1])
import test_univg_pool as here
from univg.pool import map_in_order
if __name__ == "__main__":
    for made in map_in_order(here.slow_square, range(10**6), 2, here.prepare, ("x",)):
        print(made[1], flush=True)
"""


def processes_of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(state[3]) == session and state[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_leave_with_their_parent(tmp_path, ending):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(processes_of_session(parent.pid)) >= 3
        parent.send_signal(ending)
        parent.wait(timeout=30)
        deadline = time.monotonic() + 10
        while processes_of_session(parent.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_of_session(parent.pid) == []


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_worker_that_dies_is_told_in_one_line():
    with pytest.raises(UserError, match="a worker process died"):
        list(map_in_order(die, range(4), 2, prepare, ("word",)))
