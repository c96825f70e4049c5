"""What a finished run tells those who draw with it: `engine.json`.

In: a session, what it trained and on what. Out: the card in its run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from univg.binarise import Cut
from univg.files import sha256_of_file
from univg.modalities import find_modality, modality_names
from univg.sd_engine import (
    ENGINE_NAME,
    CardAdapter,
    EngineCard,
    Kind,
    hash_control,
    write_card,
)
from univg.sd_source import EMBEDDED

from .finishing import Finish
from .options import Engine
from .session import Session

CONTROL, OWN_BASE = "controlnet", "base"


def write_engine(
    session: Session,
    kind: Kind,
    prompt: str,
    adapters: Sequence[tuple[Path, float]],
    *,
    control: str = "",
    own_base: bool = False,
    cut: Cut | None = None,
    finish: Finish | None = None,
) -> EngineCard | None:
    """Write the card of a run; adapters inside its folder are named relative to it.

    `cut` is how drawn masks are cut, `finish` what drawn images get.
    """
    if not session.is_first:
        return None
    asked = session.asked
    out = session.out
    base, identity = asked.base, session.base.identity
    if own_base:
        from univg.sd import load_base

        base, identity = OWN_BASE, load_base(str(out / OWN_BASE), parts=("unet",)).identity
    elif base not in EMBEDDED and Path(base).expanduser().exists():
        base = str(Path(base).expanduser().resolve())
    card = EngineCard(
        kind=kind,
        base=base,
        base_identity=identity,
        adapters=tuple(_describe(path, strength, out) for path, strength in adapters),
        control=control,
        control_sha256=hash_control(out / control) if control else "",
        prompt=prompt,
        modality=_name_modality(asked),
        size_px=session.size_px,
        fit=asked.fit,
        zero_terminal_snr=asked.zero_terminal_snr,
        cut=cut or Cut(),
    )
    if finish is not None:
        card = replace(card, grain=finish.grain, is_grey=finish.is_grey)
        if finish.refiner is not None:
            card = replace(
                card,
                refiner=finish.refiner.relative_to(out).as_posix(),
                refiner_sha256=sha256_of_file(finish.refiner),
                refiner_strength=finish.strength,
            )
    write_card(card, out)
    return card


def withdraw_engine(out: Path) -> None:
    """Take the card of `out` away before what it names is replaced: the run is not finished then.

    It comes back at the run's end, with what is trained now.
    """
    (out / ENGINE_NAME).unlink(missing_ok=True)


def _describe(path: Path, strength: float, out: Path) -> CardAdapter:
    inside = path.parent.resolve() == out.resolve()
    name = path.name if inside else str(path.resolve())
    return CardAdapter(file=name, sha256=sha256_of_file(path), strength=strength)


def _name_modality(asked: Engine) -> str:
    """Return the modality as `--modality` takes it."""
    if asked.modality is None:
        return ""
    card = find_modality(asked.modality)
    # A card of the user's own by its path; a folder that only has a modality's name is no card.
    is_shipped = asked.modality in modality_names()
    return card.name if is_shipped else str(Path(asked.modality).resolve())
