"""`univg sca fit`: the card of a modality from a handful of masks, by search.

In: a folder of masks (five are enough) and, if wanted, a card to start from. Out: a card. Roots and
trunks are read off the masks (or kept from the card), then two searches turn what is left, by the
cross-entropy method on the energy distance of the descriptors: one for growth without real
courses, then one for growth on them. Masks more like the shots than the shots are like each other
are fined, so the best card is no copier.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
import yaml
from annotated_types import Ge, Le

from univg import __version__
from univg.config import check, from_plain, settings, to_plain
from univg.errors import ConfigError, DataError
from univg.files import make_folder, write_atomic
from univg.modalities import NAME_LENGTH, NAME_PATTERN, Modality, find_modality
from univg.pool import Workers
from univg.progress import Progress, show_progress
from univg.seeds import rng_for

from .synth import DEFAULT_WORKERS

if TYPE_CHECKING:
    from univg.skeleton import BoolArray

    from .measure import Measured
    from .template import Template

LEAST_MASKS = 2
ELITE_SHARE = 0.25
FIRST_SPREAD = 0.22
COPY_SLACK = 0.05
COPY_FINE = 4.0


@settings
class Fit:
    """Find the card of a modality from a handful of masks, by search.

    Use the card as any other: `univg sca synth --modality CARD`, best with `--real` and the masks.
    """

    real: Path
    """Folder of real masks, or of pairs; five are enough, two the least."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The card to write, NAME.yaml; its name becomes the modality's."""
    like: str | None = None
    """Start from this modality (a name or a card), keeping its roots and guides."""
    roots: Literal["auto", "hub", "border", "thick"] = "auto"
    """Where vessels start: where they converge, at the border, or at the thick end."""
    rounds: Annotated[int, Ge(0), Le(200)] = 6
    """Rounds of each of the two searches; 0 writes the first estimate."""
    candidates: Annotated[int, Ge(4), Le(1000)] = 12
    """Cards tried a round."""
    masks: Annotated[int, Ge(4), Le(1000)] = 12
    """Masks synthesized a candidate."""
    size: Annotated[int, Ge(64), Le(2048)] = 512
    """Longest side [px] at which masks are compared."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the search."""
    overwrite: bool = False
    """Replace a card that is there already."""
    strict: bool = False
    """Refuse masks with grey levels instead of thresholding them."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes; changes nothing in the card."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What candidates are measured against; all a worker needs."""

    real: list[Measured]
    templates: tuple[Template, ...]
    shape: tuple[int, int]
    copy_limit: float
    count: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finished search: the section, and its distance before and after."""

    section: dict[str, Any]
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The card and how far its masks are from the real ones (energy distance)."""

    card: Path
    on_real: Found
    free: Found


def plan(settings: Fit) -> str:
    """Say what would be done."""
    tried = 2 * settings.rounds * settings.candidates
    return (
        f"Would try {tried} candidates of {settings.masks} masks each and write {settings.out}; "
        f"about {tried * settings.masks * 0.035 / settings.workers / 60 + 0.1:.1f} minutes."
    )


def run(settings: Fit) -> FitResult:
    """Search, write the card, and say how near it came."""
    settings = check(settings)
    _check_out(settings)
    name, masks = settings.out.stem, read_masks(settings.real, settings.strict)
    make_folder(settings.out.parent)
    base, rooting = first_card(name, masks, settings)
    target = make_target(masks, rooting, settings)
    total = 2 * settings.rounds * settings.candidates
    with (
        Workers(settings.workers, _prepare_worker, (target,)) as workers,
        show_progress(total, "fitting", "cards") as progress,
    ):
        search = Search(target=target, settings=settings, workers=workers, progress=progress)
        # Growth on real courses uses what the first search turns, so it comes second.
        free = search.run(base.sca, on_real=False)
        on_real = search.run(free.section, on_real=True)
    card = dataclasses.replace(base, sca=on_real.section)
    write_atomic(settings.out, card_text(card, on_real, free, len(masks)).encode())
    print(f"on real courses: distance {on_real.before:.2f} -> {on_real.after:.2f}")  # noqa: T201
    print(f"without:         distance {free.before:.2f} -> {free.after:.2f}")  # noqa: T201
    print(settings.out)  # noqa: T201
    return FitResult(card=settings.out, on_real=on_real, free=free)


def _check_out(settings: Fit) -> None:
    out = settings.out
    if out.suffix.lower() not in {".yaml", ".yml"} or not out.stem:
        raise ConfigError(f"out is `{out}`: a card's file is called NAME.yaml")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; give the path of a card, NAME.yaml")
    if not re.fullmatch(NAME_PATTERN, out.stem) or len(out.stem) > NAME_LENGTH:
        raise ConfigError(
            f"{out}: the file's name becomes the modality's: letters, digits, spaces, . _ and - "
            f"only, at most {NAME_LENGTH} characters"
        )
    if out.exists() and not settings.overwrite:
        raise ConfigError(f"{out}: exists already; choose another name, or add --overwrite")


def read_masks(folder: Path, strict: bool) -> list[BoolArray]:
    """Read the masks of `folder`; all bad ones are told in one report."""
    from univg.errors import ProblemReport
    from univg.masks import check_mask, read_mask
    from univg.pairs import find_masks

    paths = find_masks(folder)
    problems = [p for path in paths for p in check_mask(path, strict=strict)]
    if problems:
        raise ProblemReport(problems, f"{folder}: masks that cannot be used")
    if len(paths) < LEAST_MASKS:
        raise DataError(f"{folder}: holds {len(paths)} mask; give {LEAST_MASKS} or more, best five")
    return [read_mask(path, strict=strict) for path in paths]


def first_card(name: str, masks: Sequence[BoolArray], settings: Fit) -> tuple[Modality, Any]:
    """The card that the search starts from, and where its vessels start."""
    from .estimate import choose_rooting, estimate_section
    from .params import growth_of
    from .template import trace_template

    if not any(len(trace_template(mask, "", "thick").parent) for mask in masks):
        raise DataError(f"{settings.real}: no vessel long enough to follow in any of the masks")
    if settings.like is not None:
        base = find_modality(settings.like)
        plain = to_plain(growth_of(base))
        if settings.roots != "auto":
            plain["real"]["roots"] = settings.roots
        return dataclasses.replace(base, name=name, sca=plain), plain["real"]["roots"]
    rooting = choose_rooting(masks) if settings.roots == "auto" else settings.roots
    card = Modality(
        name=name,
        title=name,
        description=f"Fitted to {len(masks)} masks.",
        mask_prompt=f"mask of {name} vessels",
        image_prompt=f"{name} image",
        sca=estimate_section(masks, rooting),
    )
    return dataclasses.replace(card, sca=to_plain(growth_of(card))), rooting


def make_target(masks: Sequence[BoolArray], rooting: Any, settings: Fit) -> Target:
    """Measure the real masks and trace them."""
    import numpy as np

    from .copies import summarise_copies
    from .measure import measure_mask
    from .template import trace_template

    real = [measure_mask(mask, size_px=settings.size) for mask in masks]
    thumbnails = np.array([m.thumbnail for m in real])
    names = [str(k) for k in range(len(real))]
    likeness = summarise_copies(thumbnails, thumbnails, names, skip_equal=True)
    height, width = masks[0].shape
    scale = settings.size / max(height, width)
    return Target(
        real=real,
        templates=tuple(trace_template(m, names[k], rooting) for k, m in enumerate(masks)),
        shape=(max(16, round(height * scale)), max(16, round(width * scale))),
        copy_limit=likeness.mean + COPY_SLACK,
        count=settings.masks,
        seed=settings.seed,
    )


@dataclass(frozen=True, kw_only=True)
class Search:
    """Cross-entropy search: draw about the best, keep the best quarter, draw nearer."""

    target: Target
    settings: Fit
    workers: Workers
    progress: Progress

    def run(self, section: dict[str, Any], on_real: bool) -> Found:
        """Turn the knobs of `section` for growth on real courses, or for growth without."""
        import numpy as np

        from .knobs import FREE_KNOBS, REAL_KNOBS, start_of, turn

        knobs = REAL_KNOBS if on_real else FREE_KNOBS
        count = self.settings.candidates
        rng = rng_for(self.settings.seed, "sca.fit", int(on_real))
        middle = start_of(section, knobs)
        spread = np.full(len(knobs), FIRST_SPREAD)
        before = judge(section, self.target, on_real)
        kept = max(2, round(ELITE_SHARE * count))
        for _ in range(self.settings.rounds):
            drawn = middle + spread * rng.standard_normal((count, len(knobs)))
            drawn = np.clip(drawn, 0.0, 1.0)
            sections = [turn(section, knobs, at) for at in drawn]
            costs = self._judge_all(sections, on_real)
            elite = drawn[np.argsort(costs, kind="stable")[:kept]]
            middle = 0.3 * middle + 0.7 * elite.mean(axis=0)
            spread = 0.3 * spread + 0.7 * np.maximum(elite.std(axis=0), 0.03)
        # The middle of the elite, not the best candidate: that one also had the best luck.
        found = turn(section, knobs, middle)
        after = judge(found, self.target, on_real)
        if not self.settings.rounds or after > before:
            return Found(section=section, before=before, after=before)
        return Found(section=found, before=before, after=after)

    def _judge_all(self, sections: list[dict[str, Any]], on_real: bool) -> list[float]:
        costs = []
        tasks = [(section, on_real) for section in sections]
        for cost in self.workers.map_in_order(_judge_one, tasks):
            costs.append(cost)
            self.progress.advance()
        return costs


_work: dict[str, Target] = {}


def _prepare_worker(target: Target) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work["target"] = target


def _judge_one(task: tuple[dict[str, Any], bool]) -> float:
    section, on_real = task
    return judge(section, _work["target"], on_real)


def judge(section: dict[str, Any], target: Target, on_real: bool) -> float:
    """Energy distance of the masks of `section` from the real ones, plus the copier's fine."""
    import numpy as np

    from .compose import grow_mask
    from .copies import nearest_overlap
    from .descriptors import DESCRIPTOR_GROUPS, DESCRIPTORS
    from .distance import energy_distance, fit_scaling
    from .measure import measure_mask
    from .params import Growth

    growth = from_plain(Growth, section)
    growth = dataclasses.replace(growth, stages=tuple(s for s in growth.stages if not s.layer))
    templates = target.templates if on_real else ()
    made = []
    for k in range(target.count):
        rng = rng_for(target.seed, "sca.fit.mask", k)
        made.append(measure_mask(grow_mask(growth, *target.shape, rng, templates).pixels > 0))
    real = np.array([m.descriptors for m in target.real])
    scaling = fit_scaling(real, [d.resolution for d in DESCRIPTORS], DESCRIPTOR_GROUPS)
    synth = np.array([m.descriptors for m in made])
    cost = energy_distance(scaling.apply(real), scaling.apply(synth))
    overlap, _ = nearest_overlap(
        np.array([m.thumbnail for m in made]), np.array([m.thumbnail for m in target.real])
    )
    return float(cost) + COPY_FINE * max(0.0, float(overlap.mean()) - target.copy_limit)


def card_text(card: Modality, on_real: Found, free: Found, count: int) -> str:
    """The card as YAML, opening with where it comes from."""
    head = (
        f"# Fitted by univg {__version__} to {count} masks. Energy distance to them, before and\n"
        f"# after the search: {on_real.before:.3f} -> {on_real.after:.3f} on real courses, "
        f"{free.before:.3f} -> {free.after:.3f} without.\n"
    )
    plain = {**to_plain(card), "sca": _without_defaults(card.sca)}
    return head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _without_defaults(section: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says no more than the default."""
    from .params import Growth

    plain: dict[str, Callable[..., Any]] = to_plain(Growth())
    return {name: value for name, value in section.items() if value != plain.get(name)}
