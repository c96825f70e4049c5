"""The loss agrees with diffusers' own functions, for each thing a UNet may predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr

from univg.testing import SCHEDULER_CONFIG, tiny_base, tiny_control
from univg.train.diffusion import CHECK_TIMES, DenoisingLoss, NoiseOptions, NoiseSchedule

KINDS = ("epsilon", "v_prediction", "sample")
SHAPE = (4, 8, 8)


def scheduler(kind: str = "epsilon", **changed) -> DDIMScheduler:
    return DDIMScheduler(**{**SCHEDULER_CONFIG, "prediction_type": kind, **changed})


def batch_of(schedule: NoiseSchedule, count: int = 6) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    drawn = [schedule.draw(rng, SHAPE) for _ in range(count)]
    batch = {key: torch.stack([each[key] for each in drawn]) for key in drawn[0]}
    batch["latent"] = torch.from_numpy(rng.standard_normal((count, *SHAPE), dtype=np.float32))
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_target_are_those_of_the_scheduler(kind):
    theirs = scheduler(kind)
    ours = NoiseSchedule(theirs, NoiseOptions())
    batch = batch_of(ours)
    noise, times = batch["noise"], batch["timestep"]
    noisy = theirs.add_noise(batch["latent"], noise, times)
    torch.testing.assert_close(ours.add_noise(batch["latent"], batch), noisy)
    wanted = {
        "epsilon": noise,
        "v_prediction": theirs.get_velocity(batch["latent"], noise, times),
        "sample": batch["latent"],
    }[kind]
    torch.testing.assert_close(ours.target(batch["latent"], batch), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weights_follow_the_paper(kind):
    theirs = scheduler(kind)
    ours = NoiseSchedule(theirs, NoiseOptions(min_snr=5.0))
    times = torch.tensor([0, 1, 50, 400, 700, 999])
    snr = compute_snr(theirs, times)
    capped = torch.minimum(snr, torch.tensor(5.0))
    wanted = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[kind]
    torch.testing.assert_close(ours.weight({"timestep": times}), wanted)
    plain = NoiseSchedule(theirs, NoiseOptions())
    assert plain.weight({"timestep": times}).tolist() == [1.0] * 6


def test_zero_terminal_snr_is_the_rescaled_schedule():
    # The function stands beside each scheduler; `training_utils` has none of its own everywhere.
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    theirs = scheduler("v_prediction")
    ours = NoiseSchedule(theirs, NoiseOptions(zero_terminal_snr=True))
    wanted = torch.cumprod(1 - rescale_zero_terminal_snr(theirs.betas), dim=0)
    torch.testing.assert_close(ours.alphas, wanted)
    assert float(ours.alphas[-1]) == 0 < float(theirs.alphas_cumprod[-1])
    batch = batch_of(ours) | {"timestep": torch.full((6,), 999)}
    assert torch.equal(ours.add_noise(batch["latent"], batch), batch["noise"])
    weighted = NoiseSchedule(theirs, NoiseOptions(min_snr=5.0, zero_terminal_snr=True))
    assert torch.isfinite(weighted.weight({"timestep": torch.arange(1000)})).all()
    copied = DDIMScheduler.from_config(ours.sampler.config)  # as pipelines do
    assert copied.config.timestep_spacing == "trailing"
    torch.testing.assert_close(copied.alphas_cumprod, ours.alphas)


def test_noise_offset_moves_whole_channels():
    schedule = NoiseSchedule(scheduler(), NoiseOptions(offset=0.5))
    shape = (4, 64, 64)
    drawn = [schedule.draw(np.random.default_rng(k), shape)["noise"] for k in range(200)]
    means = torch.stack([noise.mean(dim=(1, 2)) for noise in drawn])
    assert float(means.std()) == pytest.approx(0.5, abs=0.05)
    inside = torch.stack([noise.std(dim=(1, 2)) for noise in drawn])
    assert float(inside.mean()) == pytest.approx(1.0, abs=0.01)


def test_checks_look_at_fixed_times():
    schedule = NoiseSchedule(scheduler(), NoiseOptions())
    rng = np.random.default_rng(0)
    times = [int(schedule.draw_check(k, rng, SHAPE)["timestep"]) for k in range(len(CHECK_TIMES))]
    assert times == [100, 300, 500, 699, 899]


def test_times_are_drawn_from_the_whole_schedule():
    schedule, rng = NoiseSchedule(scheduler(), NoiseOptions()), np.random.default_rng(0)
    times = [int(schedule.draw(rng, (1, 1, 1))["timestep"]) for _ in range(4000)]
    assert min(times) < 5 and max(times) > 994
    assert np.mean(times) == pytest.approx(499.5, abs=20)


def test_the_loss_is_the_mean_square_a_sample_alone_as_in_a_batch():
    base = tiny_base()
    module = DenoisingLoss(base.unet, NoiseSchedule(base.scheduler, NoiseOptions()))
    batch = batch_of(module.schedule, 3)
    batch["text"] = torch.randn(3, 77, 32, generator=torch.Generator().manual_seed(0))
    noisy = base.scheduler.add_noise(batch["latent"], batch["noise"], batch["timestep"])
    with torch.no_grad():
        found = base.unet(noisy, batch["timestep"], encoder_hidden_states=batch["text"]).sample
        wanted = (found - batch["noise"]).pow(2).mean(dim=(1, 2, 3))
        torch.testing.assert_close(module(batch), wanted)
        for k in range(3):
            alone = module({key: value[k : k + 1] for key, value in batch.items()})
            torch.testing.assert_close(alone, wanted[k : k + 1])


def test_a_fresh_control_net_leaves_the_loss_as_it_is():
    base = tiny_base()
    schedule = NoiseSchedule(base.scheduler, NoiseOptions())
    batch = batch_of(schedule, 2)
    batch["text"], batch["control"] = torch.zeros(2, 77, 32), torch.ones(2, 3, 64, 64)
    with torch.no_grad():
        plain = DenoisingLoss(base.unet, schedule)(batch)
        steered = DenoisingLoss(base.unet, schedule, control=tiny_control(base))(batch)
    assert torch.equal(plain, steered)


def test_with_a_vessel_weight_errors_on_vessels_count_more_and_the_mean_weight_is_one():
    base = tiny_base()
    schedule = NoiseSchedule(base.scheduler, NoiseOptions())
    batch = batch_of(schedule, 2)
    batch["text"] = torch.zeros(2, 77, 32)
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    mask[:, :, 20] = 1
    batch["control"] = mask
    control = tiny_control(base)
    module = DenoisingLoss(base.unet, schedule, control=control, vessel_weight=4.0)
    weight = module._weigh(mask, batch["latent"])
    assert weight.shape == (2, 1, *batch["latent"].shape[-2:])
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.ones(2))
    rows = weight[0, 0, :, 0].unique()
    assert len(rows) == 2 and float(rows.max() / rows.min()) == pytest.approx(5)
    plain = DenoisingLoss(base.unet, schedule, control=control)
    with torch.no_grad():
        assert not torch.equal(module(batch), plain(batch))
        batch["control"] = torch.ones_like(mask)  # everywhere the same: as without
        torch.testing.assert_close(module(batch), plain(batch))
