"""Damaged bases, misleading folders, full disks: one line each, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_shots import QUICK, write_shots

from univg import sd_source
from univg.errors import DataError
from univg.files import TEMPORARY_PREFIX, DiskFullError
from univg.loop.journal import Journal
from univg.sd import inspect_base, load_base, load_control, save_base, save_control
from univg.sd_engine import read_card
from univg.testing import tiny_base, tiny_control
from univg.train import adapt_masks
from univg.train.adapt_masks import AdaptMasks
from univg.train.latents import CacheWarning, PromptCache

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def tiny():
    return tiny_base()


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    save_base(tiny, tmp_path / "base", half=False)
    return tmp_path / "base"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_weight(path: Path) -> None:
    tensors = load_file(path)
    del tensors[max(tensors)]
    save_file(tensors, path, {"format": "pt"})


def spoil_a_weight(path: Path) -> None:
    tensors = load_file(path)
    tensors[max(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, path, {"format": "pt"})


# Bases and ControlNets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        (UNET, cut, "unet: cannot be loaded"),
        (TEXT, cut, "text_encoder: cannot be loaded"),
        (TEXT, lambda path: path.write_bytes(b""), "text_encoder: cannot be loaded"),
        ("text_encoder/config.json", lambda path: path.write_text("{"), "text_encoder: cannot be"),
        ("tokenizer/tokenizer.json", cut, "tokenizer: cannot be loaded"),
        ("scheduler/scheduler_config.json", lambda path: path.write_text("[]"), "JSON object"),
        ("scheduler/scheduler_config.json", lambda path: path.write_text("{}"), "beta_schedule"),
        (UNET, drop_a_weight, "unet: lacks weights"),
        (TEXT, drop_a_weight, "text_encoder: lacks weights"),
        (UNET, spoil_a_weight, "no numbers"),
        (TEXT, spoil_a_weight, "no numbers"),
    ],
)
def test_a_damaged_base_is_one_line(folder, name, spoil, words):
    spoil(folder / name)
    with pytest.raises(DataError, match=words) as caught:
        load_base(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", '{"sample_size": 8, "block_out_channels": 3}'])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_base_that_is_none_by_its_configs_is_one_line(folder, part, text):
    (folder / part / "config.json").write_text(text)
    with pytest.raises(DataError, match="by its config") as caught:
        inspect_base(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"in_channels": 9}, "inpainting"), ({"cross_attention_dim": 2048}, "SDXL")],
)
def test_a_base_of_another_kind_is_named(folder, changed, words):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(DataError, match=words) as caught:
        inspect_base(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(cut, "cannot be loaded"), (drop_a_weight, "lacks weights"), (spoil_a_weight, "no numbers")],
)
def test_a_damaged_control_net_is_one_line(tiny, tmp_path, spoil, words):
    save_control(tiny_control(tiny), tmp_path / "control", half=False)
    spoil(tmp_path / "control" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(DataError, match=words) as caught:
        load_control(tmp_path / "control", tiny)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


# Disks ----------------------------------------------------------------------------------------


def test_a_disk_that_fills_while_weights_are_written_is_one_line(tiny, tmp_path):
    """The writer of safetensors tells it in an error of its own kind."""
    save_control(tiny_control(tiny, seed=1), tmp_path / "control", half=False)
    weights = tmp_path / "control" / "diffusion_pytorch_model.safetensors"
    before, limits = weights.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(DiskFullError, match="no space left") as caught:
            save_control(tiny_control(tiny, seed=2), tmp_path / "control", half=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert weights.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["control"]


def test_a_disk_that_fills_under_the_tracker_is_one_line(tmp_path):
    def log(figures, step):
        raise OSError(errno.ENOSPC, "No space left on device")

    accelerator: Any = SimpleNamespace(is_main_process=True, trackers=[], log=log)
    journal = Journal(accelerator, tmp_path, "none", 0)
    journal.tracks = True
    with pytest.raises(DiskFullError, match="no space left"):
        journal.write(1, {"loss": 1.0})
    journal.close()


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tiny, tmp_path):
    """In a container, each run may have the same process number."""
    for number in range(200):
        (tmp_path / f"{TEMPORARY_PREFIX}{os.getpid()}-{number}").mkdir()
    save_control(tiny_control(tiny), tmp_path / "control")
    assert load_control(tmp_path / "control", tiny)


# Names ----------------------------------------------------------------------------------------


def test_folders_that_are_called_like_a_base_or_a_modality_mislead_nobody(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setitem(sd_source.EMBEDDED, "nano", tmp_path / "embedded")
    save_base(tiny, tmp_path / "embedded")
    shots = write_shots(tmp_path / "shots")
    for name in ("nano", "octa"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    quick = {**QUICK, "max_steps": 1, "validate_every": 0}
    out = tmp_path / "out"
    adapt_masks.run(AdaptMasks(base="nano", modality="octa", shots=shots, out=out, **quick))
    card = read_card(out, "masks")
    assert (card.base, card.modality) == ("nano", "octa")


def test_a_card_of_ones_own_is_remembered_by_its_place(tiny, folder, tmp_path, monkeypatch):
    from univg.modalities import CARD_FOLDER

    shutil.copy(CARD_FOLDER / "octa.yaml", tmp_path / "mine.yaml")
    shots = write_shots(tmp_path / "shots")
    monkeypatch.chdir(tmp_path)
    quick = {**QUICK, "max_steps": 1, "validate_every": 0, "base": "base", "out": Path("out")}
    adapt_masks.run(AdaptMasks(modality="mine.yaml", shots=shots, **quick))
    stored = json.loads((tmp_path / "out" / "engine.json").read_text())
    assert stored["modality"] == str(tmp_path / "mine.yaml")
    assert stored["base"] == str(folder)


# Prompts --------------------------------------------------------------------------------------


def test_a_prompt_that_is_cut_is_told(tiny, tmp_path):
    with pytest.warns(CacheWarning, match=r"'vessels vessels .* tokens long, and only 77 count"):
        PromptCache(tmp_path).embed(tiny, ["vessels " * 30])
