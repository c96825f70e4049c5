"""Bases: saving, loading, refusing; the names that lead to them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sd_layouts import same

from univg import sd_source
from univg.errors import DataError, UserError
from univg.sd import (
    embed_prompts,
    identify,
    inspect_base,
    load_base,
    load_control,
    save_base,
    save_control,
)
from univg.sd_source import find_base
from univg.testing import tiny_base, tiny_control


@pytest.fixture(scope="module")
def tiny():
    return tiny_base()


@pytest.fixture
def folder(tiny, tmp_path):
    save_base(tiny, tmp_path / "base", half=False)
    return tmp_path / "base"


# --- folders --------------------------------------------------------------------------------


def test_save_and_load_are_exact(tiny, folder):
    loaded = load_base(str(folder))
    for part in ("unet", "vae", "text_encoder"):
        assert same(getattr(loaded, part), getattr(tiny, part))
    assert embed_prompts(loaded, ["oct"]).equal(embed_prompts(tiny, ["oct"]))
    stored = {k: v for k, v in loaded.scheduler.config.items() if not k.startswith("_")}
    assert stored.items() <= dict(tiny.scheduler.config).items()
    assert loaded.identity == tiny.identity
    assert not any(p.requires_grad for p in loaded.unet.parameters())


def test_half_precision_keeps_the_identity(tiny, tmp_path):
    save_base(tiny, tmp_path / "half")
    stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    loaded = load_base(str(tmp_path / "half"))
    assert loaded.dtype == torch.float32
    assert loaded.identity == tiny.identity
    assert load_base(str(tmp_path / "half"), precision="bf16").dtype == torch.bfloat16
    assert load_base(str(tmp_path / "half"), precision="bf16").identity == tiny.identity


def test_the_identity_sees_one_changed_module(tiny):
    other = tiny_base()
    assert identify(other.unet) == tiny.identity
    with torch.no_grad():
        other.unet.mid_block.attentions[0].proj_in.weight.add_(0.01)
    assert identify(other.unet) != tiny.identity


def test_the_identity_of_large_tensors_stays_inside_them():
    """Places counted in fp32 would round past the end here, as in SD 1.5's tensors."""
    large = torch.nn.ParameterList([torch.zeros(2**24 + 4, dtype=torch.half)])
    before = identify(large)
    with torch.no_grad():
        large[0][-1] = 1
    assert identify(large) != before


def test_only_the_parts_asked_for_are_loaded(folder):
    base = load_base(str(folder), parts=("vae",))
    assert base.vae is not None and base.unet is None and base.text_encoder is None
    assert base.latent_channels == 4


def test_save_replaces_a_base_and_nothing_else(tiny, folder, tmp_path):
    other = tiny_base(seed=4)
    save_base(other, folder, half=False)
    assert load_base(str(folder)).identity == other.identity
    assert [p.name for p in tmp_path.iterdir()] == ["base"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        save_base(tiny, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_save_that_fails_leaves_the_old_base(tiny, folder, monkeypatch):
    from univg import sd_save

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sd_save, "_save_text_encoder", fail)
    with pytest.raises(UserError, match="no space left"):
        save_base(tiny_base(seed=4), folder)
    assert load_base(str(folder)).identity == tiny.identity
    assert [p.name for p in folder.parent.iterdir()] == ["base"]


def test_older_readers_find_what_they_ask_for(folder):
    """transformers 4 wants `text_model.` before the keys, and vocab.json with merges.txt."""
    assert all(
        k.startswith("text_model.") for k in load_file(folder / "text_encoder/model.safetensors")
    )
    assert (folder / "tokenizer/vocab.json").is_file()
    assert (folder / "tokenizer/merges.txt").is_file()


def test_a_saved_base_does_not_say_where_it_came_from(tiny, folder, tmp_path):
    base = load_base(str(folder))
    save_base(base, tmp_path / "again")
    save_control(tiny_control(tiny), tmp_path / "one")
    save_control(load_control(tmp_path / "one", base), tmp_path / "two")
    for path in (*(tmp_path / "again").rglob("*.json"), *(tmp_path / "two").rglob("*.json")):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path


def test_inspect_reads_no_weights(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"not weights")
    info = inspect_base(str(folder))
    assert (info.native_px, info.latent_channels, info.prediction_type) == (64, 4, "epsilon")
    assert info.parameters == {"unet": 18464, "vae": 14291, "text_encoder": 36064}


def test_a_folder_that_was_downloaded_as_fp16_loads(tiny, folder):
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert same(load_base(str(folder)).unet, tiny.unet)


def test_a_scheduler_of_another_class_becomes_ddim(folder):
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    config.update(_class_name="PNDMScheduler", skip_prk_steps=True, prediction_type="v_prediction")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    scheduler = load_base(str(folder)).scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds no model_index.json"),
        (
            lambda f: [shutil.rmtree(f / part) for part in ("vae", "tokenizer")],
            "vae/, tokenizer/ missing",
        ),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(
                f / "unet/diffusion_pytorch_model.bin"
            ),
            r"only pickled weights \(\.bin\)",
        ),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "vae/config.json").unlink(), "no config.json"),
        (lambda f: (f / "unet/config.json").write_text("{"), "cannot be loaded"),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            "cannot be loaded",
        ),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "cannot be read"),
        (
            lambda f: [p.unlink() for p in (f / "tokenizer").iterdir()],
            "knows 2 words, the text encoder 514",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_base(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- names ------------------------------------------------------------------------------------


def test_an_absent_embedded_base_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sd_source.EMBEDDED, "nano", tmp_path / "nano")
    with pytest.raises(UserError, match="holds no embedded base"):
        load_base("nano")


def test_the_embedded_base_loads_by_its_name(monkeypatch, tiny, tmp_path):
    monkeypatch.setitem(sd_source.EMBEDDED, "nano", tmp_path / "nano")
    save_base(tiny, tmp_path / "nano")
    save_control(tiny_control(tiny), tmp_path / "nano" / "controlnet")
    base = load_base("nano")
    assert (base.name, base.identity, base.dtype) == ("nano", tiny.identity, torch.float32)
    assert load_control("nano", base).dtype == torch.float32


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match="pickled checkpoint"):
        find_base(str(tmp_path / f"model{suffix}"))


@pytest.mark.parametrize("name", ["nothing", "./no/folder", "a/b/c", "x.safetensors"])
def test_a_name_that_leads_nowhere_is_told_what_a_base_is(name):
    with pytest.raises(UserError, match="a base is nano"):
        find_base(name)


@pytest.mark.parametrize("offline", ["1", "0"])
def test_the_hub_is_only_asked_for_its_ids_and_its_absence_explained(
    monkeypatch, tmp_path, offline
):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def refuse(name, local_files_only=False, **_):
        asked.append(local_files_only)
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", refuse)  # the network is not ours to use
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match="run `hf download owner/model` beforehand") as caught:
        load_base("owner/model")
    assert "\n" not in str(caught.value)
    assert asked == ([True] if offline == "1" else [True, False])
