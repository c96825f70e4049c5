"""`univg generate check`: the quality gate, for any folder of pairs.

In: a folder of pairs; shots to compare with; what to keep. Out: `scores.jsonl`, a row a pair, and
`report.html` in PAIRS/quality; the scores in the manifest of PAIRS, if it has one; with `--out`, a
folder of the pairs that were kept. Run again, only what is new or changed is measured.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from univg import __version__
from univg.config import check, settings
from univg.errors import ConfigError

from .keep import STAGE, Keep, Kind, parse_keep

if TYPE_CHECKING:
    from .gate_run import GateResult

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))


@settings
class Check:
    """Measure every pair of a folder; keep the good ones, if asked to.

    Writes scores.jsonl and report.html to PAIRS/quality. Nothing is dropped by default.
    """

    pairs: Path
    """Folder of pairs: images/ and masks/, or as `univg generate` writes it."""
    shots: Path | None = None
    """Folder of the few real pairs: finds copies of them, and shows their own measures."""
    keep: str = ""
    """Which pairs to keep, such as "agreement > 0.6 and density < 0.2 and not copied"."""
    out: Path | None = None
    """Write the kept pairs to this folder (links to the same files where the disk allows)."""
    segmenter: str | None = None
    """package.module:function that takes a uint8 image and returns vessel probabilities of its
    size; default: a simple line detector."""
    polarity: Literal["auto", "dark", "bright"] = "auto"
    """How vessels stand out, for the detector; auto: told from the shots, else from the images."""
    near: bool = True
    """Look for near-duplicates inside the set."""
    attach: bool = True
    """Put the scores into PAIRS/manifest.jsonl, where there is one."""
    scores: Path | None = None
    """Folder for scores.jsonl and report.html; default: PAIRS/quality."""
    show: Annotated[int, Ge(1), Le(24)] = 6
    """Pairs in each row of pictures of the page."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the random pairs on the page."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes; changes no byte."""


def plan(settings: Check) -> str:
    """Say what would be measured and written."""
    from univg.pairs import find_pairs
    from univg.run_folder import require_joined

    keep = prepare_keep(settings)
    require_joined(settings.pairs)
    found, wrong = find_pairs(settings.pairs)
    lines = [
        f"Would measure {len(found.pairs)} pairs ({len(wrong)} problems with names) and write "
        f"{place_of(settings)}/scores.jsonl and report.html.",
        f"Keeps pairs with {keep.text}." if keep.text else "Keeps all pairs.",
    ]
    if settings.out is not None:
        lines.append(f"Would write the kept pairs to {settings.out}.")
    return "\n".join(lines)


def run(settings: Check) -> GateResult:
    """Measure the pairs, write scores and page, filter; return what was found."""
    from univg.files import make_folder
    from univg.manifest import MANIFEST_NAME, lock_folder
    from univg.pairs import find_pairs
    from univg.run_folder import require_joined

    from .gate_chance import measure_chance
    from .gate_kept import check_place, write_kept
    from .gate_page import write_page
    from .gate_run import run_gate
    from .gate_scores import attach_scores, write_scores
    from .gate_segmenter import load_segmenter
    from .gate_shots import read_shots

    settings = check(settings)
    keep = prepare_keep(settings)
    segmenter = None if settings.segmenter is None else load_segmenter(settings.segmenter)
    require_joined(settings.pairs)
    find_pairs(settings.pairs)  # a wrong path, before anything is written
    if settings.out is not None:
        check_place(settings.pairs, settings.out, keep.text)
    _require_writable(settings)
    shots = None
    if settings.shots is not None:
        shots = read_shots(settings.shots, polarity=settings.polarity, segmenter=segmenter)
    place = make_folder(place_of(settings))
    with lock_folder(place):
        result = run_gate(
            settings.pairs,
            place,
            shots=shots,
            polarity=settings.polarity,
            segmenter=settings.segmenter,
            keep=keep,
            near=settings.near,
            workers=settings.workers,
        )
        write_scores(place, result.rows)
        page = place / "report.html"
        chance = measure_chance(result, segmenter)
        write_page(result, page, chance=chance, show=settings.show, seed=settings.seed)
        if settings.attach and (settings.pairs / MANIFEST_NAME).is_file():
            attach_scores(settings.pairs, place)
    if settings.out is not None:
        write_kept(result.found, result.kept, settings.out, _identify(result))
    _tell(result, settings, page)
    return result


def prepare_keep(settings: Check) -> Keep:
    """Return the checked expression; measures that this run will not have are refused."""
    from .gate import MEASURES

    kinds: dict[str, Kind] = {name: measure.kind for name, measure in MEASURES.items()}
    keep = parse_keep(settings.keep, kinds)
    for name in keep.names:
        if MEASURES[name].needs == "shots" and settings.shots is None:
            raise ConfigError(f"keep asks for {name}, which needs the real pairs: add --shots")
        if MEASURES[name].needs == "set" and not settings.near:
            raise ConfigError(f"keep asks for {name}: leave out --no-near")
    if settings.out is not None and not keep.text:
        raise ConfigError("out is given without --keep: say which pairs to keep")
    return keep


def place_of(settings: Check) -> Path:
    """Return the folder of the scores and the page."""
    from .gate_scores import SCORES_FOLDER

    return settings.scores or settings.pairs / SCORES_FOLDER


def _require_writable(settings: Check) -> None:
    """Refuse pairs on a disk that takes no scores, before they are measured."""
    from univg.manifest import MANIFEST_NAME

    has_manifest = (settings.pairs / MANIFEST_NAME).is_file()
    if settings.attach and has_manifest and not os.access(settings.pairs, os.W_OK):
        raise ConfigError(
            f"{settings.pairs}: cannot be written, and scores go into its manifest: add "
            "--no-attach, and --scores with a folder for them"
        )


def _identify(result: GateResult) -> dict[str, str]:
    """What a resumed run with --out must share with the first."""
    listing = "\n".join(f"{row['id']} {row['sha256']}" for row in result.kept.values())
    return {
        "stage": STAGE,
        "version": __version__,
        "keep": result.keep.text,
        "pairs_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _tell(result: GateResult, settings: Check, page: Path) -> None:
    for problem in result.problems[:10]:
        warnings.warn(problem, stacklevel=3)
    if len(result.problems) > 10:
        warnings.warn(f"and {len(result.problems) - 10} more problems, in {page}", stacklevel=3)
    print(result.line())  # noqa: T201
    print(page)  # noqa: T201
    if settings.out is not None:
        print(settings.out)  # noqa: T201
