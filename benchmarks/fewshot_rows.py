"""What `fewshot.py` compares: the rows, the size of the images of each set, one network for all.

In: names. Out: `Row`s. Everything that decides a figure, but for seed and number of steps, stands
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LONGEST_PX: dict[str, int] = {
    # 999 px as it comes: a quarter of the vessels are 2.5 px wide there. What masks lose
    # at other sizes: `real_sets.py`.
    "CHASEDB1": 768,
    # 1168 px as it comes, a third of the original already: half of the vessels are 2 to 3 px wide.
    "HRF": 0,
    # 304 and 300 px as they come. More pixels would show nothing more.
    "OCTA500_3M": 0,
    "XCA": 0,
}
"""Longest side at which a set is given and judged, at most; 0: as it comes. The paper does all of
it at 512 px: a difference of protocol. What the network sees is smaller where that costs little."""

FIT: dict[str, Any] = {
    "preset": "laptop",
    "network": "unet-small",
    "network_options": ("channels=16", "depth=5", "norm=instance"),
    "size_px": "auto",
    "loss": "bce+dice",
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 50,
    "ema": 0.99,
    "batch": 4,
    "patch_px": 192,
    "vessel_share": 0.3,
    "synthetic_share": 0.5,
    "memory_mb": 4096,
    "tracker": "none",
    "report_samples": 0,
    "preview_every": 0,
    "validate_every": 0,
}
"""The segmenter of every row, but for what the row names."""

SWIN: dict[str, Any] = {
    "network": "swin-unet",
    "network_options": ("channels=48", "depths=[2, 2, 2]", "heads=[3, 6, 12]", "patch=2"),
    "learning_rate": 1e-3,
}


BATCH: dict[str, Any] = {"network_options": ("channels=16", "depth=5", "norm=batch")}
"""The same with statistics of a batch, those of the shots when it predicts."""


SMALL: dict[str, Any] = {"size_px": 512}
"""The same, seeing images of 512 px at most; what it finds is scaled up and judged as elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    engine: str = ""
    """Of the images of its pairs: procedural, composite, diffusion; empty: no pairs."""
    masks: str = "grown"
    """Where the pairs' masks come from. grown: R-SCA on the five; warped: the five, bent; loha: a
    mask engine adapted to the five."""
    unlabelled: bool = False
    """The rest of the pool, without its labels, lends its grounds; the vessels in it are found by
    the baseline."""
    relabelled: bool = False
    """The masks of its pairs are what the baseline finds in the images, near the masks drawn on."""
    pairs: int = 200
    tiles: bool = False
    """Diffusion on squares of the base's size cut out of the pictures, not on whole pictures."""
    control_from: str | None = None
    """What the ControlNet starts from; None: the embedded one, `unet`: a fresh one."""
    steps_share: float = 1.0
    """Of the steps that are asked for."""
    all_pool: bool = False
    """Trained on every image of the pool, not on five."""
    pretrained: bool = False
    """Starts from a network that has learned procedural pairs of all modalities."""
    fit: tuple[tuple[str, Any], ...] = ()
    """What differs from `FIT`."""

    @property
    def of_draw(self) -> bool:
        """Whether the draw of shots matters."""
        return not self.all_pool


def _batch(name: str, **more: Any) -> Row:
    return Row(
        name=f"batch-{name}", fit=tuple(BATCH.items()), what=f"`{name}` with norm=batch", **more
    )


def _small(name: str, **more: Any) -> Row:
    return Row(name=f"small-{name}", fit=tuple(SMALL.items()), what=f"`{name}` at 512 px", **more)


def _whole(name: str, **more: Any) -> Row:
    what = f"`{name}` at the size that it is judged at"
    return Row(name=f"whole-{name}", fit=(("size_px", 0),), what=what, **more)


def _swin(name: str, **more: Any) -> Row:
    return Row(
        name=f"swin-{name}", fit=tuple(SWIN.items()), what=f"`{name}` with swin-unet", **more
    )


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(name="plain", what="five shots as they are", fit=(("augment", "none"),)),
        Row(name="baseline", what="five shots, strong augmentation"),
        Row(name="light", what="five shots, light augmentation", fit=(("augment", "light"),)),
        Row(name="baseline-half", what="`baseline` in half the steps", steps_share=0.5),
        Row(name="procedural", engine="procedural", what="`baseline` and procedural pairs"),
        Row(name="composite", engine="composite", what="`baseline` and composite pairs"),
        Row(
            name="composite-unlabelled", engine="composite", unlabelled=True,
            what="`composite`, with grounds of the pool's other images, without their labels",
        ),
        Row(
            name="pretrained-composite-unlabelled", engine="composite", unlabelled=True,
            pretrained=True, what="`composite-unlabelled`, from the network of `pretrained`",
        ),
        Row(
            name="composite-warped", engine="composite", masks="warped",
            what="composite pairs on the five masks, bent",
        ),
        Row(
            name="composite-first", engine="composite", fit=(("synthetic_until", 0.6),),
            what="`composite`, the last 40 % of the steps on the five alone",
        ),
        Row(
            name="composite-warped-first", engine="composite", masks="warped",
            fit=(("synthetic_until", 0.6),), what="`composite-warped`, likewise",
        ),
        Row(
            name="diffusion-first", engine="diffusion", fit=(("synthetic_until", 0.6),),
            what="`diffusion`, likewise",
        ),
        Row(
            name="pretrained", pretrained=True,
            what="`baseline`, from a network that has seen procedural pairs of all modalities",
        ),
        Row(
            name="pretrained-composite", engine="composite", pretrained=True,
            what="`composite`, likewise",
        ),
        Row(
            name="pretrained-warped", engine="composite", masks="warped", pretrained=True,
            what="`composite-warped`, likewise",
        ),
        Row(name="composite-50", engine="composite", pairs=50, what="50 composite pairs"),
        Row(name="composite-500", engine="composite", pairs=500, what="500 composite pairs"),
        Row(name="diffusion", engine="diffusion", what="`baseline` and diffusion pairs"),
        Row(
            name="diffusion-relabelled", engine="diffusion", relabelled=True,
            what="`diffusion`, its masks mended: what `baseline` finds near them",
        ),
        Row(
            name="diffusion-tiles", engine="diffusion", tiles=True,
            what="diffusion pairs of parts of the picture, at its own scale",
        ),
        Row(
            name="diffusion-loha", engine="diffusion", masks="loha",
            what="diffusion pairs on masks of a mask engine adapted with LoHa",
        ),
        Row(
            name="diffusion-no-pretraining", engine="diffusion", control_from="unet",
            what="diffusion pairs of a ControlNet that saw nothing but the five",
        ),
        _batch("baseline"),
        _batch("composite", engine="composite"),
        _batch("ceiling", all_pool=True),
        _small("baseline"),
        _small("composite", engine="composite"),
        _small("pretrained", pretrained=True),
        _whole("baseline"),
        _small("ceiling", all_pool=True),
        _swin("baseline"),
        _swin("procedural", engine="procedural"),
        _swin("composite", engine="composite"),
        _swin("diffusion", engine="diffusion"),
        Row(name="ceiling", all_pool=True, what="all images of the pool, strong augmentation"),
    )
}  # fmt: skip
DEFAULT_ROWS = ("plain", "baseline", "procedural", "composite", "diffusion")
REFERENCE = "baseline"
"""The row that the others are compared with."""
