"""Adapters: one suite that every kind inherits, and the libraries' own loaders as witnesses."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from univg.errors import DataError
from univg.sd import build_pipeline, load_base, save_base
from univg.sd_adapter import Adapter, merge_adapters, name_modules, read_as_adapter
from univg.sd_adapter_parts import LohaPart
from univg.sd_checkpoint import build_sd15_on_meta
from univg.testing import fill_weights, tiny_base
from univg.train.adapters import (
    ADAPTERS,
    LOHA,
    LORA,
    AdapterSpec,
    attach,
    find_targets,
    load_adapter,
    load_for_training,
)

SPECS = {
    "lora": AdapterSpec(kind="lora", dim=4, alpha=4),
    "lora scaled": AdapterSpec(kind="lora", dim=4, alpha=1),
    "lora conv": AdapterSpec(
        kind="lora", dim=4, alpha=8, conv_dim=2, conv_alpha=1, targets="attention+conv"
    ),
    "loha": AdapterSpec(kind="loha", dim=4, alpha=4, conv_dim=2, conv_alpha=2, targets="all"),
    "loha scaled": AdapterSpec(
        kind="loha", dim=4, alpha=1, conv_dim=2, conv_alpha=6, targets="all"
    ),
}


@pytest.fixture
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def sd15_unet():
    return build_sd15_on_meta()["unet"]


def unet_output(base, requires_grad=False):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 77, 32, generator=generator)
    with torch.set_grad_enabled(requires_grad):
        return base.unet(x, torch.tensor([10, 700]), words).sample


def excite(adapter, seed=3):
    """Give an adapter weights that do something."""
    fill_weights(adapter, seed)
    return adapter


def close(a, b, tolerance=2e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def alike(a, b):
    """Equal but for rounding, which the tiny UNet's norms over few values make larger."""
    return (a - b).abs().max() < 1e-3 * b.abs().max()


def weights_of(module):
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def same_weights(module, before):
    now = module.state_dict()
    return list(now) == list(before) and all(torch.equal(now[n], before[n]) for n in before)


class AdapterSuite:
    """What holds for every adapter. A subclass names its `spec`."""

    spec: AdapterSpec

    def test_a_fresh_one_leaves_the_output_unchanged(self, base):
        before = unet_output(base)
        adapter = attach(base.unet, self.spec)
        assert len(adapter.parts) > 10
        assert torch.equal(unet_output(base), before)

    def test_only_its_weights_move_in_a_step(self, base):
        before = weights_of(base.unet)
        adapter = attach(base.unet, self.spec)
        own = adapter.state()
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
        unet_output(base, requires_grad=True).square().mean().backward()
        optimizer.step()
        assert same_weights(base.unet, before)
        moved = [name for name, weight in adapter.state().items() if not weight.equal(own[name])]
        assert len(moved) >= len(adapter.parts)
        assert not any(name.endswith(".alpha") for name in moved)

    def test_it_learns(self, base):
        adapter = attach(base.unet, self.spec)
        target = unet_output(base) * 0.5
        optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
        losses = []
        for _ in range(12):
            loss = (unet_output(base, requires_grad=True) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.9 * losses[0]

    def test_save_and_load_are_exact(self, base, tmp_path):
        adapter = excite(attach(base.unet, self.spec))
        changed = unet_output(base)
        adapter.save(tmp_path / "a.safetensors", base)
        adapter.detach()
        again = load_adapter(tmp_path / "a.safetensors", base, 1.0)
        assert list(again.state()) == list(adapter.state())
        assert all(torch.equal(w, adapter.state()[name]) for name, w in again.state().items())
        assert torch.equal(unet_output(base), changed)
        first = (tmp_path / "a.safetensors").read_bytes()
        again.detach()
        adapter.save(tmp_path / "a.safetensors", base)
        assert (tmp_path / "a.safetensors").read_bytes() == first

    def test_state_goes_back_in(self, base):
        adapter = excite(attach(base.unet, self.spec))
        state, changed = adapter.state(), unet_output(base)
        excite(adapter, seed=9)
        assert not torch.equal(unet_output(base), changed)
        adapter.load_state(state)
        assert torch.equal(unet_output(base), changed)

    def test_zero_strength_is_no_adapter(self, base):
        before = unet_output(base)
        adapter = excite(attach(base.unet, self.spec))
        assert not close(unet_output(base), before, 1e-3)
        adapter.strength = 0.0
        assert torch.equal(unet_output(base), before)

    def test_detached_it_leaves_nothing_behind(self, base):
        before, weights = unet_output(base), weights_of(base.unet)
        adapter = excite(attach(base.unet, self.spec))
        adapter.detach()
        assert torch.equal(unet_output(base), before)
        assert same_weights(base.unet, weights)

    def test_the_order_of_stacking_is_free(self, base):
        one = excite(attach(base.unet, self.spec), 1)
        two = excite(attach(base.unet, SPECS["lora"]), 2)
        forward = unet_output(base)
        one.detach()
        one.attach(base.unet)
        assert alike(unet_output(base), forward)
        two.strength = 0.0
        assert not close(unet_output(base), forward, 1e-3)

    def test_strength_is_linear_in_the_weights(self, base):
        adapter = excite(attach(base.unet, self.spec))
        adapter.detach()
        before = weights_of(base.unet)
        targets = name_modules(base.unet)
        for strength in (0.35, 0.7):
            adapter.strength = strength
            base.unet.load_state_dict(before)
            adapter.merge_into(base.unet)
            for name, part in adapter.named_parts():
                module = targets[name]
                path = next(p for p, m in base.unet.named_modules() if m is module)
                moved = module.weight - before[f"{path}.weight"]
                assert close(moved, strength * part.delta(module.weight.shape), 1e-5)

    @pytest.mark.parametrize("strength", [0.7, -1.5])
    def test_merged_equals_attached(self, base, strength):
        adapter = excite(attach(base.unet, self.spec))
        adapter.strength = strength
        attached = unet_output(base)
        adapter.detach()
        adapter.merge_into(base.unet)
        assert alike(unet_output(base), attached)

    def test_the_same_seed_gives_the_same_weights(self, base):
        a, b, c = (attach(base.unet, self.spec, seed=seed).state() for seed in (5, 5, 6))
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert any(not torch.equal(a[name], c[name]) for name in a)

    def test_the_global_generator_is_left_alone(self, base):
        before = torch.random.get_rng_state()
        attach(base.unet, self.spec)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_gradient_checkpointing_changes_no_gradient(self, base):
        adapter = excite(attach(base.unet, self.spec))
        base.unet.train()
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                base.unet.enable_gradient_checkpointing()
            adapter.zero_grad()
            unet_output(base, requires_grad=True).square().mean().backward()
            gradients.append([p.grad.clone() for p in adapter.parameters()])
        assert all(close(a, b) for a, b in zip(*gradients, strict=True))
        assert all(g.abs().sum() > 0 for g in gradients[0])

    def test_it_trains_under_autocast(self, base):
        adapter = excite(attach(base.unet, self.spec))
        full = unet_output(base)
        with torch.autocast("cpu", torch.bfloat16):
            loss = unet_output(base, requires_grad=True)
        assert (loss.float() - full).abs().mean() < 0.1 * full.abs().mean()
        loss.float().square().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in adapter.parameters())
        assert all(torch.isfinite(p.grad).all() for p in adapter.parameters())

    def test_it_rides_on_a_base_in_half_precision(self, base):
        adapter = excite(attach(base.unet, self.spec))
        full = unet_output(base)
        base.unet.to(torch.bfloat16)
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
        with torch.no_grad():
            out = base.unet(x, torch.tensor([1, 2]), torch.zeros(2, 77, 32).bfloat16()).sample
        assert out.dtype == torch.bfloat16
        assert full.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in adapter.parameters())

    def test_it_fits_sd15(self, sd15_unet):
        unet = sd15_unet
        adapter = attach(unet, self.spec)
        assert all(p.is_meta for p in adapter.parameters())
        with torch.device("meta"):
            out = unet(torch.randn(1, 4, 64, 64), torch.tensor([1]), torch.randn(1, 77, 768))
        adapter.detach()
        assert out.sample.shape == (1, 4, 64, 64)


@pytest.mark.parametrize("_name", list(SPECS))
class TestEveryAdapter(AdapterSuite):
    @pytest.fixture(autouse=True)
    def choose(self, _name):
        self.spec = SPECS[_name]


def test_every_kind_is_in_the_suite():
    assert {spec.kind for spec in SPECS.values()} == set(ADAPTERS)


# --- what the libraries say -----------------------------------------------------------------


@pytest.fixture
def kohya(monkeypatch):
    """lycoris.kohya, whose list names the time embedding twice (class and path) and then refuses
    every diffusers UNet for it in 4.1.3."""
    from lycoris import kohya

    network = kohya.LycorisNetworkKohya
    classes = [c for c in network.UNET_TARGET_REPLACE_MODULE if c != "TimestepEmbedding"]
    monkeypatch.setattr(network, "UNET_TARGET_REPLACE_MODULE", classes)
    return kohya


def test_loha_changes_what_lycoris_changes(base, kohya):
    network = kohya.LycorisNetworkKohya(
        None, base.unet, 1.0, 32, 4, 32, 4, network_module="loha", warn_on_unmatched=False
    )
    theirs = {lora.lora_name: lora for lora in network.unet_loras}
    ours = attach(base.unet, LOHA)
    assert set(theirs) == set(ours.parts)
    for name, part in ours.named_parts():
        stored = theirs[name].custom_state_dict()
        assert {k: v.shape for k, v in stored.items() if k != "alpha"} == {
            k: v.shape for k, v in part.factors().items()
        }
        assert float(stored["alpha"]) == part.alpha


def test_lora_changes_what_kohya_changes(sd15_unet):
    """The 192 modules of networks.lora on SD 1.5: attention, feed-forward, proj_in, proj_out."""
    found = find_targets(sd15_unet, LORA)
    assert len(found) == 192
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in found
    assert "lora_unet_mid_block_attentions_0_proj_in" in found
    assert "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj" in found


def lycoris_output(kohya, base, path, strength):
    """Return what the UNet gives with the file loaded by lycoris' own loader, by its forward."""
    network, weights = kohya.create_network_from_weights(strength, str(path), None, None, base.unet)
    for lora in network.unet_loras:
        lora.apply_to()
    assert len(network.unet_loras) == len({key.partition(".")[0] for key in weights})
    try:
        return unet_output(base)
    finally:
        for lora in network.unet_loras:
            lora.restore()


@pytest.mark.parametrize("alpha", [4, 1])
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_lycoris_loads_loha_with_the_same_output(base, kohya, tmp_path, alpha, strength):
    spec = AdapterSpec(kind="loha", dim=4, alpha=alpha, conv_dim=2, conv_alpha=alpha, targets="all")
    plain = unet_output(base)
    adapter = excite(attach(base.unet, spec))
    adapter.strength = strength
    ours = unet_output(base)
    adapter.save(tmp_path / "a.safetensors", base)
    adapter.detach()
    assert not close(ours, plain, 1e-3)
    assert alike(lycoris_output(kohya, base, tmp_path / "a.safetensors", strength), ours)
    adapter.merge_into(base.unet)
    save_base(base, tmp_path / "merged", half=False)
    assert alike(unet_output(load_base(str(tmp_path / "merged"))), ours)


def test_the_library_merges_wrongly_where_ours_is_right(base):
    """Why merging is our own arithmetic: drop it when this fails."""
    from lycoris.modules.loha import LohaModule

    spec = AdapterSpec(kind="loha", dim=4, alpha=1)
    adapter = excite(attach(base.unet, spec))
    name, part = next(adapter.named_parts())
    module = name_modules(base.unet)[name]
    theirs = LohaModule(name, module, 1.0, 4, 1)
    with torch.no_grad():
        for factor, weight in part.factors().items():
            getattr(theirs, factor).copy_(weight)
    diff, _ = theirs.get_diff_weight(1, module.weight.shape)
    ours = part.delta(module.weight.shape)
    assert close(theirs.get_weight(module.weight.shape), ours)
    assert close(diff * 4, ours)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.parametrize("name", ["lora", "lora scaled"])
def test_diffusers_loads_lora_with_the_same_output(base, tmp_path, name, layout):
    adapter = excite(attach(base.unet, SPECS[name]))
    path = tmp_path / "a.safetensors"
    if layout == "kohya":
        adapter.save(path, base)
    else:
        adapter.save_diffusers(path)

    def draw(pipeline):
        generator = torch.Generator().manual_seed(0)
        wanted = {"num_inference_steps": 2, "output_type": "latent", "generator": generator}
        return pipeline("fundus image", **wanted).images

    ours, picture = unet_output(base), draw(build_pipeline(base))
    adapter.detach()
    pipeline = build_pipeline(base)
    assert not close(draw(pipeline), picture, 1e-3)
    pipeline.load_lora_weights(str(path))
    assert alike(unet_output(base), ours)
    assert alike(draw(pipeline), picture)


# --- files ------------------------------------------------------------------------------------


def test_the_file_is_kohyas(base, tmp_path):
    path = tmp_path / "five_masks.safetensors"
    attach(base.unet, LOHA).save(path, base, {"univg_prompt": "mask of fundus vessels"})
    stored = load_file(path)
    start = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert stored[f"{start}.hada_w1_a"].shape == (8, 32)
    assert stored[f"{start}.hada_w1_b"].shape == (32, 8)
    assert stored[f"{start}.alpha"].shape == () and stored[f"{start}.alpha"] == 32
    assert stored["lora_unet_conv_in.hada_w2_b"].shape == (4, 4 * 9)
    assert stored["lora_unet_conv_in.alpha"] == 4
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("32", "32")
    arguments = json.loads(metadata["ss_network_args"])
    assert arguments == {"algo": "loha", "conv_dim": "4", "conv_alpha": "4"}
    assert metadata["ss_output_name"] == "five_masks"
    assert metadata["univg_base_name"] == "tiny"
    assert metadata["univg_prompt"] == "mask of fundus vessels"
    assert len(metadata["sshs_model_hash"]) == 64


def test_one_made_for_another_base_is_refused_with_both_names(base, tmp_path):
    path = tmp_path / "a.safetensors"
    attach(base.unet, LORA).save(path, base)
    other = tiny_base(seed=1)
    other.name = "other"
    with pytest.raises(DataError, match=rf"made for base tiny \({base.identity}\), not for other"):
        load_adapter(path, other)
    assert load_adapter(path, other, check_base=False).parts


def test_one_from_kohya_is_taken_if_it_fits(base, tmp_path):
    path = tmp_path / "a.safetensors"
    adapter = excite(attach(base.unet, SPECS["lora"]))
    ours = unet_output(base)
    adapter.detach()
    state = adapter.state()
    save_file(state, path)
    loaded = load_adapter(path, base, 1.0)
    assert torch.equal(unet_output(base), ours)
    loaded.detach()
    wide = {k: torch.cat([v, v], 1) if "to_q.lora_down" in k else v for k, v in state.items()}
    save_file(wide, path)
    with pytest.raises(DataError, match=r"does not fit base tiny: \S+to_q is 8x16, the base's 8x8"):
        load_adapter(path, base)
    save_file({f"lora_unet_x{k.removeprefix('lora_unet')}": v for k, v in state.items()}, path)
    with pytest.raises(DataError, match="which has no module lora_unet_x_"):
        load_adapter(path, base)


def test_the_text_encoder_may_be_changed_too(base, tmp_path):
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    state = {
        f"{name}.lora_down.weight": torch.ones(2, 32),
        f"{name}.lora_up.weight": torch.ones(32, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(state, tmp_path / "a.safetensors")
    from univg.sd import embed_prompts

    before = embed_prompts(base, ["oct"])
    adapter = load_adapter(tmp_path / "a.safetensors", base)
    attached = embed_prompts(base, ["oct"])
    assert not close(attached, before, 1e-3)
    adapter.detach()
    adapter.merge_into(base.unet, base.text_encoder)
    assert close(embed_prompts(base, ["oct"]), attached)


def test_training_goes_on_from_a_file(base, tmp_path):
    path = tmp_path / "a.safetensors"
    attach(base.unet, SPECS["loha"]).save(path, base)
    loaded = load_for_training(path, base)
    assert loaded.strength == 1.0
    assert all(p.requires_grad for p in loaded.parameters())
    frozen = read_as_adapter(path, base)
    assert frozen.strength == 0.7
    assert not any(p.requires_grad for p in frozen.parameters())


def test_loha_trains_over_a_frozen_lora(base, tmp_path):
    excite(attach(base.unet, SPECS["lora"])).save(tmp_path / "a.safetensors", base)
    fresh = tiny_base()
    under = load_adapter(tmp_path / "a.safetensors", fresh, 1.0)
    below = unet_output(fresh)
    held = under.state()
    over = attach(fresh.unet, SPECS["loha"])
    assert torch.equal(unet_output(fresh), below)
    optimizer = torch.optim.AdamW(over.parameters(), lr=0.1)
    unet_output(fresh, requires_grad=True).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(w, held[name]) for name, w in under.state().items())
    assert not close(unet_output(fresh), below, 1e-3)


def test_merging_several_rounds_once():
    """Three changes of less than half a unit in the last place must not vanish one by one."""
    layer = torch.nn.Linear(1, 1, bias=False).half()
    root = torch.nn.Module()
    root.conv_in = layer
    with torch.no_grad():
        layer.weight.fill_(1.0)
    step = 2.0**-11 * 0.9
    factors = {name: torch.ones(1, 1) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_b")}
    parts = [LohaPart({**factors, "hada_w2_a": torch.full((1, 1), step)}, 1.0) for _ in range(3)]
    merge_adapters([Adapter("loha", {"lora_unet_conv_in": part}) for part in parts], root)
    assert layer.weight.item() == 1 + 2.0**-10


def test_the_memory_saving_product_has_the_right_gradients():
    from univg.sd_adapter_parts import _Hadamard

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 2), (2, 6), (5, 2), (2, 6)]
    factors = [torch.randn(s, generator=generator, dtype=torch.double) for s in shapes]
    for factor in factors:
        factor.requires_grad_()

    def product(*inputs):
        return _Hadamard.apply(*inputs, 0.3, torch.double)

    assert torch.autograd.gradcheck(product, tuple(factors))


@pytest.mark.parametrize("name", ["lora conv", "loha"])
def test_an_adapter_may_lie_on_another_device(base, name):
    """The meta device stands in for a GPU: it refuses what is mixed as that does."""
    adapter = excite(attach(base.unet, SPECS[name]))
    base.unet.to("meta")
    assert all(weight.device.type == "cpu" for weight in adapter.parameters())
    with torch.device("meta"):
        out = base.unet(torch.randn(1, 4, 8, 8), torch.tensor([1]), torch.randn(1, 77, 32))
    assert out.sample.is_meta
