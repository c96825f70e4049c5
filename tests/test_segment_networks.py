"""One suite that every segmentation network inherits, and what is particular to some."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from univg.errors import ConfigError, DataError, UserError
from univg.segment.losses import compute_loss
from univg.segment.net_scan import scan_states
from univg.segment.net_swin import SwinBlock
from univg.segment.net_unet import InstanceNorm
from univg.segment.net_vm import roll_up, unroll
from univg.segment.networks import (
    NETWORKS,
    TINY_OPTIONS,
    build_network,
    check_network,
    describe_network,
    fill_options,
    summarize_networks,
)

HAS_MONAI = importlib.util.find_spec("monai") is not None
OWN = f"{__name__}:build_own"
BASIC = "monai:BasicUNet"
OPTIONS = {**TINY_OPTIONS, BASIC: {"features": [4, 4, 8, 8, 8, 4]}, OWN: {"channels": 8}}
OF_TOKENS = {"swin-unet", "vm-unet"}
needs_monai = pytest.mark.skipif(not HAS_MONAI, reason="MONAI is not installed")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    params=[
        pytest.param(name, marks=needs_monai if name in {"nnunet-like", BASIC} else ())
        for name in OPTIONS
    ]
)
def name(request):
    return request.param


def build_own(channels_in, channels=4):
    """What a user would write: nothing of ours in it."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 1),
    )


def build_wrong(channels_in):
    return nn.Conv2d(channels_in, 2, 3)


def build_nothing(channels_in):
    return channels_in


def make(name, channels_in=1, seed=0, **more):
    return build_network(name, channels_in, seed=seed, **{**OPTIONS[name], **more})


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draw_line(side_px):
    """Return an image with a bright curve in noise, and the curve: (1, 1, side, side) each."""
    place = torch.arange(side_px)
    curve = side_px / 2 + side_px / 4 * torch.sin(place / 5)
    mask = ((place[:, None] - curve[None, :]).abs() < 1.5).float()[None, None]
    return mask * 0.5 + 0.4 * noise(1, 1, side_px, side_px), mask


# What all inherit


@pytest.mark.parametrize("channels_in", [1, 3])
def test_any_size_and_channels_give_one_map_of_that_size(name, channels_in):
    network = make(name, channels_in).eval()
    for size in ((1, 1), (7, 50), (33, 31)):
        with torch.no_grad():
            logits = network(noise(2, channels_in, *size))
        assert logits.shape == (2, 1, *size)
        assert torch.isfinite(logits).all()


def test_training_gives_as_many_maps_as_said(name):
    network = make(name)
    assert network.training
    assert network(noise(2, 1, 21, 34)).shape == (2, len(network.output_weights), 21, 34)


def test_eval_is_deterministic_and_a_batch_equals_its_images(name):
    network = make(name).eval()
    images = noise(3, 1, 35, 30)
    with torch.no_grad():
        first, second = network(images), network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert torch.equal(first, second)
    torch.testing.assert_close(alone, first, atol=2e-5, rtol=1e-4)


def test_a_seed_gives_the_weights_and_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    first, again, other = make(name, seed=1), make(name, seed=1), make(name, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(
        torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_the_gradient_reaches_every_weight(name):
    network = make(name)
    logits = network(noise(2, 1, 64, 64))
    compute_loss("bce", logits, (noise(2, 1, 64, 64, seed=1) > 0.8).float()).backward()
    without = [
        key
        for key, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert not without


def test_it_learns_one_image(name):
    network = make(name)
    image, mask = draw_line(32)
    rate, steps = (1e-2, 100) if name in OF_TOKENS else (2e-2, 60)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        loss = compute_loss("bce", network(image), mask, None, network.output_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    found = network(image)[:, :1] > 0
    assert (found == (mask > 0)).float().mean() > 0.95


def test_half_precision_is_near_full(name):
    network = make(name).eval()
    image = noise(1, 1, 32, 32)
    with torch.no_grad():
        full = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image)
    assert torch.isfinite(half).all()
    assert (half.float() - full).abs().mean() < 0.02 + 0.1 * full.std()


def test_a_copy_gives_the_same(name):
    network = make(name).eval()
    image = noise(1, 1, 20, 20)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(network)(image), network(image))


def test_its_description_holds_what_builds_it(name):
    network = make(name, 3)
    facts = describe_network(network)
    assert facts["network"] == name
    assert facts["options"].items() >= OPTIONS[name].items()
    assert facts["weights"] == sum(p.numel() for p in network.parameters()) > 0
    again = build_network(facts["network"], facts["channels_in"], facts["size"], **facts["options"])
    assert describe_network(again) == facts


def test_onnx_equals_torch_at_any_size(name, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from univg.segment.onnx_export import export_onnx, load_onnx, run_onnx

    network = make(name, 3)
    path = tmp_path / "model.onnx"
    export_onnx(network, path, threshold=0.4, facts={"why": "test"})
    assert network.training
    session, card = load_onnx(path)
    assert (card.network, card.channels_in, card.threshold) == (name, 3, 0.4)
    network.eval()
    for size in ((37, 101), (16, 8), (130, 64)):
        image = noise(2, 3, *size)
        with torch.no_grad():
            wanted = network(image).numpy()
        np.testing.assert_allclose(run_onnx(session, image.numpy()), wanted, atol=1e-4, rtol=0)


# Padding, names, options


def test_padding_reflects_and_is_cropped_again():
    network = make(OWN).eval()
    assert network.multiple_px == 32
    image = noise(1, 1, 20, 30)
    seen = []
    network.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        inside = network(image)
    # At least two multiples. 20 rows to 64 takes more than one reflection: 11 first, then 11 more.
    once = functional.pad(image, (17, 17, 11, 11), "reflect")
    assert seen[0].shape == (1, 1, 64, 64)
    torch.testing.assert_close(seen[0][:, :, 11:53], once)
    np.testing.assert_array_equal(
        seen[0], np.pad(image, ((0,) * 2,) * 2 + ((22,) * 2, (17,) * 2), "reflect")
    )
    assert inside.shape == image.shape


def test_sides_that_fit_are_not_padded():
    network = make("unet").eval()
    image = noise(1, 1, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(image), network.body(image))


def test_the_paper_has_five_levels_from_64_channels():
    network = build_network("unet", 3)
    widths = [block[0][0].out_channels for block in network.body.body.encoder]
    assert widths == [64, 128, 256, 512, 1024]


def test_every_network_has_a_line_and_tiny_options():
    assert summarize_networks().keys() == NETWORKS.keys() == TINY_OPTIONS.keys()
    assert all(line.endswith(".") and len(line) < 90 for line in summarize_networks().values())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unett", {}, "did you mean unet?"),
        ("unet", {"widht": 3}, "has no option widht; it has channels, depth, norm, up"),
        ("unet", {"depth": 1}, "depth is 1"),
        ("unet", {"norm": "layer"}, "norm is 'layer'"),
        ("swin-unet", {"heads": [3, 6]}, "one number a level"),
        ("swin-unet", {"channels": 32}, "does not divide"),
        ("vm-unet", {"channels": 50}, "must divide wider x channels, 100 at level 0"),
        ("vm-unet", {"channels": 20}, "must divide wider x channels, 80 at level 1"),
        ("nosuchpackage.net:build", {}, "No module named 'nosuchpackage'"),
        (f"{__name__}:lacking", {}, "lacking"),
        (OWN, {"wings": 2}, "unexpected keyword argument 'wings'"),
        (f"{__name__}:build_wrong", {}, "it must give one map of logits"),
        (f"{__name__}:build_nothing", {}, "returned a int"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(name, options, words):
    with pytest.raises(ConfigError) as caught:
        build_network(name, 1, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_channels_are_told():
    with pytest.raises(ConfigError, match="channels_in is 0"):
        build_network("unet", 0)
    with pytest.raises(DataError, match="takes images"):
        make("unet", 3)(noise(1, 1, 8, 8))


@pytest.mark.skipif(HAS_MONAI, reason="MONAI is installed")
@pytest.mark.parametrize("name", ["nnunet-like", BASIC])
def test_without_monai_the_line_says_what_to_install(name):
    check_network(name)
    with pytest.raises(UserError, match=r"pip install 'univg\[segment\]'"):
        make(name)


@needs_monai
def test_a_network_that_monai_lacks_is_told():
    with pytest.raises(ConfigError, match=r"near: .*BasicUNet"):
        build_network("monai:BasicUnett", 1)
    with pytest.raises(ConfigError, match="its options: "):
        build_network(BASIC, 1, wings=2)


@needs_monai
def test_supervision_of_nnunet_halves_from_level_to_level():
    network = make("nnunet-like", depth=4, supervised=2)
    assert network(noise(2, 1, 32, 32)).shape == (2, 3, 32, 32)
    np.testing.assert_allclose(network.output_weights, [4 / 7, 2 / 7, 1 / 7])
    assert network.eval()(noise(1, 1, 32, 32)).shape == (1, 1, 32, 32)


def test_names_and_options_are_checked_without_torch():
    code = (
        "import sys; from univg.segment.networks import check_network;"
        "import univg.segment.weights, univg.segment.onnx_export;"
        "check_network('unet', {'depth': 4}); check_network('a.b:c');"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# IterNet


def test_the_iterations_share_one_mini_unet():
    few, many = make("iternet", iterations=1), make("iternet", iterations=3)
    assert sum(p.numel() for p in few.body.mini.parameters()) == sum(
        p.numel() for p in many.body.mini.parameters()
    )
    assert len(many.output_weights) == 4


def test_the_map_used_is_that_of_the_last_iteration():
    network = make("iternet")
    image = noise(1, 1, 16, 16)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # so that only the number of maps differs
    with torch.no_grad():
        training = network(image)
        torch.testing.assert_close(network.eval()(image), training[:, :1])


# The scan of VM-UNet


def scan_naively(inputs, log_decay, write, read):
    """The recurrence, place by place."""
    state = inputs.new_zeros(*inputs.shape[0:1], *inputs.shape[2:], write.shape[-1])
    outs = []
    for place in range(inputs.shape[1]):
        added = inputs[:, place, :, :, None] * write[:, place, None, None, :]
        state = log_decay[:, place].exp()[..., None, None] * state + added
        outs.append((state * read[:, place, None, None, :]).sum(-1))
    return torch.stack(outs, 1)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_the_scan_equals_the_recurrence(length):
    generator = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    inputs, write, read = draw(2, length, 3, 4), draw(2, length, 5), draw(2, length, 5)
    log_decay = (-3.0 * torch.rand(2, length, 3, generator=generator)).requires_grad_()
    tensors = (inputs, log_decay, write, read)
    wanted = scan_naively(*tensors)
    found = scan_states(*tensors, chunk=8)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    pull = torch.randn(wanted.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad((found * pull).sum(), tensors),
        torch.autograd.grad((wanted * pull).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_the_scan_stands_long_sequences_and_strong_decay():
    inputs, write, read = noise(1, 5000, 1, 2), noise(1, 5000, 2), noise(1, 5000, 2)
    for rate in (0.0, 1e-4, 20.0):
        log_decay = torch.full((1, 5000, 1), -rate)
        wanted = scan_naively(inputs, log_decay, write, read)
        torch.testing.assert_close(
            scan_states(inputs, log_decay, write, read), wanted, atol=1e-4, rtol=1e-3
        )


def test_the_four_paths_come_back_to_their_places():
    features = noise(2, 3, 4, 5)
    paths = unroll(features)
    assert torch.equal(paths[:, 0], features.flatten(2).transpose(1, 2))
    assert torch.equal(paths[:, 3], paths[:, 1].flip(1))
    back = roll_up(paths, 4, 5)
    torch.testing.assert_close(back, 4 * features.permute(0, 2, 3, 1))


# The windows of Swin-UNet


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (3, 5), (9, 6)])
def test_a_window_sees_itself_and_no_padding(size, shift):
    """Attention over all tokens, told which pairs share a window, must give the same."""
    window, channels = 4, 6
    block = SwinBlock(channels, 2, window, shift, 2)
    nn.init.normal_(block.attention.offsets)
    tokens = torch.randn(1, *size, channels, generator=torch.Generator().manual_seed(0))
    place = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1).reshape(-1, 2)
    group = torch.div(place - shift, window, rounding_mode="floor")
    together = (group[:, None] == group[None, :]).all(-1)
    apart = (place[:, None] - place[None, :] + window - 1).clamp(0, 2 * window - 2)
    bias = block.attention.offsets[apart[..., 0] * (2 * window - 1) + apart[..., 1]].permute(
        2, 0, 1
    )
    with torch.no_grad():
        flat = tokens.reshape(-1, channels)
        qkv = block.attention.qkv(block.norm(flat)).reshape(len(flat), 3, 2, -1)
        query, key, value = qkv.permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) * block.attention.scale + bias
        mixed = scores.masked_fill(~together, -torch.inf).softmax(-1) @ value
        wanted = flat + block.attention.out(mixed.transpose(0, 1).reshape(len(flat), channels))
        wanted = wanted + block.perceptron(wanted)
        torch.testing.assert_close(block(tokens).reshape(-1, channels), wanted)


# ONNX


def build_fixed(channels_in, size):
    """A network that works at one size only."""
    network = nn.Sequential(nn.Conv2d(channels_in, 1, 1), PerPlace(*size))
    network.multiple_px = 1
    return network


class PerPlace(nn.Module):
    def __init__(self, high, wide):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(high, wide))

    def forward(self, features):
        return features + self.bias


def test_a_network_of_one_size_is_built_and_exported_for_it(tmp_path):
    name = f"{__name__}:build_fixed"
    network = build_network(name, 2, (12, 20))
    assert describe_network(network)["size"] == [12, 20]
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from univg.segment.onnx_export import export_onnx, load_onnx

    assert export_onnx(network, tmp_path / "fixed.onnx") < 1e-5
    session, card = load_onnx(tmp_path / "fixed.onnx")
    assert session.get_inputs()[0].shape == ["batch", 2, 12, 20]
    assert card.size == (12, 20)


def test_an_export_that_differs_is_not_written(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from univg.segment.onnx_export import export_onnx

    network = build_network(f"{__name__}:build_counting", 1)
    with pytest.raises(UserError, match="not written: ONNX gives logits"):
        export_onnx(network, tmp_path / "counting.onnx")
    assert not list(tmp_path.iterdir())


def build_counting(channels_in):
    """A network whose graph changes from run to run, so that one trace cannot stand for it."""
    return Counting(channels_in)


class Counting(nn.Module):
    def __init__(self, channels_in):
        super().__init__()
        self.inner = nn.Conv2d(channels_in, 1, 1)
        self.runs = 0

    def forward(self, image):
        self.runs += 1
        return self.inner(image) + float(self.runs)


def test_wrong_onnx_files_are_told(tmp_path):
    from univg.segment.onnx_export import export_onnx, load_onnx

    with pytest.raises(ConfigError, match=r"called \.onnx"):
        export_onnx(make("unet"), tmp_path / "model.pt")
    if importlib.util.find_spec("onnxruntime") is None:
        with pytest.raises(UserError, match="needs onnxruntime, which is not installed"):
            load_onnx(tmp_path / "model.onnx")
        return
    with pytest.raises(DataError, match="no such file"):
        load_onnx(tmp_path / "lacking.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(DataError, match="onnxruntime cannot read it"):
        load_onnx(tmp_path / "text.onnx")


def test_instance_norm_is_that_of_torch():
    ours, theirs = InstanceNorm(3), nn.InstanceNorm2d(3, affine=True)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
            norm.bias.copy_(torch.tensor([0.0, -1.0, 3.0]))
    features = noise(2, 3, 5, 7)
    torch.testing.assert_close(ours(features), theirs(features))
    one = ours(noise(1, 3, 1, 1))
    torch.testing.assert_close(one.flatten(), ours.bias, atol=1e-3, rtol=0.0)


def test_the_small_unet_sees_no_difference_of_brightness_or_contrast():
    network = make("unet-small").eval()
    image = noise(1, 1, 48, 48)
    with torch.no_grad():
        expected, found = network(image), network(image[...] * 3.0)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-3, rtol=1e-2)


def test_a_network_names_all_its_options():
    network = build_network("unet-small", 1, channels=8)
    assert network.options == {
        "channels": 8, "depth": 5, "norm": "instance", "up": "bilinear",
    }  # fmt: skip
    assert fill_options(OWN, {"channels": 4}) == {"channels": 4}
