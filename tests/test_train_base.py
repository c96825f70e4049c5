"""`univg train base`: four parts that can be stopped, gone on with, and make a real pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from univg.config import check
from univg.errors import ResumeError
from univg.generate.procedural import render_pair
from univg.sd import load_base, load_control
from univg.train import nano
from univg.train.base import FOLDERS, TrainBase, plan, run, steps_of_vae
from univg.train.base_parts import all_words
from univg.train.vae_task import VaeLoss, edge_error

PAIRS = 3


def write_pairs(root: Path) -> Path:
    for modality in ("octa", "coronary"):
        for kind in ("images", "masks"):
            (root / modality / kind).mkdir(parents=True)
        for number in range(PAIRS):
            mask = np.zeros((256, 256), np.uint8)
            cv2.line(mask, (10, 20 + 60 * number), (250, 200 - 50 * number), 255, 5)
            image, visible = render_pair(mask > 0, modality, 0, number)
            cv2.imwrite(str(root / modality / "images" / f"{number}.png"), image)
            cv2.imwrite(
                str(root / modality / "masks" / f"{number}.png"), visible.astype(np.uint8) * 255
            )
    return root


def settings_of(tmp_path: Path, **changes: object) -> TrainBase:
    small = {
        "data": (tmp_path / "data",),
        "out": tmp_path / "run",
        "vae_steps": 2,
        "vae_batch": 2,
        "crop_px": 64,
        "unet_steps": 2,
        "unet_batch": 2,
        "control_steps": 2,
        "control_batch": 1,
        "decoder_steps": 2,
        "preview_every": 0,
        "precision": "no",
    }
    return check(TrainBase(**{**small, **changes}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("base")
    write_pairs(tmp_path / "data")
    folder = run(settings_of(tmp_path))
    return tmp_path, folder


def test_it_makes_a_base_that_loads_as_any_other(trained):
    _, folder = trained
    base = load_base(str(folder))
    assert base.native_px == nano.NATIVE_PX
    assert base.latent_channels == nano.LATENT_CHANNELS
    control = load_control(folder, base)
    assert any(torch.any(zero.weight != 0) for zero in control.controlnet_down_blocks)


def test_the_latents_are_scaled_to_unit_spread(trained):
    _, folder = trained
    base = load_base(str(folder))
    assert base.scaling != 0.18215  # SD 1.5's own, which fits its VAE alone
    assert base.shift == 0


def test_the_last_part_moves_the_decoder_alone(trained):
    tmp_path, folder = trained
    before = load_base(str(tmp_path / "run" / FOLDERS["unet"] / "base")).vae.state_dict()
    after = load_base(str(folder)).vae.state_dict()
    moved = {
        name
        for name, weight in after.items()
        if not torch.equal(weight.half(), before[name].half())
    }
    assert any(name.startswith("decoder.") for name in moved)
    assert not {name for name in moved if name.startswith(("encoder.", "quant_conv."))}


def test_a_second_run_trains_nothing_again(trained):
    tmp_path, _ = trained
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*/done.json")}
    assert len(done) == len(FOLDERS)
    run(settings_of(tmp_path))
    assert done == {path: path.stat().st_mtime_ns for path in done}


def test_other_settings_are_refused_in_its_folder(trained):
    tmp_path, _ = trained
    with pytest.raises(ResumeError, match="unet_steps"):
        run(settings_of(tmp_path, unet_steps=3))


def test_it_stops_where_asked(trained, tmp_path):
    source, _ = trained
    asked = settings_of(tmp_path, data=(source / "data",), until="vae")
    run(asked)
    assert (asked.out / FOLDERS["vae"] / "vae").is_dir()
    assert not (asked.out / FOLDERS["unet"]).exists()
    assert not (asked.out / "base").exists()


def test_the_plan_names_all_parts(tmp_path):
    text = plan(settings_of(tmp_path))
    assert all(word in text for word in ("autoencoder", "UNet", "ControlNet", "decoder"))


def test_words_of_prompts_are_single_tokens_and_all_else_can_be_spelt(tmp_path):
    tokenizer = nano.make_tokenizer(all_words(), tmp_path)
    assert tokenizer.tokenize("mask of coronary vessels") == [
        "mask</w>",
        "of</w>",
        "coronary</w>",
        "vessels</w>",
    ]
    spelt = tokenizer.tokenize("Zebrafish é")
    assert tokenizer.convert_tokens_to_string(spelt).replace(" ", "").startswith("zebrafish")
    known = set(tokenizer.get_vocab())
    assert set(spelt) <= known


def test_fresh_networks_follow_from_the_seed():
    first, again, other = (nano.make_unet(seed).conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_edge_error_sees_a_lost_line_and_not_a_shift_of_grey():
    picture = torch.zeros(1, 3, 32, 32)
    picture[..., 16, :] = 1
    assert edge_error(picture, picture + 0.3).item() == pytest.approx(0, abs=1e-6)
    assert edge_error(picture, torch.zeros_like(picture)).item() > 0.01


def test_the_loss_is_one_a_picture():
    loss = VaeLoss(nano.make_vae(0))
    batch = {"pixels": torch.zeros(2, 3, 64, 64), "noise": torch.zeros(2, 16, 8, 8)}
    assert loss(batch).shape == (2,)


def test_it_goes_on_from_a_finished_base(trained, tmp_path):
    source, folder = trained
    asked = settings_of(
        tmp_path, data=(source / "data",), start=str(folder), until="control", seed=5,
        vae_steps=None,
    )  # fmt: skip
    run(asked)
    before, after = load_base(str(folder)), load_base(str(asked.out / "base"))
    assert not (asked.out / FOLDERS["vae"]).exists()
    assert after.scaling == before.scaling
    weight = after.unet.conv_in.weight
    assert torch.allclose(weight, before.unet.conv_in.weight, atol=1e-3)
    assert not torch.allclose(weight, nano.make_unet(5).conv_in.weight, atol=1e-3)


def test_it_goes_on_with_the_autoencoder_where_asked(trained, tmp_path):
    source, folder = trained
    asked = settings_of(
        tmp_path, data=(source / "data",), start=str(folder), until="vae", learning_rate=1e-9
    )
    run(asked)
    before = load_base(str(folder), parts=("vae",)).vae.state_dict()
    after = AutoencoderKL.from_pretrained(asked.out / FOLDERS["vae"] / "vae").state_dict()
    for name, weight in after.items():  # from where it was: in half precision on disk
        assert torch.allclose(weight, before[name].float(), atol=2e-3)


def test_without_a_base_to_go_on_from_the_autoencoder_is_trained():
    asked = TrainBase(data=(Path("x"),), out=Path("y"))
    assert steps_of_vae(asked) == 7000
    assert steps_of_vae(dataclasses.replace(asked, start="nano")) == 0
    assert steps_of_vae(dataclasses.replace(asked, start="nano", vae_steps=5)) == 5
