"""The embedded base: small, whole, readable by the field's own tools, and it does what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from univg.agreement import cldice, measure_agreement
from univg.generate.procedural import render_pair
from univg.modalities import find_modality, modality_names
from univg.sca.compose import grow_mask
from univg.sca.params import growth_of
from univg.sd import decode_latents, encode_images, load_base, load_control
from univg.sd_source import EMBEDDED
from univg.seeds import rng_for
from univg.train.drawing import sample_pictures

FOLDER = EMBEDDED["nano"]
LARGEST_BYTES = 25_000_000


def grow(modality: str, number: int) -> np.ndarray:
    growth = growth_of(find_modality(modality))
    plain = dataclasses.replace(growth, stages=tuple(s for s in growth.stages if not s.layer))
    return grow_mask(plain, 256, 256, rng_for(99, "nano", number)).pixels > 0


@pytest.fixture(scope="module")
def nano():
    return load_base("nano")


def test_all_that_is_embedded_stays_small():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) < LARGEST_BYTES


def test_weights_are_safetensors_in_half_precision():
    files = sorted(FOLDER.rglob("*.safetensors"))
    assert {path.parent.name for path in files} == {"unet", "vae", "text_encoder", "controlnet"}
    for path in files:
        with safe_open(str(path), "pt") as weights:
            kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
        assert torch.float16 in kinds
        assert torch.float32 not in kinds
    assert not [p for p in FOLDER.rglob("*") if p.suffix in {".bin", ".ckpt", ".pt", ".pkl"}]


def test_it_has_a_model_card():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for words in ("license: apache-2.0", "## What went in", "## What it reaches"):
        assert words in card


def test_diffusers_loads_it_without_us():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        str(FOLDER), safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 256


def test_each_prompt_of_the_cards_is_known_word_by_word(nano):
    for name in modality_names():
        card = find_modality(name)
        for prompt in (card.mask_prompt, card.image_prompt):
            assert len(nano.tokenizer.tokenize(prompt)) == len(prompt.split())


@pytest.mark.parametrize("modality", ["coronary", "octa", "oct", "brain", "fundus"])
def test_thin_vessels_survive_the_autoencoder(nano, modality):
    masks = [grow(modality, number) for number in range(3)]
    pictures = np.repeat(np.stack(masks)[..., None].astype(np.uint8) * 255, 3, axis=3)
    back = decode_latents(nano, encode_images(nano, pictures)).mean(axis=3) > 127.5
    scores = [cldice(one, mask) for one, mask in zip(back, masks, strict=True)]
    assert np.mean(scores) > 0.93


def test_a_drawn_picture_depends_on_its_number_and_the_seed_alone(nano):
    prompts = ["mask of octa vessels"] * 3
    together = sample_pictures(nano, prompts, seed=4, steps=3, size_px=128)
    apart = sample_pictures(nano, prompts, seed=4, steps=3, size_px=128, batch=1)
    other = sample_pictures(nano, prompts[:1], seed=5, steps=3, size_px=128)
    for one, two in zip(together, apart, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 2
    assert np.abs(together[0].astype(int) - other[0]).mean() > 2


def test_masks_and_images_answer_to_their_prompts(nano):
    mask, image = sample_pictures(
        nano, ["mask of octa vessels", "fundus image"], seed=1, steps=8, size_px=256
    )
    assert np.mean(mask < 64) > 0.5
    red, blue = image[..., 0].mean(), image[..., 2].mean()
    assert red > blue + 30


def test_images_follow_their_masks(nano):
    control = load_control("nano", nano)
    masks = [grow("octa", number) for number in range(4)]
    drawn = sample_pictures(
        nano, ["octa image"] * 4, seed=0, steps=8, control=control, masks=masks, size_px=256
    )
    follows = measure_agreement(drawn, masks, polarity="bright")
    real = [render_pair(mask, "octa", 0, number)[0] for number, mask in enumerate(masks)]
    ceiling = measure_agreement(real, masks, polarity="bright")
    assert follows.chance is not None
    assert follows.cldice > follows.chance + 0.3 * (ceiling.cldice - follows.chance)


def test_the_control_net_changes_what_is_drawn(nano):
    control = load_control("nano", nano)
    options = {"seed": 0, "steps": 4, "control": control, "masks": [grow("octa", 0)]}
    with_it = sample_pictures(nano, ["octa image"], **options)[0].astype(int)
    without = sample_pictures(nano, ["octa image"], **options, strength=0.0)[0]
    plain = sample_pictures(nano, ["octa image"], seed=0, steps=4)[0]
    assert np.abs(with_it - without).mean() > 2
    assert np.abs(plain.astype(int) - without).max() <= 2


def test_the_folder_is_part_of_the_package():
    assert (Path(__file__).parent.parent / "univg" / "assets" / "nano").samefile(FOLDER)
