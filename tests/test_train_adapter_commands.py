"""`univg adapter convert`, `merge` and `info`, and the files that they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from univg.config import parse
from univg.errors import ConfigError, DataError, ResumeError, UserError
from univg.sd import load_base
from univg.sd_adapter_files import dotted_path, read_adapter
from univg.sd_checkpoint import build_sd15_on_meta
from univg.testing import fill_weights, tiny_base
from univg.train.adapter_commands import (
    Convert,
    Info,
    Merge,
    inspect_adapter,
    parse_adapter,
    plan,
    run_convert,
    run_info,
    run_merge,
)
from univg.train.adapters import AdapterSpec, attach, load_adapter

LORA = AdapterSpec(kind="lora", dim=4, alpha=1, conv_dim=2, conv_alpha=6, targets="attention+conv")
LOHA = AdapterSpec(kind="loha", dim=4, alpha=2, conv_dim=2, conv_alpha=1, targets="all")


@pytest.fixture
def base(tmp_path):
    return tiny_base(tmp_path / "base")


def save_adapter(base, spec, path, seed=1):
    adapter = attach(base.unet, spec)
    adapter.detach()
    fill_weights(adapter, seed)
    adapter.save(path, base)
    return adapter


def unet_output(base):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return base.unet(x, torch.tensor([300]), torch.zeros(1, 77, 32)).sample


def test_every_kohya_name_of_sd15_has_its_path_back():
    models = build_sd15_on_meta()
    for path, module in models["unet"].named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert dotted_path("lora_unet_" + path.replace(".", "_")) == f"unet.{path}"
    for path, module in models["text_encoder"].named_modules():
        if isinstance(module, torch.nn.Linear):
            inner = f"text_model.{path.removeprefix('text_model.')}"
            name = "lora_te_" + inner.replace(".", "_")
            assert dotted_path(name) == f"text_encoder.{inner}"


def test_convert_there_and_back_is_exact(base, tmp_path):
    first, second, third = (tmp_path / f"{n}.safetensors" for n in "abc")
    save_adapter(base, LORA, first)
    run_convert(Convert(file=first, to="diffusers", out=second))
    assert all(key.startswith("unet.") for key in load_file(second))
    run_convert(Convert(file=second, to="kohya", out=third))
    ours, back = load_file(first), load_file(third)
    assert set(ours) == set(back)
    assert all(torch.equal(ours[key], back[key]) for key in ours)
    assert read_adapter(third).alphas == read_adapter(first).alphas
    assert read_adapter(third).metadata["univg_base_identity"] == base.identity
    assert read_adapter(third).metadata["ss_network_module"] == "networks.lora"


def test_convert_has_nothing_for_loha(base, tmp_path):
    save_adapter(base, LOHA, tmp_path / "a.safetensors")
    wanted = Convert(
        file=tmp_path / "a.safetensors", to="diffusers", out=tmp_path / "b.safetensors"
    )
    with pytest.raises(UserError, match=r"LoHa, which diffusers cannot load.*univg adapter merge"):
        run_convert(wanted)
    assert not wanted.out.exists()


def test_convert_replaces_nothing_unasked(base, tmp_path):
    save_adapter(base, LORA, tmp_path / "a.safetensors")
    same = {"file": tmp_path / "a.safetensors", "to": "kohya", "out": tmp_path / "a.safetensors"}
    with pytest.raises(ResumeError, match="is there already"):
        run_convert(Convert(**same))
    run_convert(Convert(**same, overwrite=True))
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        run_convert(Convert(**{**same, "out": tmp_path / "a.bin"}))


def test_merge_bakes_all_adapters_in(base, tmp_path):
    files = [tmp_path / "lora.safetensors", tmp_path / "loha.safetensors"]
    save_adapter(base, LORA, files[0], 1)
    save_adapter(base, LOHA, files[1], 2)
    words = (f"{files[0]}:1.2", str(files[1]))
    wanted = Merge(base=str(tmp_path / "base"), adapter=words, out=tmp_path / "out", half=False)
    assert "lora.safetensors at 1.2" in plan(wanted) and "loha.safetensors at 0.7" in plan(wanted)
    run_merge(wanted)
    merged = unet_output(load_base(str(tmp_path / "out")))
    load_adapter(files[0], base, 1.2)
    load_adapter(files[1], base)
    attached = unet_output(base)
    assert (merged - attached).abs().max() < 1e-3 * attached.abs().max()
    with pytest.raises(ResumeError, match="is there already"):
        run_merge(wanted)


def test_merge_refuses_another_bases_adapter(base, tmp_path):
    save_adapter(tiny_base(seed=5), LORA, tmp_path / "a.safetensors")
    words = {"base": str(tmp_path / "base"), "adapter": (str(tmp_path / "a.safetensors"),)}
    with pytest.raises(DataError, match="was made for base tiny"):
        run_merge(Merge(**words, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    run_merge(Merge(**words, out=tmp_path / "out", any_base=True))


def test_info_says_what_the_file_holds(base, tmp_path, capsys):
    save_adapter(base, LOHA, tmp_path / "a.safetensors")
    info = run_info(Info(file=tmp_path / "a.safetensors"))
    assert (info.kind, info.layout) == ("loha", "kohya")
    assert set(info.ranks) == {2, 4} and set(info.alphas) == {1.0, 2.0}
    assert info.base == f"base ({base.identity})"  # not the folders above it
    assert info.parameters == sum(
        w.numel() for k, w in load_file(tmp_path / "a.safetensors").items() if "hada" in k
    )
    text = capsys.readouterr().out
    assert re.search(r"kind +LoHa, kohya layout", text)
    assert "sample at 0.7 first" in text


def test_info_of_a_plain_file_has_no_base(tmp_path):
    name = "lora_unet_conv_in"
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, 4), f"{name}.lora_up.weight": torch.ones(4, 2)},
        tmp_path / "a.safetensors",
    )
    info = inspect_adapter(tmp_path / "a.safetensors")
    assert info.base == "not said"
    assert info.alphas == {2.0: 1}  # without alpha nothing is scaled


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 0.7)),
        ("a.safetensors:0", ("a.safetensors", 0.0)),
        ("d/a.safetensors:-1.5", ("d/a.safetensors", -1.5)),
        ("c:/a.safetensors", ("c:/a.safetensors", 0.7)),
    ],
)
def test_a_word_is_a_file_and_a_strength(word, expected):
    path, strength = parse_adapter(word)
    assert (path.as_posix(), strength) == expected


@pytest.mark.parametrize("word", ["a.safetensors:strong", "a.safetensors:nan"])
def test_a_strength_that_is_none_is_refused(word):
    with pytest.raises(ConfigError, match=r"write FILE:0\.7"):
        parse_adapter(word)


def test_the_command_lines_parse(tmp_path):
    words = ["--base", "nano", "--adapter", "a.safetensors:1", "b.safetensors", "--out", "o"]
    assert parse(Merge, words, "univg adapter merge").settings.adapter == (
        "a.safetensors:1",
        "b.safetensors",
    )
    again = ["--base", "nano", "--adapter", "a.safetensors:1", "--adapter", "b.safetensors"]
    assert parse(Merge, [*again, "--out", "o"], "x") == parse(Merge, words, "x")
    wanted = parse(Convert, ["a.safetensors", "--to", "kohya", "--out", "b"], "x").settings
    assert wanted.to == "kohya"
    with pytest.raises(ConfigError):
        parse(Merge, ["--base", "nano", "--out", "o"], "univg adapter merge")


def up_and_down(prefix):
    return {
        f"{prefix}.lora_down.weight": torch.ones(2, 4),
        f"{prefix}.lora_up.weight": torch.ones(4, 2),
    }


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_conv_in.lokr_w1": torch.ones(1)}, "does not read: LoKr"),
        (
            {**up_and_down("lora_unet_x"), "lora_unet_x.dora_scale": torch.ones(1)},
            "does not read: DoRA",
        ),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(2, 2)}, "not a whole LoRA"),
        (up_and_down("lora_te1_text_model_x"), "SDXL"),
        ({"model.diffusion_model.out.2.bias": torch.ones(1)}, "not a LoRA or LoHa"),
        ({"unet.conv_in.weight": torch.ones(1)}, "not a LoRA in diffusers layout"),
    ],
)
def test_other_files_are_refused_by_their_keys(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        read_adapter(tmp_path / "a.safetensors")
    assert str(caught.value).startswith(str(tmp_path / "a.safetensors"))
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "a.pt").write_bytes(b"PK")
    for name, message in (
        ("torn.safetensors", "not a whole safetensors file"),
        ("a.pt", "reads no pickles"),
        ("none.safetensors", "no such adapter file"),
    ):
        with pytest.raises(DataError, match=message):
            read_adapter(tmp_path / name)
