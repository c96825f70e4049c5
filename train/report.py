"""What an adaptation has learnt: pictures drawn, held against the shots, on one page.

In: a trained session. Out: `OUT/report.html`, the drawn pictures in `OUT/drawn/`, and figures in
`OUT/result.json`: near-copies of shots, and of images how well they follow their masks at several
steps of training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from univg.agreement import measure_agreement
from univg.binarise import Cut, cut_mask
from univg.files import make_folder, write_atomic
from univg.images import encode_image
from univg.loop.curves import Points, draw_curves, smooth
from univg.loop.journal import METRICS, PREVIEWS
from univg.loop.options import CURVES as FOLDS
from univg.loop.options import folder_of
from univg.masks import BoolMask, encode_mask
from univg.memorisation import Copying, measure_copying
from univg.overlap import turn_over
from univg.report import Page, Section

from .adapt_images import AdaptImages
from .adapt_masks import AdaptMasks
from .drawing import sample_pictures
from .finishing import Finish
from .session import Session, write_result

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from univg.loop.loop import Outcome
    from univg.sd_engine import EngineCard

    from .shots import Shot

DRAWN = "drawn"
SHOWN = 12
MOST_PREVIEWS = 6
NOISY = "loss of a step"
CURVES: tuple[tuple[dict[str, str], str], ...] = (
    ({"loss": NOISY}, "Training loss, each step's and a running mean"),
    ({"validation": "loss"}, "Validation loss, at fixed times and noises"),
    (
        {"cldice": "with its mask", "cldice_chance": "with the mask of another: chance"},
        "clDice of the vessels that a simple detector finds in a few quick drawings",
    ),
)
"""Names in metrics.jsonl by what they are called on the page."""


def report_masks(
    session: Session,
    outcome: Outcome,
    shots: Sequence[Shot],
    prompt: str,
    cut: Cut,
) -> None:
    """Draw masks, measure them, write the page."""
    asked = session.asked
    assert isinstance(asked, AdaptMasks)
    drawn = sample_pictures(
        session.base,
        [prompt] * (asked.report_samples or 0),
        seed=asked.seed,
        size_px=session.size_px,
    )
    masks = [cut_mask(picture, cut) for picture in drawn]
    folder = make_folder(session.out / DRAWN / "masks")
    for number, mask in enumerate(masks):
        write_atomic(folder / f"{number:06d}.png", encode_mask(mask))
    real = [shot.mask for shot in shots]
    copying = measure_copying(masks, real, kind="mask")
    session.say(copying.describe())
    write_result(session, outcome, copying=describe_copying(copying), strength=asked.strength)
    page = _begin_page(session, outcome, "Mask engine, adapted")
    section = page.section("Masks", f"Drawn at strength {asked.strength:g}, prompt `{prompt}`.")
    section.pictures([as_grey(m) for m in real[:SHOWN]], "the shots", "The shots.")
    section.pictures([as_grey(m) for m in masks[:SHOWN]], "drawn masks", "Drawn masks.")
    _show_copies(page, copying, [as_grey(m) for m in masks], [as_grey(m) for m in real])
    _show_course(page, session)
    page.write(session.out / "report.html")


def report_images(
    session: Session,
    outcome: Outcome,
    control: ControlNetModel,
    shots: Sequence[Shot],
    card: EngineCard,
    finish: Finish,
) -> None:
    """Draw images for the shots' masks, turned, measure them, write the page."""
    asked, prompt = session.asked, card.prompt
    assert isinstance(asked, AdaptImages)
    count = asked.report_samples or 0
    # Turned, so that the engine cannot answer with the shot that it has seen with this mask.
    masks = [turn_over(shots[k % len(shots)].mask, 1 + k // len(shots) % 7) for k in range(count)]
    drawn = sample_pictures(
        session.base,
        [prompt] * count,
        seed=asked.seed,
        control=control,
        masks=masks,
        size_px=session.size_px,
    )
    drawn = finish.apply(drawn, masks, asked.seed, "report/grain")
    folders = [make_folder(session.out / DRAWN / name) for name in ("images", "masks")]
    for number, (image, mask) in enumerate(zip(drawn, masks, strict=True)):
        write_atomic(folders[0] / f"{number:06d}.png", encode_image(image))
        write_atomic(folders[1] / f"{number:06d}.png", encode_mask(mask))
    real = [shot.image for shot in shots if shot.image is not None]
    own = [shot.mask for shot in shots]
    ceiling = measure_agreement(real, own)
    follows = measure_agreement(drawn, masks, polarity=ceiling.polarity)
    copying = measure_copying(drawn, real, kind="image", generated_masks=masks, shot_masks=own)
    session.say(f"{follows.describe()}; the shots with theirs {ceiling.cldice:.3f}")
    session.say(copying.describe())
    write_result(
        session,
        outcome,
        agreement={"cldice": follows.cldice, "chance": follows.chance, "shots": ceiling.cldice},
        copying=describe_copying(copying),
    )
    page = _begin_page(session, outcome, "Image engine, adapted")
    section = page.section("Images", f"Prompt `{prompt}`; masks of the shots, turned.")
    section.pictures(real[:SHOWN], "the shots", "The shots.")
    pairs = [lay_beside(as_grey(masks[k]), drawn[k]) for k in range(min(6, count))]
    section.pictures(
        pairs, "masks and images", "Masks, each with the image drawn for it.", columns=3
    )
    section.key_figures(
        [
            (f"{follows.cldice:.3f}", "clDice of a simple vessel detector with the mask"),
            (f"{ceiling.cldice:.3f}", "the same on the shots: what can be reached"),
            *_chance_of(follows.chance),
        ]
    )
    _show_copies(page, copying, list(drawn), list(real))
    _show_course(page, session, ceiling.cldice)
    page.write(session.out / "report.html")


def report_pretraining(
    session: Session, outcome: Outcome, prompts: Sequence[str], title: str
) -> None:
    """Draw pictures for `prompts` in turn, write the page."""
    asked = session.asked
    words = [prompts[k % len(prompts)] for k in range(asked.report_samples or 0)]
    drawn = sample_pictures(session.base, words, seed=asked.seed, size_px=session.size_px)
    folder = make_folder(session.out / DRAWN)
    for number, picture in enumerate(drawn):
        write_atomic(folder / f"{number:06d}.png", encode_image(picture))
    page = _begin_page(session, outcome, title)
    listed = ", ".join(f"`{prompt}`" for prompt in prompts)
    section = page.section("What it draws", f"Prompts in turn: {listed}.")
    section.pictures(drawn[:SHOWN], "drawn pictures", "Drawn pictures.")
    _show_course(page, session)
    page.write(session.out / "report.html")


def _chance_of(chance: float | None) -> list[tuple[str, str]]:
    """Return the key figure of chance; a single drawn image has no other to be held against."""
    if chance is None:
        return []
    return [(f"{chance:.3f}", "with the mask of another image: chance")]


def as_grey(mask: BoolMask) -> npt.NDArray[np.uint8]:
    """Return `mask` as a picture."""
    return mask.astype(np.uint8) * 255


def lay_beside(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return two pictures of one size as one, so that no narrow screen parts them."""
    both = [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p for p in (left, right)]
    gap = np.full((left.shape[0], max(2, left.shape[1] // 32), 3), 255, np.uint8)
    return np.hstack([both[0], gap, both[1]])


def describe_copying(copying: Copying) -> dict[str, Any]:
    """Return the figures as they stand in `result.json`."""
    return {
        "share": copying.share,
        "expected": copying.expected,
        "copies": copying.copies,
        "count": len(copying.nearest),
        "threshold": copying.threshold,
    }


def _begin_page(session: Session, outcome: Outcome, title: str) -> Page:
    asked = session.asked
    lead = (
        f"{outcome.steps} steps of {asked.batch} on base `{asked.base}`, preset `{asked.preset}`, "
        f"seed {asked.seed}."
    )
    return Page(title, kicker="UniVG training report", lead=lead)


def _show_copies(page: Page, copying: Copying, drawn: Sequence[Any], real: Sequence[Any]) -> None:
    section = page.section("Copies of shots", copying.describe() + ".")
    pairs = [
        lay_beside(drawn[nearest.index], turn_over(real[nearest.shot], nearest.turn))
        for nearest in copying.worst(4)
    ]
    section.pictures(
        pairs, "drawn pictures beside their nearest shots",
        "The four drawn pictures that are nearest to a shot, each with that shot on its right.",
        columns=2,
    )  # fmt: skip


def _show_course(page: Page, session: Session, ceiling: float | None = None) -> None:
    """Show how figures and previews went; `ceiling` is the clDice that real pairs reach."""
    text = (session.out / METRICS).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    section = page.section("Course of training")
    for names, words in CURVES:
        series = [
            (label, [(int(row["step"]), float(row[name])) for row in rows if name in row])
            for name, label in names.items()
        ]
        _show_curves(section, words, [(label, points) for label, points in series if points])
    if ceiling is not None:
        section.text(f"On the shots with their own masks the detector reaches {ceiling:.3f}.")
    _show_folds(section, session)
    _show_previews(section, session.out / PREVIEWS)


def _show_curves(section: Section, words: str, series: Sequence[tuple[str, Points]]) -> None:
    if not series or len(series[0][1]) < 2:
        return
    faint = []
    if series[0][0] == NOISY:
        faint = [points for _, points in series]
        series = [(label, smooth(points)) for label, points in series]
    first, last = series[0][1][0], series[0][1][-1]
    caption = f"{words}: {first[1]:.4f} at step {first[0]}, {last[1]:.4f} at step {last[0]}."
    section.pictures([draw_curves(series, faint=faint)], caption, caption, columns=1)


def _show_folds(section: Section, session: Session) -> None:
    """Show what leaving each shot out in turn has found, where it was asked for."""
    path = folder_of(session.out) / FOLDS
    if session.asked.stop_at is None or not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    mean = [(int(step), float(value)) for step, value in found["mean"].items()]
    folds = [
        [(int(step), float(value)) for step, value in fold.items() if int(step) > 0]
        for fold in found["folds"]
    ]
    caption = (
        f"Leave-one-out: validation loss of the shot left out, the mean of {len(folds)} runs, and "
        f"each of them in grey; least at step {found['best_step']}, where this run was stopped."
    )
    section.pictures([draw_curves([("mean", mean)], faint=folds)], caption, caption, columns=1)


def _show_previews(section: Section, folder: Path) -> None:
    """Show a few previews, the first and the last among them."""
    from univg.images import read_image

    paths = sorted(folder.glob("step-*.png"))
    chosen = sorted({round(k * (len(paths) - 1) / max(MOST_PREVIEWS - 1, 1)) for k in
                     range(MOST_PREVIEWS)}) if paths else []  # fmt: skip
    for path in (paths[number] for number in chosen):
        step = int(path.stem.removeprefix("step-"))
        words = f"Preview at step {step}, always of the same noise."
        section.pictures([read_image(path)], words, words, columns=1)
