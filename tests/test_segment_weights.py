"""Weights in a file: exact, without pickle, without running code nobody named."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from univg.errors import ConfigError, DataError
from univg.segment.networks import TINY_OPTIONS, build_network
from univg.segment.weights import (
    KEY,
    load_network,
    read_card,
    save_network,
    write_card,
)

OWN = f"{__name__}:build_shared"


def build_shared(channels_in):
    """A network that uses one layer under two names."""
    first = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels_in, 8, 1), first, nn.ReLU(), first, nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1)
    )


def make(name="unet-small", channels_in=1, seed=0):
    """Return a network that has seen a few images, so that its running statistics are its own."""
    network = build_network(name, channels_in, seed=seed, **TINY_OPTIONS.get(name, {}))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        network(torch.rand(2, channels_in, 32, 32, generator=generator))
    return network


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "best.safetensors"
    save_network(make(), path, threshold=0.35, facts={"steps": 12})
    return path


def rewrite(path, change=None, card=None):
    """Write `path` again with its tensors changed or another card."""
    tensors = load_file(path)
    if change is not None:
        change(tensors)
    save_file(tensors, path, {KEY: write_card(read_card(path)) if card is None else card})


@pytest.mark.parametrize("name", ["unet", "swin-unet", "vm-unet", "iternet", "unet-small", OWN])
def test_what_is_saved_comes_back_the_same(name, tmp_path):
    network = make(name, 3).eval()
    path = save_network(network, tmp_path / "a" / "one.safetensors", threshold=0.25)
    again, card = load_network(path, own=name)
    image = torch.rand(1, 3, 30, 41, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert torch.equal(again(image), network(image))
    assert not again.training
    assert (card.network, card.channels_in, card.threshold) == (name, 3, 0.25)
    twice = save_network(again, tmp_path / "two.safetensors", threshold=card.threshold)
    assert twice.read_bytes() == path.read_bytes()


def test_another_memory_layout_gives_the_same_file(tmp_path):
    network = make()
    one = save_network(network, tmp_path / "one.safetensors")
    two = save_network(network.to(memory_format=torch.channels_last), tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_shared_layers_are_written_once(tmp_path):
    path = save_network(make(OWN), tmp_path / "shared.safetensors")
    assert sum(key.endswith("weight") for key in load_file(path)) == 4


def test_facts_come_back_and_what_json_lacks_is_made_plain(tmp_path):
    facts = {
        "shots": ("a", "b"),
        "dice": float("nan"),
        "curve": [0.5, float("inf")],
        "folder": Path("x") / "y",
        "name": "Gefäß",
    }
    card = read_card(save_network(make(), tmp_path / "w.safetensors", facts=facts))
    assert card.facts == {
        "shots": ["a", "b"],
        "dice": None,
        "curve": [0.5, None],
        "folder": str(Path("x") / "y"),
        "name": "Gefäß",
    }


def test_nothing_in_the_file_is_a_pickle(saved):
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(saved.read_bytes())
    header = int.from_bytes(saved.read_bytes()[:8], "little")
    assert json.loads(saved.read_bytes()[8 : 8 + header])["__metadata__"].keys() == {KEY}


def test_code_that_only_the_file_names_is_not_run(tmp_path):
    path = save_network(make(OWN), tmp_path / "own.safetensors")
    with pytest.raises(ConfigError, match="if you trust it, say --network"):
        load_network(path)
    card = dataclasses.replace(read_card(path), network="os:getcwd")
    rewrite(path, card=write_card(card))
    with pytest.raises(ConfigError, match="os:getcwd, code"):
        load_network(path, own=OWN)


def test_files_that_are_none_are_told(saved, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"a pickle")
    with pytest.raises(DataError, match="no pickles"):
        read_card(tmp_path / "model.pt")
    with pytest.raises(DataError, match="no such file"):
        read_card(tmp_path / "lacking.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(1)}, plain)
    with pytest.raises(DataError, match="holds no segmenter"):
        load_network(plain)
    whole = saved.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match="not a whole safetensors file"):
            load_network(saved)


@pytest.mark.parametrize(
    "card", ["{", "[]", "{}", '{"format": 1}', '{"format": 99}', '{"format": "1"}']
)
def test_a_broken_card_is_one_line(saved, card):
    rewrite(saved, card=card)
    with pytest.raises(DataError) as caught:
        load_network(saved)
    assert str(saved) in str(caught.value)


def test_a_card_that_names_no_network_is_told(saved):
    rewrite(saved, card=write_card(dataclasses.replace(read_card(saved), network="resnet")))
    with pytest.raises(DataError, match="network is 'resnet'"):
        load_network(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("body.head.bias"),
        lambda tensors: tensors.update(more=torch.zeros(2)),
        lambda tensors: tensors.update({"body.head.bias": torch.zeros(2)}),
    ],
    ids=["missing", "foreign", "shape"],
)
def test_tensors_that_do_not_fit_are_told(saved, change):
    rewrite(saved, change)
    with pytest.raises(DataError, match="1 of its tensors do not fit"):
        load_network(saved)


def test_wrong_names_and_thresholds_are_refused_before_writing(tmp_path):
    with pytest.raises(ConfigError, match=r"written as \.safetensors"):
        save_network(make(), tmp_path / "model.pt")
    for threshold in (0.0, 1.0, 50.0, float("nan")):
        with pytest.raises(ConfigError, match="threshold is"):
            save_network(make(), tmp_path / "model.safetensors", threshold=threshold)
    assert not list(tmp_path.iterdir())
