"""The three parts of `univg train base`.

In: its settings. Out: trained parts, each saved in its run folder, and together `OUT/base`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel

from univg import __version__
from univg.config import to_plain
from univg.files import make_folder, sha256_hex, write_atomic
from univg.loop.device import make_accelerator
from univg.loop.loop import Outcome, train
from univg.loop.task import Task
from univg.modalities import find_modality, modality_names
from univg.progress import show_progress
from univg.sd import (
    Base,
    embed_prompts,
    load_base,
    load_control,
    make_control,
    save_base,
    save_control,
)
from univg.sd_compute import set_attention
from univg.sd_source import find_base

from . import nano
from .base import FOLDERS, HELD_OUT, Part, TrainBase, loop_settings
from .diffusion import DenoisingLoss, NoiseOptions, NoiseSchedule
from .drawing import draw_samples, draw_steered
from .engine_task import EngineTask
from .latents import LatentCache
from .pictures import Kind, Picture, list_pictures_of, load_picture
from .vae_task import VaeTask, to_tensor

DONE = "done.json"
LATENT_PX = nano.NATIVE_PX // 8
VESSEL_WEIGHT = 4.0
"""Of the ControlNet's loss, where there is a vessel."""
PATTERN = (0, 1, 0, 2)
"""Half of what the UNet sees are masks, a quarter drawn images, a quarter photographed ones."""


class Parts:
    """Trains what is asked for; loads what is done already."""

    def __init__(self, asked: TrainBase) -> None:
        self.asked = asked
        self.folder = asked.out / "base"

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the first."""
        pictures = [*self._list(self.asked.data, "mask"), *self.images[0], *self.images[1]]
        sums = sorted(picture.sha256 for picture in pictures)
        free = {"out", "data", "unlabelled", "until", "preview_every"}
        asked = {name: value for name, value in to_plain(self.asked).items() if name not in free}
        if self.asked.start:
            asked["start"] = load_base(self.asked.start, parts=("unet",)).identity
        data = sha256_hex("\n".join(sums).encode())
        return {"stage": "train base", "version": __version__, "settings": asked, "data": data}

    @cached_property
    def masks(self) -> tuple[list[Picture], list[Picture]]:
        """Masks to train on and masks held out."""
        return _hold_out(self._list(self.asked.data, "mask"))

    @cached_property
    def images(self) -> tuple[list[Picture], list[Picture]]:
        """Images to train on and images held out."""
        with_images = [root for root in self.asked.data if any(root.glob("*/images"))]
        return _hold_out(self._list([*with_images, *self.asked.unlabelled], "image"))

    def _list(self, roots: Sequence[Path], kind: Kind) -> list[Picture]:
        return list_pictures_of(roots, kind, hashes=self.asked.out / ".univg-hashes.json")

    def place(self, part: Part) -> Path:
        """Return the run folder of `part`."""
        return self.asked.out / FOLDERS[part]

    def is_done(self, part: Part) -> bool:
        """Whether `part` is trained."""
        return (self.place(part) / DONE).exists()

    def train_vae(self) -> None:
        """Train the autoencoder."""
        if self.asked.start:
            vae = load_base(self.asked.start, parts=("vae",)).vae
        else:
            vae = nano.make_vae(self.asked.seed)
        self._train(self._vae_task("vae", vae.requires_grad_(True)), "vae")

    def train_decoder(self) -> None:
        """Train the decoder alone, longer; the latents stay what the UNet knows."""
        vae = load_base(str(self.place("unet") / "base"), parts=("unet", "vae")).vae
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
        self._train(self._vae_task("decoder", vae), "decoder")

    def assemble(self) -> None:
        """Write the base from the parts that are done."""
        if not self.is_done("unet"):
            return
        base = load_base(str(self.place("unet") / "base"))
        if self.is_done("decoder"):
            base.vae = AutoencoderKL.from_pretrained(self.place("decoder") / "vae")
        save_base(base, self.folder)
        if self.is_done("control"):
            control = load_control(self.place("control") / "controlnet", base)
            save_control(control, self.folder / "controlnet")

    def _vae_task(self, name: str, vae: AutoencoderKL) -> VaeTask:
        (masks, held_masks), (images, held_images) = self.masks, self.images
        return VaeTask(
            vae,
            masks,
            images,
            [*held_masks[: HELD_OUT // 2], *held_images[: HELD_OUT // 2]],
            size_px=nano.NATIVE_PX,
            crop_px=self.asked.crop_px,
            name=name,
        )

    def train_unet(self) -> None:
        """Train UNet and text encoder together on latents."""
        base = self._fresh_base()
        set_attention(base.unet, "auto", LATENT_PX)
        (masks, held_masks), (images, held_images) = self.masks, self.images
        drawn = [picture for picture in images if picture.mask_path is not None]
        photographed = [picture for picture in images if picture.mask_path is None]
        groups = [group for group in (masks, drawn, photographed) if group]
        held_out = [*held_masks[: HELD_OUT // 2], *held_images[: HELD_OUT // 2]]
        cache = self._fill_cache(base, [*masks, *images, *held_out])
        text_encoder = base.text_encoder.requires_grad_(True).train()
        module = DenoisingLoss(
            base.unet.requires_grad_(True).train(),
            NoiseSchedule(base.scheduler, NoiseOptions()),
            text_encoder=text_encoder,
        )
        prompts = sorted({picture.prompt for group in groups for picture in group} | {""})
        task = EngineTask(
            "unet",
            module,
            cache,
            _tokens_of(base, prompts),
            groups,
            held_out=held_out,
            pattern=PATTERN if len(groups) == 3 else tuple(range(len(groups))),
            text_key="tokens",
            saver=lambda folder: self._save_base(base, folder),
            previewer=lambda _: draw_samples(base, [p for p in prompts if p], seed=self.asked.seed),
        )
        self._train(task, "unet")

    def train_control(self) -> None:
        """Train the ControlNet on pairs, the UNet locked."""
        base = load_base(str(self.place("unet") / "base"))
        set_attention(base.unet, "auto", LATENT_PX)
        if self._starts_with_control():
            control = load_control(str(self.asked.start), base)
        else:
            control = make_control(base.unet, seed=self.asked.seed)
        set_attention(control, "auto", LATENT_PX)
        pairs = [picture for picture in self.images[0] if picture.mask_path is not None]
        held_out = [picture for picture in self.images[1] if picture.mask_path is not None]
        cache = self._fill_cache(base, [*pairs, *held_out])
        prompts = sorted({picture.prompt for picture in pairs})
        text = dict(zip([*prompts, ""], embed_prompts(base, [*prompts, ""]), strict=True))
        module = DenoisingLoss(
            base.unet,
            NoiseSchedule(base.scheduler, NoiseOptions()),
            control=control.requires_grad_(True).train(),
            vessel_weight=VESSEL_WEIGHT,
        )
        task = EngineTask(
            "control",
            module,
            cache,
            text,
            [pairs],
            held_out=held_out,
            saver=lambda folder: self._save_control(control, folder),
            previewer=lambda _: draw_steered(base, control, held_out[:6], seed=self.asked.seed),
        )
        self._train(task, "control")

    def _starts_with_control(self) -> bool:
        start = self.asked.start
        return start is not None and (find_base(start).path / "controlnet").is_dir()

    def _fresh_base(self) -> Base:
        if self.asked.start:
            base = load_base(self.asked.start)
            if self.is_done("vae"):
                base.vae = self.load_vae()
            return base
        seed = self.asked.seed
        tokenizer = nano.make_tokenizer(all_words(), self.place("unet") / "tokenizer")
        unet = nano.make_unet(seed)
        return Base(
            name="nano",
            unet=unet,
            vae=self.load_vae(),
            text_encoder=nano.make_text_encoder(seed, len(tokenizer)),
            tokenizer=tokenizer,
            scheduler=nano.make_scheduler(),
            identity="",
        )

    def _fill_cache(self, base: Base, pictures: list[Picture]) -> LatentCache:
        folder = self.asked.out / "cache"
        cache = LatentCache(folder, base, size_px=nano.NATIVE_PX, fit="crop")
        missing = cache.count_missing(pictures)
        with show_progress(missing, "latents", "pictures") as progress:
            cache.prepare(pictures, progress=progress)
        return cache

    def _save_base(self, base: Base, folder: Path) -> list[Path]:
        save_base(base, folder / "base", half=False)
        return [folder / "base"]

    def _save_control(self, control: ControlNetModel, folder: Path) -> list[Path]:
        save_control(control, folder / "controlnet", half=False)
        return [folder / "controlnet"]

    def _train(self, task: Task, part: Part) -> Outcome:
        wanted = loop_settings(self.asked, part)
        make_folder(wanted.out)
        accelerator = make_accelerator(wanted)
        outcome = train(task, wanted, accelerator)
        accelerator.free_memory()
        done = {"steps": outcome.steps, "seconds": round(outcome.seconds, 1)}
        write_atomic(wanted.out / DONE, (json.dumps(done) + "\n").encode())
        return outcome

    def load_vae(self) -> AutoencoderKL:
        """Return the trained autoencoder, its latents scaled to unit spread."""
        vae = AutoencoderKL.from_pretrained(self.place("vae") / "vae").eval().requires_grad_(False)
        lists = (self.masks[0], self.images[0])
        sample = [picture for each in lists for picture in each[:: max(1, len(each) // 64)]]
        pixels = [to_tensor(load_picture(picture, nano.NATIVE_PX, "crop")) for picture in sample]
        with torch.no_grad():
            codes = [vae.encode(part[None]).latent_dist.mean for part in pixels]
        vae.register_to_config(scaling_factor=round(1 / float(torch.cat(codes).std()), 4))
        return vae


def _hold_out(pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Split off HELD_OUT pictures, spread evenly over the list."""
    stride = max(2, len(pictures) // HELD_OUT)
    held = pictures[::stride][:HELD_OUT]
    names = {picture.path for picture in held}
    return [picture for picture in pictures if picture.path not in names], held


def _tokens_of(base: Base, prompts: list[str]) -> dict[str, torch.Tensor]:
    tokens = base.tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=base.tokenizer.model_max_length,
        return_tensors="pt",
    )
    return dict(zip(prompts, tokens.input_ids, strict=True))


def all_words() -> list[str]:
    """Return the words of all cards' prompts."""
    cards = [find_modality(name) for name in modality_names()]
    text = " ".join(f"{card.mask_prompt} {card.image_prompt}" for card in cards)
    return [*text.lower().split(), "vessel", "retina", "angiogram", "grey", "dark", "bright"]
