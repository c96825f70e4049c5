"""What docs/recipe.md and docs/new-modality.md say works: options, the YAML, the whole walk."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import COMMANDS, main
from univg.config import parse, read_settings
from univg.images import encode_image
from univg.manifest import read_rows
from univg.masks import encode_mask
from univg.modalities import find_modality
from univg.pairs import open_pairs
from univg.recipe import Recipe, resolve

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    name: (DOCS / name).read_text(encoding="utf-8") for name in ("recipe.md", "new-modality.md")
}
SIDE_PX = 96
QUICK = {
    "sca fit": ["--rounds", "0", "--candidates", "4", "--masks", "4", "--size", "96"],
    "sca synth": ["--size", str(SIDE_PX), str(SIDE_PX)],
    "run": ["--pairs", "4", "--segment-steps", "2"],
}
"""Added to the commands of the page, which would take an hour as they stand."""


def commands_in(page: str, fence: str = r"\w*") -> list[list[str]]:
    """The words of each `univg …` line in the page's blocks of code."""
    blocks = re.findall(rf"```{fence}\n(.*?)```", PAGES[page], flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("univg ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def name_of(words: list[str]) -> str:
    return words[0] if words[0] in COMMANDS else " ".join(words[:2])


def example_in(page: str) -> str:
    found = re.search(r"```yaml\n(.*?)```", PAGES[page], flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_has_these_options(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(example_in("recipe.md"))
    found = [words for words in commands_in(page) if "recipe.yaml" not in words]
    assert len(found) > 2
    for words in found:
        name = name_of(words)
        command = COMMANDS[name]
        cls = getattr(importlib.import_module(command.module), command.settings_name)
        parse(cls, words[len(name.split()) :], prog=name)


def test_the_recipe_of_the_page_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(example_in("recipe.md"))
    asked = resolve(read_settings(Recipe, Path("recipe.yaml")))
    assert asked.network == ("unet-small", "swin-unet") and asked.image_engine == "composite"
    for words in (["--config", "recipe.yaml"], ["recipe.yaml"]):
        assert main(["run", *words, "--pairs", "31", "--print-config"]) == 0
        assert "pairs: 31\n" in capsys.readouterr().out


def test_the_page_names_the_steps_and_presets(tmp_path):
    from univg.recipe import PRESETS
    from univg.recipe_chain import make_steps

    shots = draw_pairs(tmp_path / "shots", range(2))
    every = Recipe(
        shots=shots, test=shots, unlabelled=shots, out=tmp_path, mask_engine="diffusion",
        pseudo_masks=3, image_engine="diffusion",
    )  # fmt: skip
    composed = dataclasses.replace(every, image_engine="composite")
    rows = re.findall(r"^\| (`[a-z`, -]+) \|", PAGES["recipe.md"], flags=re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row)]
    assert [step.name for step in make_steps(every)] == [n for n in told if n != "grounds"]
    assert {step.name for step in make_steps(composed)} == set(told) - {"look", "image-engine"}
    for name, values in PRESETS.items():
        assert name in PAGES["recipe.md"] and str(values["pairs"]) in PAGES["recipe.md"]


def draw_leaf(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A leaf's veins, bright on green: a midrib, side veins to both hands, finer ones off them."""
    rng = np.random.default_rng(number)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    middle = SIDE_PX / 2 + rng.normal(0, 3) + np.cumsum(rng.normal(0, 0.25, SIDE_PX))
    rib = np.stack([middle, np.arange(SIDE_PX)], axis=1)
    cv2.polylines(mask, [rib.round().astype(np.int32)], False, 1, 4)
    for k, base in enumerate(range(12, SIDE_PX - 4, 11)):
        side = 1 if k % 2 else -1
        reach = np.arange(0, 40) * rng.uniform(0.8, 1.1)
        vein = np.stack(
            [middle[base] + side * reach, base - 0.6 * reach + 0.004 * reach**2], axis=1
        )
        cv2.polylines(mask, [vein.round().astype(np.int32)], False, 1, 2)
        start = vein[rng.integers(12, 25)]
        end = start + np.array([side * rng.uniform(4, 9), -rng.uniform(9, 14)])
        cv2.line(mask, start.round().astype(int).tolist(), end.round().astype(int).tolist(), 1, 1)
    ground = cv2.GaussianBlur(rng.normal(0, 60, (SIDE_PX, SIDE_PX)).astype(np.float32), None, 5)
    grey = 90 + ground + 50 * cv2.GaussianBlur(mask.astype(np.float32), None, 0.7)
    colour = np.stack([0.6 * grey, grey, 0.4 * grey], axis=2) + rng.normal(0, 2, (*grey.shape, 3))
    return colour.clip(0, 255).astype(np.uint8), mask > 0


def draw_pairs(folder: Path, numbers: range) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in numbers:
        image, mask = draw_leaf(number)
        (folder / "images" / f"leaf-{number:02d}.png").write_bytes(encode_image(image))
        (folder / "masks" / f"leaf-{number:02d}.png").write_bytes(encode_mask(mask))
    return folder


def test_the_walk_through_a_new_modality(tmp_path, monkeypatch, capsys):
    """Exactly the commands of the page, in its order, but for what makes them quick."""
    monkeypatch.chdir(tmp_path)
    draw_pairs(Path("shots"), range(1, 6))
    draw_pairs(Path("test"), range(11, 14))
    walk = commands_in("new-modality.md", "sh")
    assert [name_of(words) for words in walk] == [
        "data check", "data check", "sca fit", "sca synth", "sca show", "sca score", "run",
        "segment predict", "generate images", "export",
    ]  # fmt: skip
    for words in walk:
        alone = [] if name_of(words) in {"data check", "sca show", "segment predict"} else [1]
        workers = [word for one in alone for word in ("--workers", str(one))]
        assert main([*words, *QUICK.get(name_of(words), []), *workers]) == 0, capsys.readouterr()
    card = find_modality("leaf-veins.yaml")
    assert card.name == "leaf-veins" and card.sca
    rows = read_rows(Path("study/pairs"))
    assert len(rows) == 4 and {row["modality"] for row in rows} == {"leaf-veins"}
    assert len(open_pairs(Path("exported")).pairs) == 4 + 5
    assert len(list(Path("found/masks").iterdir())) == 3
    table = Path("study/table.md").read_text()
    assert "| unet-small | shots alone |" in table and "| unet-small | shots and pairs |" in table
    assert "leaf-veins" in Path("study/report.html").read_text()
