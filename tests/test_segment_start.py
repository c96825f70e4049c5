"""Weights to start from, and those of one byte."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from univg.errors import DataError
from univg.segment.networks import TINY_OPTIONS, build_network
from univg.segment.start import find_start, start_from
from univg.segment.weights import KEY, load_network, read_card, save_network, write_card
from univg.segment.weights_small import pack, unpack


def make(name="unet-small", channels_in=1, seed=0):
    network = build_network(name, channels_in, seed=seed, **TINY_OPTIONS.get(name, {}))
    network(torch.rand(2, channels_in, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return network


@pytest.mark.parametrize(("of_file", "wanted"), [(3, 1), (1, 3), (3, 3)])
def test_another_network_starts_from_the_weights_of_other_channels(tmp_path, of_file, wanted):
    source = make(channels_in=of_file, seed=3).eval()
    path = save_network(source, tmp_path / "start.safetensors")
    network = make(channels_in=wanted, seed=4).eval()
    start_from(network, path)
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = source(grey.expand(-1, of_file, -1, -1))
        assert torch.allclose(network(grey.expand(-1, wanted, -1, -1)), expected, atol=1e-5)


def test_a_start_of_another_kind_is_told(tmp_path):
    path = save_network(make("unet-small"), tmp_path / "start.safetensors")
    with pytest.raises(DataError, match="do not fit the network unet "):
        start_from(make("unet"), path)


def test_names_of_starts(tmp_path):
    (tmp_path / "run").mkdir()
    assert find_start("none") is None
    assert find_start(None) is None
    assert find_start(str(tmp_path / "run")) == tmp_path / "run" / "model.safetensors"
    assert find_start(str(tmp_path / "mine.safetensors")) == tmp_path / "mine.safetensors"


def test_weights_of_one_byte_find_the_same_vessels(tmp_path):
    network = make(channels_in=3, seed=3).eval()
    path = save_network(network, tmp_path / "whole.safetensors", threshold=0.4)
    small = tmp_path / "small.safetensors"
    save_file(pack(load_file(path)), small, {KEY: write_card(read_card(path))})
    assert small.stat().st_size < 0.5 * path.stat().st_size

    again, card = load_network(small)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = network(image), again(image)
    assert card.threshold == 0.4
    assert float((found - expected).std()) < 0.05 * float(expected.std())


def test_packing_keeps_zeros_whole_numbers_and_plain_tensors():
    tensors = {
        "kernel": torch.tensor([[0.0, 0.0], [1.0, -3.0]]),
        "bias": torch.tensor([0.5, 2.0]),
        "count": torch.tensor(7),
    }
    found = unpack(pack(tensors))
    assert found.keys() == tensors.keys()
    assert torch.equal(found["kernel"][0], torch.zeros(2))
    assert torch.allclose(found["kernel"][1], tensors["kernel"][1], atol=3 / 127)
    assert torch.equal(found["bias"], tensors["bias"])
    assert found["count"].dtype == torch.int64
    assert int(found["count"]) == 7
    assert unpack(tensors).keys() == tensors.keys()
