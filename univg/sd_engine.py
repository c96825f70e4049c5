"""What an adaptation leaves behind for those who draw with it: `engine.json` in its run folder.

In: a base, adapters with their strengths, a ControlNet, the prompt and size that were trained.
Out: a card on disk that names them by path and checksum, and the loaded engine. Stages meet here:
training writes the card, generation reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from univg.binarise import Cut
from univg.errors import DataError
from univg.files import sha256_hex, sha256_of_file, write_atomic
from univg.grain import Grain
from univg.sd_source import EMBEDDED

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from univg.sd import Base
    from univg.sd_refiner import Finisher

ENGINE_NAME = "engine.json"
FORMAT = 1
Kind = Literal["masks", "images"]
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str, "bool": bool, "float": (int, float), "int | None": (int, type(None)),
}  # fmt: skip
"""What the annotations of a card's plain fields take."""


@dataclass(frozen=True, kw_only=True)
class CardAdapter:
    """An adapter and the strength at which it is to be used."""

    file: str
    """Path; relative ones lie in the run folder."""
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EngineCard:
    """All that an engine is made of."""

    kind: Kind
    base: str
    """What `--base` takes; or the name of a folder beside the card."""
    base_identity: str = ""
    adapters: tuple[CardAdapter, ...] = ()
    control: str = ""
    """Folder of the ControlNet (beside the card, if relative), `nano` for the embedded one, empty
    for none."""
    control_sha256: str = ""
    prompt: str = ""
    modality: str = ""
    size_px: int | None = None
    """Side of the square that was trained; None: the base's own."""
    fit: str = "stretch"
    zero_terminal_snr: bool = False
    """Whether training rescaled the base's noise schedule to end in noise alone."""
    cut: Cut = field(default_factory=Cut)
    """How drawn masks are cut; chosen on the shots."""
    grain: Grain | None = None
    """Of images: what the autoencoder loses of the shots' grain."""
    is_grey: bool = False
    """Of images: whether the shots have no colour; drawn ones then have none either."""
    refiner: str = ""
    """Of images: what puts back vessels that the autoencoder loses; in the run folder."""
    refiner_sha256: str = ""
    refiner_strength: float = 1.0
    """Chosen on the shots."""
    folder: Path = field(default=Path(), compare=False)
    """Where the card lies."""

    def provenance(self) -> dict[str, Any]:
        """Return what a manifest says of the engine: no paths, checksums instead."""
        return {
            "base": self.base_identity,
            "adapters": [[each.sha256[:16], each.strength] for each in self.adapters],
            "control": self.control_sha256[:16],
            "zero_terminal_snr": self.zero_terminal_snr,
        }


def write_card(card: EngineCard, folder: Path) -> Path:
    """Write `card` into the run folder it describes."""
    plain = {"format": FORMAT, **asdict(card)}
    del plain["folder"]
    path = folder / ENGINE_NAME
    write_atomic(path, (json.dumps(plain, indent=1) + "\n").encode())
    return path


def read_card(folder: Path, kind: Kind) -> EngineCard:
    """Read the card of a run folder; one of another kind, or none, is refused."""
    path = folder / ENGINE_NAME
    makes = {"masks": "adapt-masks or train masks", "images": "adapt-images"}[kind]
    if not folder.is_dir():
        raise DataError(f"{folder}: does not exist; give the run folder of univg train {makes}")
    if not path.is_file():
        unfinished = (folder / "run.json").is_file()
        hint = "its run is not finished: run it again" if unfinished else f"univg train {makes}"
        raise DataError(f"{folder}: holds no {ENGINE_NAME} of a trained engine; {hint}")
    try:
        plain = json.loads(path.read_bytes())
        if plain.pop("format") != FORMAT:
            raise DataError(f"{path}: is of another version of univg; train the engine again")
        plain["adapters"] = tuple(CardAdapter(**each) for each in plain["adapters"])
        plain["cut"] = Cut(**plain["cut"])
        plain["grain"] = Grain.read(plain["grain"]) if plain.get("grain") else None
        card = _check_types(EngineCard(**plain, folder=folder))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); train the engine again") from error
    if card.kind != kind:
        raise DataError(f"{folder}: is an engine of {card.kind}, not of {kind}; see train {makes}")
    return card


def _check_types(card: EngineCard) -> EngineCard:
    """Return `card` if its words are words and its numbers numbers."""
    for each in fields(EngineCard):
        value, wanted = getattr(card, each.name), TYPES.get(str(each.type))
        if wanted and (
            not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
        ):
            raise TypeError(f"{each.name} is {value!r}")
    return card


def plain_card(kind: Kind, base: str, prompt: str, modality: str, control: str = "") -> EngineCard:
    """Return the card of a base without any adaptation."""
    return EngineCard(kind=kind, base=base, prompt=prompt, modality=modality, control=control)


def load_engine(card: EngineCard) -> tuple[Base, ControlNetModel | None, EngineCard]:
    """Load the base with its adapters baked in, the ControlNet, and the card with checksums."""
    from dataclasses import replace

    from diffusers import DDIMScheduler

    from univg.sd import load_base, load_control
    from univg.sd_adapter import merge_adapters, read_as_adapter

    base = load_base(base_of(card))
    if card.base_identity and base.identity != card.base_identity:
        raise DataError(
            f"{card.folder}: was trained on base {card.base_identity}, and {card.base} is now "
            f"{base.identity}; train the engine again, or restore that base"
        )
    adapters = []
    for each in card.adapters:
        path = card.folder / each.file
        if not path.is_file() or sha256_of_file(path) != each.sha256:
            raise DataError(f"{path}: is missing or not the adapter that {card.folder} names")
        adapters.append(read_as_adapter(path, base, each.strength))
    if adapters:
        merge_adapters(adapters, base.unet, base.text_encoder)
    control = load_control(_place(card.control, card.folder), base) if card.control else None
    if card.zero_terminal_snr:
        changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        base.scheduler = DDIMScheduler.from_config(base.scheduler.config, **changed)
    found = hash_control(_place(card.control, card.folder)) if card.control else ""
    if card.control_sha256 and card.control_sha256 != found:
        raise DataError(f"{card.folder}: its ControlNet has changed; train the engine again")
    return base, control, replace(card, base_identity=base.identity, control_sha256=found)


def load_refiner(card: EngineCard) -> Finisher | None:
    """Load what finishes the images of `card`, where it has one."""
    from univg.sd_refiner import load_finisher

    if not card.refiner:
        return None
    path = card.folder / card.refiner
    if not path.is_file() or sha256_of_file(path) != card.refiner_sha256:
        raise DataError(f"{path}: is missing or not the refiner that {card.folder} names")
    return load_finisher(path)


def base_of(card: EngineCard) -> str:
    """Return what `load_base` takes for the card's base."""
    return _place(card.base, card.folder)


def hash_control(name: str | Path) -> str:
    """Return a checksum of the ControlNet called `name`."""
    from univg.sd_control import find_control

    files = sorted(find_control(name).glob("*.safetensors"))
    return sha256_hex("".join(sha256_of_file(path) for path in files).encode())


def _place(name: str, folder: Path) -> str:
    """Return where a card's base or ControlNet is: beside it, if that is no name of another kind.

    Such are embedded bases, hub ids, and what a card that lies nowhere calls so.
    """
    is_id = "/" in name and not (folder / name).exists()
    if not name or name in EMBEDDED or is_id or not (folder / ENGINE_NAME).is_file():
        return name
    return str(folder / name)
