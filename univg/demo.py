"""`univg demo`: the recipe on made-up shots, its answer, and masks of all modalities, on one page.

In: a count, a seed, a base, a folder. Out: FOLDER/index.html and, below FOLDER/runs/ and
FOLDER/engines/, the masks, engines, pairs and segmenters it shows. Run again, it goes on where it
stopped and gives the same page; other settings, cards or bases get a run folder of their own, so
nothing is ever deleted.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from univg.config import settings
from univg.errors import ConfigError
from univg.files import make_folder, sha256_hex, write_atomic
from univg.modalities import find_modality, modality_names

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from univg.demo_engine_page import EngineFacts
    from univg.demo_page import Facts, SetFacts

SIZE_PX = 512
SHOTS = 5
FEW_MASKS = 300
SHOT_MODALITY = "fundus"
PAGE_NAME = "index.html"


@settings
class Demo:
    """The recipe on five made-up shots: does it help? And masks of every modality, measured.

    Writes OUT/index.html. The same command goes on after an interruption.
    """

    out: Path = Path("demo")
    """Folder to write; the page is OUT/index.html."""
    count: Annotated[int, Ge(10), Le(10_000)] = 60
    """Masks of each modality."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    workers: Annotated[int, Ge(1), Le(256)] = max(1, min(8, os.cpu_count() or 1))
    """Processes; changes nothing on the page but the times."""
    masks_only: bool = False
    """Leave the engines out: less than a minute instead of several."""
    base: str = "nano"
    """Base whose engines are adapted, as for `univg train adapt-masks`."""
    pace: Literal["auto", "whole", "lean"] = "auto"
    """How much is done where the settings below leave it open: whole, or lean, a quarter of it.
    auto: whole with a GPU or a processor that computes bf16, else lean; either takes some ten
    minutes on two cores."""
    mask_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the mask engine's adaptation."""
    image_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the image engine's adaptation."""
    refine_steps: Annotated[int, Ge(0)] | None = None
    """Steps of its refiner, which brings back what the autoencoder loses."""
    segment_steps: Annotated[int, Ge(1)] | None = None
    """Steps of each segmenter."""
    pairs: Annotated[int, Ge(6), Le(10_000)] | None = None
    """Synthetic pairs that the adapted engines draw."""
    drawn: Annotated[int, Ge(6), Le(10_000)] | None = None
    """How many of them are measured beside what the engines draw without adaptation."""


PACES: dict[str, dict[str, int]] = {
    "whole": {
        "mask_steps": 150, "image_steps": 150, "refine_steps": 600, "segment_steps": 150,
        "pairs": 60, "drawn": 24,
    },
    "lean": {
        "mask_steps": 40, "image_steps": 40, "refine_steps": 160, "segment_steps": 40,
        "pairs": 20, "drawn": 10,
    },
}  # fmt: skip


def resolve(settings: Demo) -> Demo:
    """Return `settings` with nothing left open; without what engines need, all of it is whole."""
    pace = settings.pace
    if pace == "auto":
        pace = "lean" if not _why_no_engines(settings) and _is_slow() else "whole"
    opened: dict[str, Any] = {
        name: n for name, n in PACES[pace].items() if getattr(settings, name) is None
    }
    return dataclasses.replace(settings, pace=pace, **opened)


def _is_slow() -> bool:
    from univg.sd_compute import choose_precision

    return choose_precision("auto") == "no"


def plan(settings: Demo) -> str:
    """Say what would be written."""
    settings = resolve(settings)
    names = modality_names()
    total = settings.count * (len(names) + 1)
    missing = _why_no_engines(settings)
    engines = missing or (
        f"Would do the recipe on {SHOTS} made-up shots below {settings.out / 'engines'}: adapt the "
        f"mask engine ({settings.mask_steps} steps) and the image engine ({settings.image_steps} "
        f"steps) of base {settings.base}, draw {settings.pairs} pairs, train a segmenter without "
        f"and with them ({settings.segment_steps} steps each), measure both. Minutes, about 300 MB."
    )
    return (
        f"Would write {settings.out / PAGE_NAME} and {total} masks below {settings.out / 'runs'}: "
        f"{settings.count} each of {', '.join(names)}, and of {SHOT_MODALITY} conditioned on "
        f"{SHOTS} masks. About {total * 0.01:.0f} MB.\n{engines}"
    )


def run(settings: Demo) -> Path:
    """Make the masks, measure them, write the page; return its path."""
    from univg.demo_page import build_page

    _why_no_engines(settings)  # an unknown base is told before the work, not after it
    settings = resolve(settings)
    assert settings.drawn is not None
    assert settings.pairs is not None
    if settings.drawn > settings.pairs:
        raise ConfigError(f"drawn is {settings.drawn}: at most --pairs, {settings.pairs}")
    make_folder(settings.out)
    facts = collect_facts(settings)
    path = settings.out / PAGE_NAME
    build_page(facts).write(path)
    if not isinstance(facts.engines, str):
        print(facts.engines.verdict)  # noqa: T201
    print(f"The page: {path.resolve()}")  # noqa: T201
    return path


def collect_facts(settings: Demo) -> Facts:
    """Bring the masks to disk, as far as they are not there, and measure them."""
    from univg.demo_page import Facts
    from univg.sca.descriptors import DESCRIPTORS
    from univg.sca.measure import measure_folders

    place, folders, times = _make_masks(settings)
    shots = _copy_shots(folders[SHOT_MODALITY], place / "shots")
    conditioned, times["conditioned"] = _make_conditioned(settings, place, shots)
    every = {**folders, "shots": shots, "conditioned": conditioned}
    found = measure_folders(every, size_px=None, workers=settings.workers)
    found = {name: masks[: settings.count] for name, masks in found.items()}
    of_shots, of_conditioned = found.pop("shots"), found.pop("conditioned")
    unrelated = found[SHOT_MODALITY][SHOTS:]
    return Facts(
        count=settings.count,
        seed=settings.seed,
        size_px=SIZE_PX,
        sets=tuple(_facts_of(name, folders[name], masks) for name, masks in found.items()),
        distances=distance_matrix(list(found.values())),
        descriptor_count=len(DESCRIPTORS),
        shots=shots,
        conditioned=conditioned,
        conditioned_count=len(of_conditioned),
        overlap=_overlap(of_conditioned, of_shots),
        overlap_unrelated=_overlap(unrelated, of_shots),
        times=times,
        engines=_make_engines(settings),
    )


def _why_no_engines(settings: Demo) -> str:
    """Return why the page is to have no engines; "" if it will have them."""
    from univg.demo_engines import why_left_out

    if settings.masks_only:
        return "The engines are left out, as `--masks-only` asks."
    return why_left_out(settings.base)


def _make_engines(settings: Demo) -> EngineFacts | str:
    from univg.demo_engines import Wanted, make_engines

    missing = _why_no_engines(settings)
    if missing:
        print(missing.replace("`", ""))  # noqa: T201
        return missing
    amounts: dict[str, Any] = {name: getattr(settings, name) for name in PACES["whole"]}
    wanted = Wanted(
        base=settings.base, seed=settings.seed, workers=settings.workers,
        lean=settings.pace == "lean", **amounts,
    )  # fmt: skip
    return make_engines(settings.out, wanted)


# The masks' measures below are `univg.sca.measure.Measured`; a module of the core imports a stage
# only when it runs it, so its types cannot stand in signatures.


def _facts_of(name: str, folder: Path, masks: Sequence[Any]) -> SetFacts:
    """Put together what the page tells of one modality."""
    import numpy as np

    from univg.demo_page import SetFacts
    from univg.sca.descriptors import DESCRIPTOR_NAMES
    from univg.sca.murray import format_exponent, format_murray, summarise_murray

    murray = summarise_murray([m.radii for m in masks])
    columns = np.array([m.descriptors for m in masks]).T
    return SetFacts(
        modality=find_modality(name),
        folder=folder,
        descriptors=dict(zip(DESCRIPTOR_NAMES, columns, strict=True)),
        compliance=format_murray(murray),
        exponent=format_exponent(murray),
        bifurcations=murray.bifurcations,
    )


def distance_matrix(sets: Sequence[Sequence[Any]]) -> npt.NDArray[np.float64]:
    """Return the Fréchet distances (K, K) of first halves (rows) from second halves (columns).

    One scaling for all, so that the numbers of different rows can be compared.
    """
    import numpy as np

    from univg.sca.descriptors import DESCRIPTOR_GROUPS, DESCRIPTORS
    from univg.sca.distance import fit_scaling, frechet_distance

    values = [np.array([m.descriptors for m in masks]) for masks in sets]
    resolution = [descriptor.resolution for descriptor in DESCRIPTORS]
    scaling = fit_scaling(np.concatenate(values), resolution, DESCRIPTOR_GROUPS)
    scaled = [scaling.apply(each) for each in values]
    half = min(len(each) for each in scaled) // 2
    return np.array(
        [[frechet_distance(a[:half], b[half : 2 * half]) for b in scaled] for a in scaled]
    )


def _overlap(masks: Sequence[Any], sources: Sequence[Any]) -> tuple[float, float, float]:
    """Return mean, 95th percentile and largest overlap with the nearest source."""
    import numpy as np

    from univg.sca.copies import summarise_copies

    thumbnails, of_sources = (np.array([m.thumbnail for m in each]) for each in (masks, sources))
    found = summarise_copies(thumbnails, of_sources, [m.name for m in masks])
    return found.mean, found.p95, found.max


def _make_masks(settings: Demo) -> tuple[Path, dict[str, Path], dict[str, dict[str, Any]]]:
    """Synthesize every modality; return the run's place, its folders and the times."""
    from univg.sca.synth import Synth, prepare_jobs

    def masks_in(place: Path) -> Synth:
        return Synth(
            out=place / "masks", modality=("all",), count=settings.count, seed=settings.seed,
            size=(SIZE_PX, SIZE_PX), workers=_growing_workers(settings),
        )  # fmt: skip

    jobs = prepare_jobs(masks_in(settings.out))
    identity = json.dumps([job.identity() for job in jobs], sort_keys=True)
    place = make_folder(settings.out / "runs" / sha256_hex(identity.encode())[:12])
    folders, times = _run_timed(masks_in(place), place / "masks-times.json")
    return place, dict(zip([job.name for job in jobs], folders, strict=True)), {"masks": times}


def _copy_shots(folder: Path, shots: Path) -> Path:
    """Set the first masks of `folder` aside, to stand for five annotated ones."""
    from univg.pairs import find_masks

    make_folder(shots)
    for path in find_masks(folder)[:SHOTS]:
        copy, data = shots / path.name, path.read_bytes()
        if not copy.exists() or copy.read_bytes() != data:
            write_atomic(copy, data)
    return shots


def _make_conditioned(settings: Demo, place: Path, shots: Path) -> tuple[Path, dict[str, Any]]:
    from univg.sca.synth import Synth
    from univg.seeds import seed_for

    synth = Synth(
        out=place / "conditioned", modality=(SHOT_MODALITY,), count=settings.count,
        seed=seed_for(settings.seed, "demo"), size=(SIZE_PX, SIZE_PX), real=shots,
        workers=_growing_workers(settings),
    )  # fmt: skip
    _, times = _run_timed(synth, place / "conditioned-times.json")
    return synth.out, times


def _growing_workers(settings: Demo) -> int:
    """Return 1 for few masks: they are grown sooner than processes start."""
    return settings.workers if settings.count >= FEW_MASKS else 1


def _run_timed(synth: Any, path: Path) -> tuple[list[Path], dict[str, Any]]:
    """Run `synth`; return its folders and what it took, or took when the masks were made.

    Times are kept on disk so that the page of a run that finds everything there says the same.
    """
    from univg.sca.synth import prepare_jobs
    from univg.sca.synth import run as run_synth
    from univg.sca.writing import synthesize

    for job in prepare_jobs(synth):
        synthesize(job, 0)  # compiles, on a new machine, what would else count as masks' time
    result = run_synth(synth)
    if result.masks:
        times = {
            "masks": result.masks,
            "wall_s": result.wall_s,
            "seconds": result.seconds,
            "workers": synth.workers,
        }
        write_atomic(path, (json.dumps(times, indent=1) + "\n").encode())
    return result.folders, json.loads(path.read_bytes()) if path.exists() else {}
