"""What each engine trains, holds out and asks the base for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_shots import QUICK, write_shots

from univg.errors import UserError
from univg.loop.memory import Memory, fit_micro_batch, is_out_of_memory
from univg.sd import load_base, load_control, make_control, quiet
from univg.sd_checkpoint import build_sd15_on_meta
from univg.testing import tiny_base
from univg.train import adapt_images
from univg.train.adapt_images import AdaptImages
from univg.train.adapter_commands import parse_adapter
from univg.train.diffusion import CHECK_TIMES, DenoisingLoss, NoiseOptions, NoiseSchedule
from univg.train.engine_task import EngineTask, control_of
from univg.train.latents import LatentCache
from univg.train.pictures import list_pictures_of, load_mask, turn


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("engines")
    tiny_base(place / "base")
    write_shots(place / "shots")
    return place


def adapt(place, out: Path, **changed):
    values = {**QUICK, "base": str(place / "base"), "shots": place / "shots", **changed}
    return adapt_images.run(AdaptImages(out=out, **values))


def weights_differ(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return any(not a.equal(b) for a, b in pairs)


def test_the_unet_is_locked_unless_it_is_unlocked(place, tmp_path):
    base = load_base(str(place / "base"))
    adapt(place, tmp_path / "locked", learning_rate=0.01)
    assert not (tmp_path / "locked" / "base").exists()
    control = load_control(tmp_path / "locked" / "controlnet", base)
    assert any(bool(weight.any()) for weight in control.controlnet_mid_block.parameters())

    adapt(place, tmp_path / "open", learning_rate=0.01, unet="free")
    opened = load_base(str(tmp_path / "open" / "base"))
    assert weights_differ(opened.unet, base.unet)
    assert not weights_differ(opened.vae, base.vae)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_diffusers_draws_with_the_control_net_without_us(place, tmp_path):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    adapt(place, tmp_path, learning_rate=0.01, max_steps=2)
    with quiet():
        control = ControlNetModel.from_pretrained(tmp_path / "controlnet", local_files_only=True)
        pipeline = StableDiffusionControlNetPipeline.from_pretrained(
            place / "base", controlnet=control, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    drawn = [
        pipeline(
            "vessels", image=torch.ones(1, 3, 64, 64), num_inference_steps=1, output_type="np",
            controlnet_conditioning_scale=scale, generator=torch.Generator().manual_seed(1),
        ).images
        for scale in (0.0, 1.0)
    ]  # fmt: skip
    assert drawn[0].shape == (1, 64, 64, 3)
    assert abs(drawn[0] - drawn[1]).max() > 0


def test_training_goes_on_from_a_control_net(place, tmp_path):
    adapt(place, tmp_path / "first", learning_rate=0.01)
    start = tmp_path / "first" / "controlnet"
    adapt(place, tmp_path / "second", from_=str(start), learning_rate=1e-9, max_steps=1)
    base = load_base(str(place / "base"))
    first, second = load_control(start, base), load_control(tmp_path / "second/controlnet", base)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_control_net_fits_sd15():
    """At its real size, without its memory."""
    unet = build_sd15_on_meta()["unet"]
    control = make_control(unet)
    with torch.device("meta"):
        x, time, words = torch.randn(1, 4, 64, 64), torch.tensor([1]), torch.randn(1, 77, 768)
        mask = torch.ones(1, 3, 512, 512)
        down, middle = control(x, time, words, mask, return_dict=False)
        out = unet(
            x,
            time,
            words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
    assert len(down) == 12 and out.is_meta and out.shape == x.shape


@pytest.fixture
def task(place, tmp_path):
    base = load_base(str(place / "base"))
    pictures = list_pictures_of([place / "shots"], "image", default="vessels")
    cache = LatentCache(tmp_path / "cache", base, size_px=64, fit="stretch")
    cache.prepare(pictures, range(8))
    schedule = NoiseSchedule(base.scheduler, NoiseOptions())
    text = {prompt: torch.full((2, 3), float(len(prompt))) for prompt in ("vessels", "")}
    module = DenoisingLoss(base.unet, schedule, control=torch.nn.Identity())
    return EngineTask(
        "engine", module, cache, text, [pictures[:3]], held_out=pictures[3:], turns=range(8)
    )


def test_a_sample_follows_from_its_generator_and_turns_with_its_mask(task):
    import numpy as np

    seen = set()
    for seed in range(40):
        item = seed % task.items
        first, again = (task.load(item, np.random.default_rng(seed)) for _ in range(2))
        assert all(first[name].equal(again[name]) for name in first)
        mask = load_mask(task.picture_of(item).mask_path, 64, "stretch")
        turned = [k for k in range(8) if control_of(turn(mask, k)).equal(first["control"])]
        assert len(turned) == 1
        mean, std = task.cache.get(task.picture_of(item), turned[0])
        plain = task.cache.sample(mean, std, torch.zeros_like(mean))
        far = (first["latent"] - plain).abs() / (std * task.cache.base.scaling + 1e-9)
        assert float(far.max()) < 6
        seen.add(turned[0])
    assert len(seen) == 8


def test_prompts_are_left_empty_now_and_then(task):
    import numpy as np

    empty = [
        float(task.load(0, np.random.default_rng(seed))["text"].max()) == 0 for seed in range(300)
    ]
    assert 0.05 < np.mean(empty) < 0.16


def test_checks_are_the_same_each_time_and_of_pictures_held_out(task):
    assert task.checks == 2 * len(CHECK_TIMES) and task.is_held_out
    for number in range(task.checks):
        first, again = task.load_check(number), task.load_check(number)
        assert all(first[name].equal(again[name]) for name in first)
    assert task.name_items([0, 4])[0].endswith("shot-0.png")


def test_adapter_words():
    assert parse_adapter("a.safetensors", strength=1.0) == (Path("a.safetensors"), 1.0)
    assert parse_adapter("a.safetensors:0.7", strength=1.0) == (Path("a.safetensors"), 0.7)
    assert parse_adapter("c:/a.safetensors", strength=1.0) == (Path("c:/a.safetensors"), 1.0)


# Memory ---------------------------------------------------------------------------------------


def test_a_real_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("count", "most", "wanted"), [(8, 8, 8), (8, 3, 2), (7, 1, 1), (5, 3, 3)])
def test_the_micro_batch_is_halved_until_it_fits(count, most, wanted):
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError("no")

    assert fit_micro_batch(attempt, count, Memory("memory")) == wanted == tried[-1]


def test_other_errors_are_not_swallowed():
    def attempt(size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit_micro_batch(attempt, 4, Memory("memory"))

    def never(size: int) -> None:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(UserError, match="out of GPU memory with one sample"):
        fit_micro_batch(never, 4, Memory("GPU memory"))


def test_masks_are_decoded_once(task):
    import numpy as np

    for seed in range(60):
        task.load(seed % task.items, np.random.default_rng(seed))
    seen = task.read_control.cache_info()
    assert seen.misses <= 3 * 8 and seen.hits == 60 - seen.misses
    assert seen.maxsize == 256


def test_what_a_killed_run_left_goes(place, tmp_path):
    (tmp_path / ".univg-tmp-abc-1-0").write_bytes(b"half a file")
    (tmp_path / ".univg-tmp-abc-1-1").mkdir()
    adapt(place, tmp_path, max_steps=1)
    assert not list(tmp_path.glob(".univg-tmp-*"))
    assert (tmp_path / "controlnet").is_dir()
