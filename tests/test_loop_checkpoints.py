"""Checkpoints are whole or absent, and give back what went in."""

from __future__ import annotations

import pytest
import torch

from univg.errors import ResumeError
from univg.loop.checkpoints import (
    State,
    flatten,
    list_checkpoints,
    load_newest,
    save_state,
    unflatten,
)


def state(step: int) -> State:
    tensors = {"a": torch.full((3, 2), float(step)), "b": torch.tensor([step], dtype=torch.uint8)}
    return State(step, tensors, {"note": "kept", "best": [None, float("inf")]})


def test_what_is_saved_comes_back(tmp_path):
    save_state(tmp_path, state(5), keep=2)
    found = load_newest(tmp_path)
    assert found.step == 5 and found.values == state(5).values
    assert found.tensors.keys() == {"a", "b"}
    assert all(found.tensors[k].equal(v) for k, v in state(5).tensors.items())
    assert found.tensors["b"].dtype == torch.uint8


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_state(tmp_path, state(step), keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000010"]


def test_what_a_killed_run_left_is_no_checkpoint(tmp_path):
    save_state(tmp_path, state(1), keep=2)
    (tmp_path / "checkpoints" / ".step-00000002.tmp").mkdir()
    assert load_newest(tmp_path).step == 1
    save_state(tmp_path, state(2), keep=2)
    assert load_newest(tmp_path).step == 2
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_no_folder_no_checkpoint(tmp_path):
    assert load_newest(tmp_path) is None


def test_nothing_but_damaged_ones_is_refused(tmp_path):
    (save_state(tmp_path, state(1), keep=2) / "state.json").write_text("{")
    with (
        pytest.warns(UserWarning, match="step-00000001: damaged"),
        pytest.raises(ResumeError, match="none of its 1 checkpoints can be read"),
    ):
        load_newest(tmp_path)


def test_a_tree_is_flattened_and_put_together_again():
    import json

    tree = {"x": torch.ones(2), 3: [1, None, {"y": torch.zeros(1)}], "t": (0.1, True, "word")}
    tensors, rest = flatten(tree, "s")
    back = unflatten(json.loads(json.dumps(rest)), tensors)
    assert set(tensors) == {"s/x", "s/3/2/y"}
    assert back["x"].equal(tree["x"]) and back[3][2]["y"].equal(torch.zeros(1))
    assert back[3][:2] == [1, None] and back["t"] == [0.1, True, "word"]
