"""LoHas inside the module that they change: one operation, their sum; off without a trace."""

from __future__ import annotations

import pytest
import torch

from univg.sd_adapter import Adapter
from univg.sd_adapter_parts import LohaPart
from univg.testing import fill_weights


def close(a, b, tolerance=2e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def ride(kind, count):
    """Return a module under a root, its LoHas, attached, and an input."""
    generator = torch.Generator().manual_seed(count)
    conv = kind == "conv"
    module = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1) if conv else torch.nn.Linear(8, 6)
    root = torch.nn.Module()
    root.conv_in = module
    fill_weights(root, 1)
    columns = module.weight[0].numel()
    shapes = {"hada_w1_a": (6, 2), "hada_w1_b": (2, columns)}
    shapes |= {"hada_w2_a": (6, 2), "hada_w2_b": (2, columns)}
    adapters = []
    for strength in (1.0, 0.7, 0.0)[:count]:
        factors = {n: torch.randn(s, generator=generator) / 4 for n, s in shapes.items()}
        adapters.append(Adapter("loha", {"lora_unet_conv_in": LohaPart(factors, 3.0)}, strength))
        adapters[-1].attach(root)
    x = torch.randn((2, 4, 9, 9) if conv else (2, 5, 8), generator=generator)
    return root, adapters, x.requires_grad_()


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("count", [1, 3])
def test_lohas_in_one_operation_are_their_sum_and_have_its_gradients(kind, count):
    root, adapters, x = ride(kind, count)
    module = root.conv_in
    parts = [next(adapter.named_parts())[1] for adapter in adapters]
    learnt = [x, *(weight for part in parts for weight in part.parameters())]
    learnt = learnt[: 1 + 4 * min(count, 2)]  # a strength of 0 brings no gradient
    ours = module(x)
    of_ours = torch.autograd.grad(ours.square().sum(), learnt)
    bare = type(module).forward
    theirs = bare(module, x)
    for adapter, part in zip(adapters, parts, strict=True):
        changed = torch.func.functional_call(
            _Bare(module), {"weight": part.delta(module.weight.shape)}, (x,)
        )
        theirs = theirs + adapter.strength * changed
    assert close(ours, theirs, 1e-5)
    of_theirs = torch.autograd.grad(theirs.square().sum(), learnt)
    for a, b in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class _Bare(torch.nn.Module):
    """The operation of a module, without its bias and whatever rides on it."""

    def __init__(self, module):
        super().__init__()
        self.weight, self.like = module.weight, [module]

    def forward(self, x):
        module = self.like[0]
        if isinstance(module, torch.nn.Linear):
            return torch.nn.functional.linear(x, self.weight)
        return torch.nn.functional.conv2d(x, self.weight, None, module.stride, module.padding)


def test_lohas_get_off_in_any_order_and_leave_the_keys_alone():
    root, adapters, x = ride("conv", 2)
    keys, plain = list(root.state_dict()), type(root.conv_in).forward(root.conv_in, x)
    assert keys == ["conv_in.weight", "conv_in.bias"]
    adapters[0].detach()
    second = root.conv_in(x)
    assert not close(second, plain, 1e-3)
    adapters[0].attach(root)
    adapters[1].detach()
    adapters[0].detach()
    assert "forward" not in vars(root.conv_in)
    assert torch.equal(root.conv_in(x), plain)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_a_ridden_module_compiles_in_one_piece():
    root, _, x = ride("linear", 2)
    compiled = torch.compile(root.conv_in, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert close(compiled(x), root.conv_in(x))


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_what_is_held_is_the_same_and_forgotten_afterwards(kind):
    root, adapters, x = ride(kind, 1)
    part = next(adapters[0].named_parts())[1]
    with torch.no_grad():
        before = root.conv_in(x)
        with adapters[0].held():
            first = root.conv_in(x)
            assert list(part.kept) == [x.dtype]
            assert torch.equal(root.conv_in(x), before)
        assert torch.equal(first, before)
        assert part.kept is None
        part.w1_a.mul_(2)
        assert not close(root.conv_in(x), before, 1e-3)


def test_strength_may_change_while_held():
    root, adapters, x = ride("conv", 1)
    plain = type(root.conv_in).forward(root.conv_in, x)
    with torch.no_grad(), adapters[0].held():
        whole = root.conv_in(x) - plain
        adapters[0].strength = 0.5
        assert close(root.conv_in(x) - plain, whole / 2, 1e-5)
