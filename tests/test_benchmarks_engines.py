"""The benchmarks of the engines run, measure what they say, and compare like with like."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a benchmark by name, as running it would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # set by `main`; here it is undone
    yield importlib.import_module
    for name in ("engine_speed", "engine_steps", "latent_cache", "plain_steps"):
        sys.modules.pop(name, None)


def test_speed_of_every_engine_beside_the_plain_step(load, tmp_path: Path, capsys):
    """Ours and the plain step train the same number of parameters, or the ratio means nothing."""
    words = ["--base", "tiny", "--precision", "no", "--batches", "2", "--steps", "2"]
    words += ["--rounds", "1", "--variants", "plain", "univg", "no cache"]
    load("engine_speed").main([*words, "--out", str(tmp_path / "speed.json")])
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [run.get("error") for run in found["runs"]] == [None] * 9
    for engine in ("lora", "loha", "control"):
        rows = [row for row in found["rows"] if row["engine"] == engine]
        assert [row["variant"] for row in rows] == ["plain", "univg", "no cache"]
        assert len({row["trained"] for row in rows}) == 1
        assert all(row["windows"] == 2 and row["median_s"] > 0 for row in rows)
        ratio = rows[0]["median_s"] / rows[1]["median_s"]
        assert rows[1]["times plain"] == pytest.approx(ratio)
    assert found["command"].startswith("python benchmarks/engine_speed.py --base tiny")
    assert {"date", "cpu", "torch", "diffusers"} <= set(found["machine"])
    table = (tmp_path / "speed.md").read_text()
    assert table.count("| univg |") == 3
    assert table.splitlines()[-1] in capsys.readouterr().out


def test_what_goes_wrong_is_a_row_and_does_not_end_the_run(load, tmp_path: Path, capsys):
    speed = load("engine_speed")
    words = ["--base", "tiny", "--precision", "no", "--batches", "1", "--steps", "1", "--rounds"]
    words += ["1", "--engines", "lora", "--variants", "8-bit Adam", "univg"]
    speed.main([*words, "--out", str(tmp_path / "speed.json")])
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["variant"]: "error" in row for row in rows} == {"univg": False, "8-bit Adam": True}
    assert "bitsandbytes" in rows[1]["error"] or "GPU" in rows[1]["error"]
    assert "UserError" in capsys.readouterr().out


def test_cache_beside_encoding(load, tmp_path: Path, capsys):
    words = ["--base", "tiny", "--precision", "no", "--batches", "1", "--steps", "2"]
    words += ["--rounds", "2", "--engines", "loha"]
    load("latent_cache").main([*words, "--out", str(tmp_path / "cache.json")])
    found = json.loads((tmp_path / "cache.json").read_text())
    (row,) = found["rows"]
    assert "error" not in row
    assert row["windows"] == 4
    assert row["saved"] == pytest.approx(1 - row["cached_s"] / row["encoded_s"])
    assert row["fill_s_a_picture"] > 0
    assert sum("fill_s" in run for run in found["runs"]) == 1  # the second round finds it filled
    assert "loha" in capsys.readouterr().out


def test_random_bases_have_the_layers_of_the_real_one(load):
    """`small` is SD 1.5 with fewer channels: a share of time measured on it must mean something."""
    from univg.sd_checkpoint import build_sd15_on_meta

    small = load("engine_steps").build_base("small", "cpu", 0)
    real = build_sd15_on_meta()
    for part in ("unet", "vae", "text_encoder"):
        made = [name for name, _ in getattr(small, part).named_parameters()]
        assert made == [name for name, _ in real[part].named_parameters()]
    again = load("engine_steps").build_base("small", "cpu", 0)
    assert small.identity == again.identity
    assert small.native_px == 256


def test_only_variants_that_differ_here_are_measured(load):
    speed = load("engine_speed")
    setup = speed.make_setup(speed.read_words(["--base", "tiny", "--precision", "no"]), FOLDER)
    names = [variant.name for variant in speed.choose_variants(setup)]
    assert names == ["plain", "univg", "no cache", "channels_last on", "checkpointing"]
    chosen = speed.choose_variants(setup, ["compile"])
    assert [variant.settings for variant in chosen] == [{"compile": True}]
