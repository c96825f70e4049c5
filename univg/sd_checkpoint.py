"""SD 1.5 as people have it: one .safetensors file in the layout of the original code.

In: the file. Out: UNet, VAE, text encoder, tokenizer and scheduler, converted by diffusers with the
configurations that lie in `assets/sd15`, so that nothing is fetched. Only the tokenizer's words
(1.5 MB) are not part of such a file: they are taken from a folder `tokenizer` beside it, or from
the local hub cache.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import DataError, UserError

if TYPE_CHECKING:
    import torch

SD15 = Path(__file__).parent / "assets" / "sd15"
TOKENIZER_ID = "openai/clip-vit-large-patch14"
MIN_WORDS = 256
"""A byte-level tokenizer has at least its bytes."""
_UNET = "model.diffusion_model."
_PARTS_OF_SD1 = {
    "unet": f"{_UNET}input_blocks.0.0.weight",
    "vae": "first_stage_model.decoder.conv_in.weight",
    "text_encoder": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
}
_STARTS = {"unet": _UNET, "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
_OTHERS = {
    "lora_unet_": "an adapter (LoRA or LoHa); give the base here and the file as an adapter",
    "lora_te_": "an adapter (LoRA or LoHa); give the base here and the file as an adapter",
    "unet.": "parts of a diffusers pipeline or an adapter; give the folder in diffusers layout",
    "conditioner.embedders.": "an SDXL checkpoint; univg takes those of SD 1.5",
    "cond_stage_model.model.": "an SD 2 checkpoint; univg takes those of SD 1.5",
    f"{_UNET}joint_blocks.": "an SD 3 checkpoint; univg takes those of SD 1.5",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint; univg takes those of SD 1.5",
    "double_blocks.": "a Flux checkpoint; univg takes those of SD 1.5",
    "control_model.": "a ControlNet; give the base here and the ControlNet where one is asked for",
    "down_blocks.": "one part of a diffusers pipeline; give the folder that holds all of them",
    "decoder.": "a VAE alone; give the checkpoint that holds the UNet too",
    "text_model.": "a text encoder alone; give the checkpoint that holds the UNet too",
}
"""How keys begin in files that are something else, and what they are."""


def sd15_configs() -> dict[str, dict[str, Any]]:
    """Return the configurations of SD 1.5: unet, vae, text_encoder and scheduler."""
    files = {part: SD15 / part / "config.json" for part in ("unet", "vae", "text_encoder")}
    files["scheduler"] = SD15 / "scheduler" / "scheduler_config.json"
    return {part: json.loads(path.read_text(encoding="utf-8")) for part, path in files.items()}


def build_on_meta(part: str, config: dict[str, Any]) -> torch.nn.Module:
    """Return a unet, vae or text_encoder of `config` with shapes and no memory."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    built: torch.nn.Module
    with torch.device("meta"):
        if part == "text_encoder":
            built = CLIPTextModel(CLIPTextConfig(**config))
        else:
            model: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
            built = model.from_config(config)
    return built


def build_sd15_on_meta() -> dict[str, torch.nn.Module]:
    """Return unet, vae and text_encoder of SD 1.5 with real shapes and no memory."""
    configs = sd15_configs()
    return {part: build_on_meta(part, configs[part]) for part in _PARTS_OF_SD1}


def check_checkpoint(path: Path) -> None:
    """Refuse a file that is not a whole SD 1.x checkpoint, naming what it is, by its keys."""
    shapes = read_shapes(path)
    for part, key in _PARTS_OF_SD1.items():
        if key in shapes:
            continue
        for start, what in _OTHERS.items():
            if any(name.startswith(start) for name in shapes):
                raise DataError(f"{path}: is {what}")
        raise DataError(f"{path}: is not an SD 1.5 checkpoint: it lacks its {part} ({key})")
    channels = shapes[_PARTS_OF_SD1["unet"]][1]
    if channels == 9:
        raise DataError(f"{path}: is an inpainting checkpoint (9 input channels); take a plain one")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in a safetensors file, from its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: is not a whole safetensors file ({error}); copy or download it again"
        ) from error


def read_checkpoint(path: Path, parts: Sequence[str], configs: Path = SD15) -> dict[str, Any]:
    """Load `parts` of the checkpoint at `path`; `configs` is a folder of diffusers configs."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel

    check_checkpoint(path)
    scheduler = DDIMScheduler.from_pretrained(str(configs), subfolder="scheduler")
    loaded: dict[str, Any] = {"scheduler": scheduler}
    if "text_encoder" in parts:  # first: it is the likeliest to fail, and cheap
        loaded["tokenizer"] = find_tokenizer(path)
    common: dict[str, Any] = {"config": str(configs), "torch_dtype": torch.float32}
    common["local_files_only"] = True
    try:
        for part, model in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
            if part in parts:
                stored = _read_part(path, part)
                loaded[part] = model.from_single_file(stored, subfolder=part, **common)
        if "text_encoder" in parts:
            loaded["text_encoder"] = create_diffusers_clip_model_from_ldm(
                CLIPTextModel,
                _read_part(path, "text_encoder"),
                subfolder="text_encoder",
                **common,
            )
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: is not a whole SD 1.5 checkpoint: weights are missing or of another shape "
            f"({reason})"
        ) from error
    _refuse_holes(loaded, path)
    if "text_encoder" in parts:
        check_tokenizer(loaded["tokenizer"], loaded["text_encoder"], path.parent / "tokenizer")
    return loaded


def check_tokenizer(tokenizer: Any, text_encoder: Any, where: Path) -> None:
    """Refuse a tokenizer that is not the text encoder's.

    transformers 5 makes one of three words, without a warning, where it finds no vocabulary.
    """
    words, places = len(tokenizer), int(text_encoder.config.vocab_size)
    if not MIN_WORDS < words <= places:
        raise DataError(
            f"{where}: its tokenizer knows {words} words, the text encoder {places}; "
            "copy vocab.json and merges.txt (or tokenizer.json) of the same base there"
        )


def _read_part(path: Path, part: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one part: a checkpoint often holds a second, averaged UNet too."""
    from safetensors import safe_open

    start = _STARTS[part]
    with safe_open(str(path), framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys() if name.startswith(start)}  # noqa: SIM118


def find_tokenizer(path: Path) -> Any:
    """Return CLIP's tokenizer: from `tokenizer/` beside the file at `path`, or the hub cache."""
    from transformers import CLIPTokenizer

    beside = path.parent / "tokenizer"
    if beside.is_dir():
        try:
            return CLIPTokenizer.from_pretrained(str(beside), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{beside}: is not a CLIP tokenizer; copy it again") from error
    with contextlib.suppress(OSError, ValueError):
        cached = CLIPTokenizer.from_pretrained(TOKENIZER_ID, local_files_only=True)
        if len(cached) > MIN_WORDS:
            return cached
    raise UserError(
        f"{path}: a single-file checkpoint holds no tokenizer, and {TOKENIZER_ID} is not in "
        f"the local hub cache; run `hf download {TOKENIZER_ID} vocab.json merges.txt "
        f"tokenizer_config.json --local-dir {beside}` on a machine with network, or copy the "
        f"folder tokenizer of any SD 1.5 to {beside}"
    )


def _refuse_holes(loaded: dict[str, Any], path: Path) -> None:
    """Refuse a file that left weights unset: diffusers leaves them on the meta device."""
    for part in _PARTS_OF_SD1:
        model = loaded.get(part)
        holes = [n for n, w in model.named_parameters() if w.is_meta] if model is not None else []
        if holes:
            raise DataError(
                f"{path}: lacks {len(holes)} weights of its {part} ({holes[0]} first); "
                "download it again"
            )


def refuse_nan(loaded: dict[str, Any], path: Path) -> None:
    """Refuse weights that are no numbers: all that is drawn with them would be black."""
    import torch

    for part in _PARTS_OF_SD1:
        model = loaded.get(part)
        for name, weight in model.named_parameters() if model is not None else ():
            # A sum is infinite or NaN if one of its terms is, and needs no copy of the weights.
            if not torch.isfinite(weight.detach().sum(dtype=torch.float64)):
                raise DataError(
                    f"{path}: holds weights that are no numbers ({part}, {name}); copy it again"
                )
