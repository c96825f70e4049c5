"""`univg generate masks`: any number of masks from an adapted mask engine, or grown.

In: the run folder of `univg train adapt-masks` (or a base alone), a count, a seed, a size. Out: a
folder of masks, exactly 0 and 255 and exactly sized, with `manifest.jsonl`, `run.json` and
`config.yaml`, as `univg sca synth` writes it; `--mask-engine sca` is that command. Run again, it
goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from univg.config import check, settings
from univg.errors import ConfigError

from .images import FREE, Drawing, Side, refuse_idle
from .placement import Placement, config_of, do_run

if TYPE_CHECKING:
    from univg.sca.synth import Synth

    from .mask_maker import MaskMaker


@settings
class Masks(Drawing, Placement):
    """Make vessel masks with a trained mask engine, or by space colonization.

    Writes OUT/masks/NAME-000000.png and so on, exactly 0 and 255, with OUT/manifest.jsonl. The same
    command goes on after an interruption.
    """

    out: Path
    """Folder to write; new, empty, or of the same run."""
    mask_engine: Literal["auto", "diffusion", "sca"] = "auto"
    """diffusion: a trained engine or a base. sca: grown, with --shots led by real masks. auto:
    diffusion with --engine-dir, else sca."""
    engine_dir: Path | None = None
    """Run folder of `univg train adapt-masks` or `univg train masks`."""
    shots: Path | None = None
    """Folder of the shots: the cut from grey to mask is chosen on them (it is chosen in training
    where --engine-dir is given); with sca they lead the growth."""
    modality: str | None = None
    """Name (fundus, octa, oct, coronary, brain) or the path of a card; default: the engine's, else
    fundus."""
    strength: Annotated[float, Ge(0), Le(2)] | None = None
    """Strength λ of the adaptation; default: that of its training run, 0.7 in the paper."""
    count: Annotated[int, Ge(1), Le(10_000_000)] = 100
    """Masks to make."""
    first: Annotated[int, Ge(0)] = 0
    """Index of the first mask; makes single masks again, or a part of a larger run."""
    size: tuple[Side, Side] | None = None
    """Height and width [px]; default: that of the engine, with sca 512 512."""
    threshold: Annotated[float, Ge(0.01), Le(0.99)] | None = None
    """Grey level, 0 to 1, from which a pixel is vessel; default: chosen on the shots."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""


IDLE = ("engine_dir", "prompt", "negative_prompt", "strength", "threshold")
"""Settings that the growth of masks does not know."""


@dataclass
class MasksResult:
    """What a run made."""

    masks: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    folder: Path = field(default_factory=Path)


def choose_engine(settings: Masks) -> str:
    """Return the mask engine that `settings` mean."""
    asked = settings.mask_engine
    if asked == "auto":
        asked = "sca" if settings.engine_dir is None else "diffusion"
    if asked == "sca":
        refuse_idle(settings, IDLE, "mask_engine sca")
    return asked


def prepare_maker(settings: Masks) -> MaskMaker:
    """Resolve and check all that a run with a diffusion engine needs."""
    from .mask_building import build_mask_maker

    return build_mask_maker(settings)


def plan(settings: Masks) -> str:
    """Say what would be written."""
    if choose_engine(settings) == "sca":
        from univg.sca.synth import plan as plan_synth

        return plan_synth(_as_synth(settings))
    maker = prepare_maker(settings)
    height, width = maker.size
    return (
        f"Would write {settings.count} masks of {height} × {width} px to {settings.out / 'masks'}, "
        f"drawn with prompt `{maker.with_engine.card.prompt}`."
    )


def run(settings: Masks) -> MasksResult:
    """Write the masks; go on where an earlier run stopped."""
    settings = check(settings)
    if choose_engine(settings) == "sca":
        if settings.shard is not None or settings.engine != "local":
            raise ConfigError("masks are grown on one machine: 100 a second; leave shard, engine")
        from univg.sca.synth import run as run_synth

        grown = run_synth(_as_synth(settings))
        return MasksResult(grown.masks, grown.skipped, grown.wall_s, settings.out)
    maker = prepare_maker(settings)
    wanted = range(settings.first, settings.first + settings.count)
    filled = do_run(
        settings, maker, settings.out, wanted, config_of(settings, "generate masks", FREE)
    )
    print(filled.line("masks"))  # noqa: T201
    print(settings.out)  # noqa: T201
    return MasksResult(filled.made, filled.skipped, filled.wall_s, settings.out)


def _as_synth(settings: Masks) -> Synth:
    from univg.sca.synth import Synth

    return Synth(
        out=settings.out,
        modality=(settings.modality or "fundus",),
        count=settings.count,
        first=settings.first,
        seed=settings.seed,
        size=settings.size or (512, 512),
        real=settings.shots,
        workers=min(settings.workers, 256),
    )


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["generate", "masks", *sys.argv[1:]]))
