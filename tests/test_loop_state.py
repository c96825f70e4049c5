"""What a run remembers lies in memory as it did before: fused steps walk through memory."""

from __future__ import annotations

import copy

import pytest
import torch

from univg.loop.state import lay_like_weights


def take_step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(inputs).square().mean().backward()
    optimizer.step()


def make_optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=1e-2, fused=True)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_resumed_optimizer_goes_on_exactly_in_any_layout(layout):
    torch.manual_seed(0)
    straight = torch.nn.Conv2d(4, 6, 3).to(memory_format=layout)
    resumed = copy.deepcopy(straight)
    first = make_optimizer(straight)
    take_step(straight, first, 1)
    kept = copy.deepcopy(first.state_dict())
    for state in kept["state"].values():  # as they come back from a checkpoint
        state.update({k: v.contiguous() for k, v in state.items() if torch.is_tensor(v)})
    weights = copy.deepcopy(straight.state_dict())
    take_step(straight, first, 2)

    resumed.load_state_dict(weights)
    second = make_optimizer(resumed)
    second.load_state_dict(kept)
    lay_like_weights(second)
    take_step(resumed, second, 2)
    for one, two in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
