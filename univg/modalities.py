"""The modalities: one YAML card each, five that ship and any number of a user's own.

In: a name (`fundus`, `octa`, `oct`, `coronary`, `brain`) or the path of a card. Out: a `Modality`.
The card's `sca` section is handed on as it is; the mask synthesizer reads and checks it. A new
modality needs a new YAML file and no code: copy a card that ships, or let `univg sca fit` write it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from univg.config import from_plain, read_yaml, settings
from univg.errors import ConfigError

NAME_PATTERN = r"\w[\w .-]*"
NAME_LENGTH = 60
CARD_FOLDER = Path(__file__).parent / "assets" / "modalities"


@settings
class Modality:
    """One modality card."""

    name: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$", max_length=NAME_LENGTH)]
    """Short name, one word, as it stands in folders and manifests; no path."""
    title: str
    """What a person calls it."""
    description: str = ""
    """Where the vessels come from and what they look like."""
    mask_prompt: str
    """Text prompt of the mask engine."""
    image_prompt: str
    """Text prompt of the image engine."""
    sca: dict[str, Any]
    """How the mask synthesizer grows it; see docs/modalities.md."""


def modality_names() -> list[str]:
    """Return the names of the cards that ship."""
    return sorted(path.stem for path in CARD_FOLDER.glob("*.yaml"))


def find_card(name_or_path: str) -> Path | None:
    """Return the file of a user's own card, None where one of ours is named."""
    path = Path(name_or_path)
    return path.expanduser() if path.suffix.lower() in {".yaml", ".yml"} else None


def find_modality(name_or_path: str) -> Modality:
    """Return the card called `name_or_path`, or the one in that file."""
    path = find_card(name_or_path)
    if path is not None:
        return from_plain(Modality, read_yaml(path), str(path))
    shipped = CARD_FOLDER / f"{name_or_path}.yaml"
    if name_or_path not in modality_names():
        near = difflib.get_close_matches(name_or_path, modality_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"modality `{name_or_path}` is unknown: {hint}known: {', '.join(modality_names())}, "
            "or the path of a card (my_modality.yaml)"
        )
    return from_plain(Modality, read_yaml(shipped), str(shipped))
