"""`univg sca fit`: five masks in, a card out that grows masks like them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from univg import __version__
from univg.cli import main
from univg.config import from_plain, to_plain
from univg.masks import read_mask, write_mask
from univg.modalities import find_modality
from univg.pairs import find_masks
from univg.sca.compose import grow_mask
from univg.sca.fit import Fit, FitResult, first_card, judge, make_target, read_masks, run
from univg.sca.params import Growth, growth_of
from univg.sca.score import score_masks
from univg.sca.synth import Synth
from univg.sca.synth import run as run_synth

# A look of no shipped modality: few broad vessels out of one place at the left.
BROAD = {
    "points": {"root": {"at": [0.1, 0.5], "spread": [0.02, 0.1]}},
    "guides": [
        {
            "kind": "fan", "origin": "root", "count": [3, 4], "sector_deg": [-50, 50],
            "length": [0.6, 0.9], "bend_deg": [0, 40], "wave_px": [3, 8], "end_radius_px": [4, 6],
        }
    ],
    "stages": [
        {"attraction_px": 80, "kill_px": 20, "step_px": 6, "cell_px": [70, 90], "keep": 0.6,
         "inertia": 0.5, "lean": 0.5}
    ],
    "widths": {"tip_radius_px": 4.0, "max_radius_px": 14.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five masks of an unknown modality."""
    folder = tmp_path_factory.mktemp("broad")
    growth = from_plain(Growth, BROAD)
    for k in range(5):
        pixels = grow_mask(growth, 128, 128, np.random.default_rng(k)).pixels
        write_mask(folder / f"{k}.png", pixels > 0)
    return folder


def settings(real: Path, out: Path, **more) -> Fit:
    small = {"rounds": 1, "candidates": 4, "masks": 4, "size": 128, "workers": 1}
    return Fit(real=real, out=out, **small | more)


@pytest.fixture(scope="module")
def fitted(real: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(settings(real, tmp_path_factory.mktemp("cards") / "broad.yaml"))


def test_the_card_is_one_and_carries_its_files_name(fitted):
    card = find_modality(str(fitted.card))
    assert card.name == "broad" and "broad" in card.mask_prompt
    growth = growth_of(card)
    assert to_plain(growth) == to_plain(from_plain(Growth, fitted.on_real.section))
    assert growth.guides and growth.stages


def test_no_search_makes_it_worse(fitted):
    for found in (fitted.on_real, fitted.free):
        assert 0 < found.after <= found.before


def test_what_is_said_of_the_distance_is_what_the_card_gives(fitted, real):
    given = settings(real, fitted.card)
    masks = read_masks(real, strict=False)
    target = make_target(masks, growth_of(find_modality(str(fitted.card))).real.roots, given)
    section = to_plain(growth_of(find_modality(str(fitted.card))))
    assert judge(section, target, on_real=True) == pytest.approx(fitted.on_real.after)
    assert judge(section, target, on_real=False) == pytest.approx(fitted.free.after)


def test_the_head_says_where_the_card_comes_from(fitted):
    head = [line for line in fitted.card.read_text().splitlines() if line.startswith("#")]
    said = " ".join(head)
    assert f"univg {__version__}" in said and "5 masks" in said
    for found in (fitted.on_real, fitted.free):
        assert f"{found.before:.3f} -> {found.after:.3f}" in said


@pytest.mark.parametrize("on_real", [True, False])
def test_the_card_synthesizes_masks(fitted, real, on_real, tmp_path):
    made = run_synth(
        Synth(
            out=tmp_path / "new", modality=(str(fitted.card),), count=3, size=(96, 128),
            real=real if on_real else None, workers=1,
        )
    )  # fmt: skip
    assert made.masks == 3
    masks = [read_mask(path) for path in find_masks(tmp_path / "new")]
    assert {mask.shape for mask in masks} == {(96, 128)}
    assert all(0.01 < mask.mean() < 0.6 for mask in masks)


def test_the_number_of_workers_changes_no_byte(fitted, real, tmp_path):
    again = run(settings(real, tmp_path / "broad.yaml", workers=2))
    assert again.card.read_bytes() == fitted.card.read_bytes()


def test_another_seed_gives_another_card(fitted, real, tmp_path):
    other = run(settings(real, tmp_path / "broad.yaml", seed=1))
    assert other.card.read_bytes() != fitted.card.read_bytes()


def test_the_masks_are_nearer_to_the_real_ones_than_another_modality(fitted, real):
    """A user's own modality, without code."""
    masks = [read_mask(path) for path in find_masks(real)]

    def distance(name: str) -> float:
        growth = growth_of(find_modality(name))
        made = [
            grow_mask(growth, 128, 128, np.random.default_rng(90 + k)).pixels > 0 for k in range(6)
        ]
        score = score_masks(masks, made, size_px=128, draws=20)
        return score.comparison.energy.mean

    assert 2 * distance(str(fitted.card)) < distance("octa")


def test_a_start_from_a_card_keeps_its_roots_and_guides(real, tmp_path):
    found = run(settings(real, tmp_path / "mine.yaml", like="coronary", rounds=0, masks=4))
    card, base = find_modality(str(found.card)), find_modality("coronary")
    mine, theirs = growth_of(card), growth_of(base)
    assert card.name == "mine" and card.title == base.title
    assert mine.points == theirs.points and mine.real.roots == theirs.real.roots
    assert mine == theirs
    assert found.free.before == found.free.after


def test_a_search_from_a_card_turns_knobs_and_keeps_courses(real, tmp_path):
    found = run(settings(real, tmp_path / "mine.yaml", like="coronary"))
    mine, theirs = growth_of(find_modality(str(found.card))), growth_of(find_modality("coronary"))
    assert mine.points == theirs.points and mine.variants == theirs.variants
    assert mine.real.roots == theirs.real.roots == "thick"
    assert [g.through for g in mine.guides] == [g.through for g in theirs.guides]
    assert [g.origin for g in mine.guides] == [g.origin for g in theirs.guides]
    assert mine != theirs


def test_no_round_writes_the_first_estimate(real, tmp_path):
    given = settings(real, tmp_path / "mine.yaml", rounds=0)
    base, _ = first_card("mine", read_masks(real, strict=False), given)
    found = run(given)
    assert growth_of(find_modality(str(found.card))) == growth_of(base)
    assert found.on_real.before == found.on_real.after


def test_roots_asked_for_are_roots_given(real, tmp_path):
    masks = read_masks(real, strict=False)
    for roots in ("hub", "border", "thick"):
        for like in (None, "coronary"):
            given = settings(real, tmp_path / "mine.yaml", roots=roots, like=like)
            card, rooting = first_card("mine", masks, given)
            assert rooting == roots and growth_of(card).real.roots == roots


def test_a_copier_is_fined(real, tmp_path):
    """Followed to the letter a shot is copied: near by its looks, and yet dear."""
    given = settings(real, tmp_path / "mine.yaml")
    masks = read_masks(real, strict=False)
    base, rooting = first_card("mine", masks, given)
    target = make_target(masks, rooting, given)
    still = {"warp_px": 0.0, "rotate_deg": 0.0, "zoom": 1.0, "shift_px": 0.0, "jitter_px": 0.0,
             "mirror": False, "strength": 1.0, "fill": 0.0}  # fmt: skip
    copier = {**base.sca, "real": {**base.sca["real"], **still}}
    unfined = dataclasses.replace(target, copy_limit=1.0)
    with_fine, without = (judge(copier, aim, on_real=True) for aim in (target, unfined))
    assert with_fine > without + 1.0
    assert judge(base.sca, target, False) - judge(base.sca, unfined, False) < with_fine - without


def test_a_card_that_is_there_is_replaced_only_when_asked(real, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    out.write_text("years: of work\n")
    words = ["sca", "fit", "--real", str(real), "-o", str(out), "--rounds", "0", "--masks", "4",
             "--size", "64", "--candidates", "4", "--workers", "1"]  # fmt: skip
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "years: of work\n"
    assert main([*words, "--overwrite"]) == 0
    assert yaml.safe_load(out.read_text())["name"] == "mine"


def test_a_dry_run_writes_nothing(real, tmp_path, capsys):
    out = tmp_path / "new" / "mine.yaml"
    assert main(["sca", "fit", "--real", str(real), "--out", str(out), "--dry-run"]) == 0
    assert "candidates of 12 masks each" in capsys.readouterr().out.replace("\n", " ")
    assert not out.parent.exists()
