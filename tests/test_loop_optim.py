"""Optimizers and schedules are those of the field, set as asked."""

from __future__ import annotations

import math

import pytest
import torch
from train_tasks import settings_for

from univg.errors import UserError
from univg.loop.optim import make_average, make_optimizer, make_schedule


@pytest.fixture
def weights():
    return [torch.nn.Parameter(torch.ones(3))]


def rates(tmp_path, weights, steps: int, **changed) -> list[float]:
    asked = settings_for(tmp_path, learning_rate=1.0, max_steps=steps, **changed)
    optimizer = make_optimizer(asked, weights)
    schedule = make_schedule(asked, optimizer)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_optimizers_by_name(tmp_path, weights):
    adam = make_optimizer(settings_for(tmp_path, optimizer="adam"), weights)
    assert type(adam) is torch.optim.Adam and adam.param_groups[0]["weight_decay"] == 0
    adamw = make_optimizer(settings_for(tmp_path, optimizer="adamw", weight_decay=0.2), weights)
    assert type(adamw) is torch.optim.AdamW and adamw.param_groups[0]["weight_decay"] == 0.2


def test_eight_bits_need_what_is_not_here(tmp_path, weights):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="take --optimizer adamw"):
        make_optimizer(settings_for(tmp_path, optimizer="adamw8bit"), weights)


def test_schedules_follow_their_formulas(tmp_path, weights):
    cosine = rates(tmp_path, weights, 20, schedule="cosine", warmup_steps=4)
    assert cosine[:4] == pytest.approx([0, 0.25, 0.5, 0.75])
    for step in range(4, 20):
        wanted = 0.5 * (1 + math.cos(math.pi * (step - 4) / 16))
        assert cosine[step] == pytest.approx(wanted)
    assert rates(tmp_path, weights, 5, schedule="constant", warmup_steps=0) == [1] * 5
    warm = rates(tmp_path, weights, 6, schedule="constant_with_warmup", warmup_steps=2)
    assert warm == pytest.approx([0, 0.5, 1, 1, 1, 1])
    linear = rates(tmp_path, weights, 5, schedule="linear", warmup_steps=0)
    assert linear == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_the_average_follows_the_weights(tmp_path, weights):
    assert make_average(settings_for(tmp_path, ema=0.0), weights) is None
    average = make_average(settings_for(tmp_path, ema=0.5), weights)
    with torch.no_grad():
        weights[0].fill_(3.0)
    for _ in range(40):
        average.step(weights)
    assert torch.allclose(average.shadow_params[0], torch.full((3,), 3.0), atol=1e-3)
