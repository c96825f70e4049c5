"""The four engines: what each trains, on what, and what it saves.

In: settings with nothing left open. Out: a trained run folder. Data are read and checked before
the base is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache as cache_once
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from univg.errors import UserError
from univg.files import sha256_hex, sha256_of_file
from univg.loop.folds import choose_steps
from univg.loop.loop import Outcome
from univg.modalities import Modality, find_modality
from univg.sd import (
    inspect_base,
    load_control,
    make_control,
    quiet,
    save_base,
    save_control,
)
from univg.sd_adapter import SAMPLING_STRENGTH
from univg.sd_control import find_control

from .adapt_images import AdaptImages
from .adapt_masks import AdaptMasks
from .adapter_commands import parse_adapter
from .adapters import Adapter, AdapterSpec, attach, load_adapter, spec_of
from .diffusion import DenoisingLoss, NoiseOptions, NoiseSchedule
from .drawing import SteeringGauge, draw_samples, draw_steered
from .engine_cards import CONTROL, OWN_BASE, withdraw_engine, write_engine
from .engine_task import EngineTask
from .finishing import learn_cut, learn_finish
from .images import TrainImages
from .masks import TrainMasks
from .options import TURNS, Engine, Shots
from .pictures import Kind, Picture, list_pictures_of
from .report import report_images, report_masks, report_pretraining
from .session import Session, open_session, prepare_network, run_loop
from .shots import Shot, list_shot_pictures, read_shots

if TYPE_CHECKING:
    from diffusers import ControlNetModel

ANY_MASK, ANY_IMAGE = "mask of vessels", "vessel image"
"""Prompts where no modality is named."""
HELD_OUT_SHARE, HELD_OUT_MOST = 20, 16
PREVIEW_PICTURES = 6
LOOK_NAME = "look.safetensors"
LOOK_GAIN = 4
"""alpha over rank of the adapter of the look: it starts from nothing, the ControlNet does not, and
both have one learning rate."""


def train_masks(asked: TrainMasks) -> Outcome:
    """Train a LoRA on many masks."""
    check_engine(asked)
    pictures = _list_pictures(asked, asked.data, "mask", asked.skip_bad)
    with open_session(asked, "masks", {"masks": hash_of(pictures)}) as session:
        adapter = attach(session.base.unet, spec_of(asked), asked.seed)

        def save(folder: Path) -> list[Path]:
            withdraw_engine(folder)
            files = [folder / "adapter.safetensors", folder / "adapter-diffusers.safetensors"]
            adapter.save(files[0], session.base)
            adapter.save_diffusers(files[1])
            return files

        groups, held_out = _hold_out(pictures)
        task = _make_task(session, "masks", groups, held_out, adapter=adapter, saver=save)
        outcome = run_loop(session, task)
        prompts = _prompts_of(pictures)
        file = session.out / "adapter.safetensors"
        write_engine(session, "masks", prompts[0], [(file, SAMPLING_STRENGTH)])
        if session.is_first and asked.report_samples:
            report_pretraining(session, outcome, prompts, "Mask engine")
        return outcome


def train_images(asked: TrainImages) -> Outcome:
    """Train the whole UNet on unlabelled images."""
    check_engine(asked)
    pictures = _list_pictures(asked, asked.data, "image", asked.skip_bad)
    with open_session(asked, "images", {"images": hash_of(pictures)}) as session:
        session.base.unet.requires_grad_(True)

        def save(folder: Path) -> list[Path]:
            save_base(session.base, folder / "base", half=False)
            return [folder / "base"]

        groups, held_out = _hold_out(pictures)
        task = _make_task(session, "images", groups, held_out, saver=save)
        outcome = run_loop(session, task)
        if session.is_first and asked.report_samples:
            report_pretraining(session, outcome, _prompts_of(pictures), "Image engine")
        return outcome


def adapt_masks(asked: AdaptMasks) -> Outcome:
    """Train a LoHa on a few masks; then draw some and measure them."""
    shots = _read_shots(asked, "masks")
    check_engine(asked)
    if asked.leave_one_out:
        asked = choose_steps(asked, len(shots), _adapt_fold)
    prompt = _prompt_of(asked, "mask")
    pictures = list_shot_pictures(shots, "mask", prompt)
    under = [parse_adapter(word, strength=1.0) for word in asked.adapter]
    data = {"masks": hash_of(pictures), "under": [f"{hash_file(p)}:{s:g}" for p, s in under]}
    trained, held_out = _split_shots(asked, pictures)
    with open_session(asked, "adapt-masks", data) as session:
        for path, strength in under:
            adapter = load_adapter(path, session.base, strength).requires_grad_(False)
            adapter.to(session.accelerator.device)  # no part of what is trained, which moves there
        adapter = attach(session.base.unet, spec_of(asked), asked.seed)

        def save(folder: Path) -> list[Path]:
            withdraw_engine(folder)
            adapter.save(folder / "adapter.safetensors", session.base)
            return [folder / "adapter.safetensors"]

        task = _make_task(session, "adapt-masks", [trained], held_out, adapter=adapter, saver=save)
        outcome = run_loop(session, task)
        own = (session.out / "adapter.safetensors", asked.strength)
        seen = {picture.path for picture in trained}
        masks = [shot.mask for shot in shots if shot.files["mask"] in seen]
        adapter.strength = asked.strength
        with adapter.held():
            cut = learn_cut(session, asked, prompt, masks)
            card = write_engine(session, "masks", prompt, [*under, own], cut=cut)
            if card is not None and asked.report_samples:
                report_masks(session, outcome, shots, prompt, card.cut)
        return outcome


def adapt_images(asked: AdaptImages) -> Outcome:
    """Train a ControlNet on a few pairs; then draw some and measure them."""
    shots = _read_shots(asked, "pairs")
    if asked.from_ not in {None, "unet"}:
        find_control(str(asked.from_))
    check_engine(asked)
    if asked.leave_one_out:
        asked = choose_steps(asked, len(shots), _adapt_fold)
    prompt = _prompt_of(asked, "image")
    pictures = list_shot_pictures(shots, "image", prompt)
    masks = list_shot_pictures(shots, "mask", prompt)
    data = {"images": hash_of(pictures), "masks": hash_of(masks)}
    trained, held_out = _split_shots(asked, pictures)
    with open_session(asked, "adapt-images", data) as session:
        control = _first_control(session, asked)
        control.requires_grad_(True)
        prepare_network(control, asked, session.size_px // session.base.vae_factor)
        session.base.unet.requires_grad_(asked.unet == "free")
        look = _look_adapter(session, asked) if asked.unet == "lora" else None

        def save(folder: Path) -> list[Path]:
            withdraw_engine(folder)
            files = [folder / CONTROL]
            save_control(control, files[0], half=False)
            if look is not None:
                files.append(folder / LOOK_NAME)
                look.save(files[1], session.base)
            if asked.unet == "free":
                files.append(folder / OWN_BASE)
                save_base(session.base, files[1], half=False)
            return files

        task = _make_task(
            session, "adapt-images", [trained], held_out, adapter=look, control=control,
            vessel_weight=asked.vessel_weight or 0.0, saver=save,
        )  # fmt: skip
        outcome = run_loop(session, task)
        seen = {picture.path for picture in trained}
        finish = learn_finish(session, asked, [s for s in shots if s.files["image"] in seen])
        card = write_engine(
            session, "images", prompt, [] if look is None else [(session.out / LOOK_NAME, 1.0)],
            control=CONTROL, own_base=asked.unet == "free",
            finish=finish,
        )  # fmt: skip
        if card is not None and asked.report_samples:
            report_images(session, outcome, control, shots, card, finish)
        return outcome


def _adapt_fold(fold: AdaptMasks | AdaptImages) -> Outcome:
    """Adapt without one shot: only the course of its validation is wanted."""
    if isinstance(fold, AdaptMasks):
        return adapt_masks(dataclasses.replace(fold, calibrate=0))
    return adapt_images(dataclasses.replace(fold, refine_steps=0))


def _look_adapter(session: Session, asked: AdaptImages) -> Adapter:
    """Return a fresh adapter on all layers: colour and texture sit in the convolutions."""
    dim = asked.look_dim
    spec = AdapterSpec(
        kind="lora", dim=dim, alpha=LOOK_GAIN * dim, conv_dim=dim, conv_alpha=LOOK_GAIN * dim,
        targets="all",
    )  # fmt: skip
    return attach(session.base.unet, spec, asked.seed)


def check_engine(asked: Engine) -> None:
    """Refuse what the base cannot do, before its weights are read."""
    info = inspect_base(asked.base)
    if asked.zero_terminal_snr and info.prediction_type == "epsilon":
        raise UserError(
            f"--zero-terminal-snr: base {asked.base} predicts noise, and where there is nothing "
            "but noise that teaches nothing; take a base that predicts velocity"
        )


def hash_file(path: Path) -> str:
    """Return the checksum of an adapter's file; one that is missing is told in one line."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such adapter file; give FILE or FILE:STRENGTH")
    return sha256_of_file(path)


def hash_of(pictures: Sequence[Picture]) -> str:
    """Return one checksum of all `pictures`, whatever their order and paths."""
    lines = sorted(f"{picture.sha256} {picture.prompt}" for picture in pictures)
    return sha256_hex("\n".join(lines).encode())


def _make_task(
    session: Session,
    name: str,
    groups: Sequence[Sequence[Picture]],
    held_out: Sequence[Picture],
    *,
    adapter: Adapter | None = None,
    control: ControlNetModel | None = None,
    vessel_weight: float = 0.0,
    saver: Any,
) -> EngineTask:
    asked, base = session.asked, session.base
    turns = TURNS[asked.turns] if isinstance(asked, Shots) else (0,)
    skip_bad: bool = getattr(asked, "skip_bad", False)
    cache = session.open_cache()
    groups = [session.fill_cache(cache, group, turns, skip_bad) for group in groups]
    held_out = session.fill_cache(cache, held_out, (0,), skip_bad)
    pictures = [picture for group in groups for picture in group]
    text = session.embed(sorted({picture.prompt for picture in [*pictures, *held_out]}))
    options = NoiseOptions(asked.min_snr, asked.noise_offset, asked.zero_terminal_snr)
    schedule = NoiseSchedule(base.scheduler, options)
    base.scheduler = schedule.sampler  # previews, report and saved base follow what is trained
    module = DenoisingLoss(
        base.unet,
        schedule,
        control=control,
        adapter=adapter,
        vessel_weight=vessel_weight,
    )
    session.rest_encoders()
    session.place_networks(module)
    prompts = _prompts_of(pictures)
    layout: dict[str, Any] = {"size_px": session.size_px, "fit": asked.fit}

    def preview(_: int) -> Any:
        if control is not None:
            shown = [*held_out, *pictures][:PREVIEW_PICTURES]
            return draw_steered(base, control, shown, seed=asked.seed, **layout)
        shown_prompts = (prompts * PREVIEW_PICTURES)[:PREVIEW_PICTURES]
        return draw_samples(base, shown_prompts, seed=asked.seed, size_px=session.size_px)

    @cache_once
    def gauge() -> SteeringGauge:
        assert control is not None
        return SteeringGauge(base, control, [*held_out, *pictures], seed=asked.seed, **layout)

    return EngineTask(
        name,
        module,
        cache,
        text,
        groups,
        held_out=held_out,
        turns=turns,
        prompt_drop=asked.prompt_drop,
        saver=saver,
        previewer=preview,
        measurer=None if control is None else lambda _: gauge().measure(),
    )


def _list_pictures(
    asked: Engine, roots: Sequence[Path], kind: Kind, skip_bad: bool
) -> list[Picture]:
    default: Modality | str = find_modality(asked.modality) if asked.modality else ""
    default = asked.prompt or default or (ANY_MASK if kind == "mask" else ANY_IMAGE)
    # In the run folder under a name that `claim_folder` passes over: it is not claimed yet.
    hashes = asked.cache / "hashes.json" if asked.cache else asked.out / ".univg-hashes.json"
    return list_pictures_of(roots, kind, default=default, skip_bad=skip_bad, hashes=hashes)


def _prompts_of(pictures: Sequence[Picture]) -> list[str]:
    return list(dict.fromkeys(picture.prompt for picture in pictures))


def _prompt_of(asked: Engine, kind: Kind) -> str:
    if asked.prompt is not None:
        return asked.prompt
    if asked.modality is None:
        return ANY_MASK if kind == "mask" else ANY_IMAGE
    card = find_modality(asked.modality)
    return card.mask_prompt if kind == "mask" else card.image_prompt


def _read_shots(asked: AdaptMasks | AdaptImages, need: Any) -> list[Shot]:
    size_px = asked.size_px or inspect_base(asked.base).native_px
    return read_shots(
        asked.shots,
        need=need,
        size_px=size_px,
        fit=asked.fit,
        wanted=asked.wanted,
        skip_bad=asked.skip_bad,
    )


def _split_shots(asked: Shots, pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Return shots to train on, and those to validate on: the same where none are held out."""
    if asked.left_out is not None:
        if asked.hold_out:
            raise UserError(
                "--left-out names one shot, --hold-out takes the last: give one of them"
            )
        if asked.left_out >= len(pictures) or len(pictures) < 2:
            raise UserError(
                f"--left-out {asked.left_out}: there are {len(pictures)} shots, numbered from 0, "
                "and one at least must be left"
            )
        alone = pictures[asked.left_out]
        return [picture for picture in pictures if picture is not alone], [alone]
    if not asked.hold_out:
        return pictures, pictures
    if asked.hold_out >= len(pictures):
        raise UserError(
            f"--hold-out {asked.hold_out}: of {len(pictures)} shots one at least must be left"
        )
    return pictures[: -asked.hold_out], pictures[-asked.hold_out :]


def _hold_out(pictures: list[Picture]) -> tuple[list[list[Picture]], list[Picture]]:
    """Return the pictures to train on, a group a modality, and some held out evenly."""
    stride = max(HELD_OUT_SHARE, len(pictures) // HELD_OUT_MOST)
    held_out = pictures[::stride] if len(pictures) >= 2 * HELD_OUT_SHARE else []
    names = {picture.path for picture in held_out}
    return [[picture for picture in pictures if picture.path not in names]], held_out


def _first_control(session: Session, asked: AdaptImages) -> ControlNetModel:
    start = asked.from_ or ("nano" if asked.base == "nano" else "unet")
    if start == "unet":
        base = session.base
        return make_control(base.unet, vae_factor=base.vae_factor, seed=asked.seed)
    with quiet():
        return load_control(start, session.base).to(torch.float32)
