"""The mask rule: bool H×W in memory; one-channel 8-bit PNG of exactly {0, 255} on disk.

In: a mask in any of the forms that people store (0/1, 0/255, 16-bit, 1-bit, palette, RGB, RGBA,
damaged by JPEG). Out: `True` where there is vessel, with a note of how it was stored and of the
share of pixels that had to be guessed.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from univg.errors import DataError, Problem
from univg.files import write_atomic
from univg.images import ImageArray, PictureError, open_picture

BoolMask = npt.NDArray[np.bool_]

NEAR_SHARE = 1 / 16
"""A level within this share of the range of its lowest or highest level counts as that level."""

INVERTED_DENSITY = 0.6
"""More vessel than this is no vessel tree: dense capillary labels reach 0.45."""
PHOTOGRAPH_SHARE = 0.25
"""More in-between pixels than this is no mask: fine anti-aliased ones stay below 0.1."""

_GREY_REMEDY = "save masks as PNG with two values; never as JPEG, never scaled with smoothing"


class MaskWarning(UserWarning):
    """A mask with in-between values was cut at half."""


@dataclass(frozen=True, kw_only=True)
class MaskReading:
    """A mask and how it was stored.

    `stored` is one of: binary 0/1, binary 0/255, palette, rgb, rgba, 16-bit, 1-bit, grey.
    """

    mask: BoolMask
    stored: str
    levels: int
    """Number of different values (of a coloured mask: of different strengths)."""
    ambiguous_share: float
    """Share of pixels that are neither near the lowest nor near the highest value."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height [px]."""
        return self.mask.shape[1], self.mask.shape[0]

    @property
    def density(self) -> float:
        """Share of vessel pixels."""
        return float(self.mask.mean())

    @property
    def empty(self) -> bool:
        """No pixel is vessel."""
        return not self.mask.any()

    @property
    def full(self) -> bool:
        """Every pixel is vessel."""
        return bool(self.mask.all())


def inspect_mask(path: Path) -> MaskReading:
    """Read the mask at `path` and tell how it was stored."""
    picture = open_picture(path)
    levels, stored = _levels_of(picture)
    if stored == "grey":
        stored = _name_binary(levels)
    low, high = levels.min(), levels.max()
    if low == high:
        mask = np.full(levels.shape, bool(high > 0), dtype=np.bool_)
        return MaskReading(mask=mask, stored=stored, levels=1, ambiguous_share=0.0)
    middle = (float(low) + float(high)) / 2
    mask = levels > middle
    if bool(((levels == low) | (levels == high)).all()):  # ten times as fast as counting values
        return MaskReading(mask=mask, stored=stored, levels=2, ambiguous_share=0.0)
    near = (float(high) - float(low)) * NEAR_SHARE
    share = float(((levels > low + near) & (levels < high - near)).mean())
    count = len(np.unique(levels))
    return MaskReading(mask=mask, stored=stored, levels=count, ambiguous_share=share)


def read_mask(path: Path, *, strict: bool = False) -> BoolMask:
    """Read the mask at `path` as bool H×W.

    A mask with in-between values is cut at half with a `MaskWarning`, or refused if `strict`.
    """
    reading = inspect_mask(path)
    problem = describe_grey(path, reading)
    if problem is not None:
        if strict:
            raise PictureError(problem)
        warnings.warn(problem.line(), MaskWarning, stacklevel=2)
    return reading.mask


def describe_grey(path: Path, reading: MaskReading) -> Problem | None:
    """Return what is doubtful about a mask with more than two values, else None."""
    if reading.levels <= 2:
        return None
    detail = (
        f"is no clean mask: {reading.levels} values, {reading.ambiguous_share:.2%} of its pixels "
        "are neither vessel nor background; cut at half"
    )
    return Problem(path=path, kind="grey", detail=detail, remedy=_GREY_REMEDY)


def check_mask(
    path: Path, image_size: tuple[int, int] | None = None, strict: bool = False
) -> list[Problem]:
    """Return all that is wrong with the mask at `path`; `image_size` is (width, height)."""
    try:
        reading = inspect_mask(path)
    except PictureError as error:
        return [error.problem]
    return judge_mask(path, reading, image_size, strict)


def judge_mask(
    path: Path,
    reading: MaskReading,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
) -> list[Problem]:
    """Return all that is wrong with a mask that was read: empty, full, size and, strictly, grey."""
    problems = []
    if image_size is not None and reading.size != image_size:
        detail = "the mask is {}x{} px, its image {}x{} px".format(*reading.size, *image_size)
        remedy = "use the mask of this image; scale masks by nearest neighbour"
        problems.append(Problem(path=path, kind="size", detail=detail, remedy=remedy))
    if reading.empty:
        remedy = "remove the pair, or draw its vessels"
        problems.append(
            Problem(path=path, kind="empty", detail="has no vessel pixel", remedy=remedy)
        )
    if reading.full:
        remedy = "replace the mask; is this another file?"
        problems.append(
            Problem(path=path, kind="full", detail="every pixel is vessel", remedy=remedy)
        )
    grey = describe_grey(path, reading) if strict else None
    return [*problems, grey] if grey else problems


def judge_view(
    path: Path,
    reading: MaskReading,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
) -> list[Problem]:
    """Return what is wrong with a field of view: one of the whole image is right for many."""
    if reading.empty:
        remedy = "draw where the image counts, or remove the file"
        return [Problem(path=path, kind="empty", detail="is an empty field of view", remedy=remedy)]
    found = judge_mask(path, reading, image_size, strict)
    return [problem for problem in found if problem.kind != "full"]


def judge_example(
    path: Path, reading: MaskReading, image_size: tuple[int, int] | None = None
) -> list[Problem]:
    """Return what is wrong with a mask that is learnt from: a few decide all that follows."""
    problems = judge_mask(path, reading, image_size)
    if reading.ambiguous_share > PHOTOGRAPH_SHARE:
        detail = f"{reading.ambiguous_share:.0%} of its pixels are neither vessel nor background"
        remedy = "this looks like an image; are images/ and masks/ exchanged?"
        problems.append(Problem(path=path, kind="grey", detail=detail, remedy=remedy))
    elif reading.density > INVERTED_DENSITY and not reading.full:
        detail = f"{reading.density:.0%} of its pixels are vessel"
        remedy = "is it inverted? vessels are the bright value"
        problems.append(Problem(path=path, kind="inverted", detail=detail, remedy=remedy))
    return problems


def encode_mask(mask: BoolMask) -> bytes:
    """Return `mask` as one-channel 8-bit PNG of {0, 255}; the same mask gives the same bytes.

    Written by hand because run-length matching without row filters suits masks, and OpenCV offers
    the filter only in late versions: 0.41 ms and 7 kB for 512² of vessels, against 1.4 ms and
    12 kB of its level 1.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        raise DataError(f"a mask is bool of height x width, not {mask.dtype} of {mask.shape}")
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: 0, none
    np.multiply(mask, np.uint8(255), out=rows[:, 1:])
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    pixels = deflate.compress(rows.data) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in chunks)


def write_mask(path: Path, mask: BoolMask) -> None:
    """Write `mask` to `path` as PNG, whole or not at all."""
    write_atomic(path, encode_mask(mask))


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """Read a file of label values as int H×W: grey values, or the indices of a coloured palette."""
    picture = open_picture(path)
    if picture.mode == "P":
        colours = _palette_colours(picture)
        indices = np.asarray(picture)
        grey = bool((colours == colours[:, :1]).all()) and len(np.unique(colours[:, 0])) > 1
        return (colours[:, 0][indices] if grey else indices).astype(np.int64)
    pixels = np.asarray(picture)
    if pixels.ndim == 3:
        if not (pixels[:, :, :3] == pixels[:, :, :1]).all():
            detail = "is a coloured picture, not a map of label values"
            raise PictureError(Problem(path=path, kind="labels", detail=detail))
        pixels = pixels[:, :, 0]
    return pixels.astype(np.int64)


def find_fov(image: ImageArray) -> BoolMask:
    """Return the bright disc of a fundus camera: the largest bright region, holes filled.

    The dark border is not quite black (JPEG, stray light), so the cut is 8 % of the way from the
    level of the four corners to that of the brightest pixels.
    """
    grey = (image if image.ndim == 2 else image.max(axis=2)).astype(np.float32)
    side = max(2, min(grey.shape) // 50)
    corners = [grey[:side, :side], grey[:side, -side:], grey[-side:, :side], grey[-side:, -side:]]
    dark = min(float(np.median(corner)) for corner in corners)
    bright = float(np.percentile(grey, 99))
    smooth = cv2.medianBlur(grey, 5)  # takes out specks and keeps the rim where it is
    region = (smooth > dark + 0.08 * (bright - dark)).astype(np.uint8)
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(grey.shape, np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(np.bool_)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _name_binary(levels: npt.NDArray[Any]) -> str:
    high = int(levels.max())
    for top in (1, 255):
        if high in {0, top} and bool(((levels == 0) | (levels == top)).all()):
            return f"binary 0/{top if high else 255}"
    return "grey"


def _levels_of(picture: Image.Image) -> tuple[npt.NDArray[Any], str]:
    """Return one number a pixel, larger where there is more vessel, and the form it had."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture).astype(np.uint8), "1-bit"
    if mode == "P" and "transparency" not in picture.info:
        return _levels_of_palette(picture), "palette"
    if mode in {"P", "PA", "LA", "RGBA"} or (
        mode in {"L", "RGB"} and "transparency" in picture.info
    ):
        form = "palette" if mode == "P" else "rgba"
        return _levels_of_rgba(np.asarray(picture.convert("RGBA"))), form
    pixels = np.asarray(
        picture if mode in {"L", "RGB"} or mode[0] in "IF" else picture.convert("RGB")
    )
    if pixels.ndim == 3:
        return _strength(pixels), "rgb"
    return pixels, "grey" if mode == "L" else "16-bit"


def _levels_of_palette(picture: Image.Image) -> npt.NDArray[Any]:
    """Colours decide; where all colours in use are alike, only the indices tell them apart."""
    indices = np.asarray(picture)
    strengths = _strength(_palette_colours(picture)[None])[0]
    used = np.unique(indices)
    told_apart = len(np.unique(strengths[used] if len(used) > 1 else strengths)) > 1
    return strengths[indices] if told_apart else indices


def _palette_colours(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the palette as 256×3; colours that the file does not define are black."""
    given = np.asarray(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(given)] = given
    return colours


def _strength(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return how much colour there is: H×W of H×W×3.

    The strongest channel, so that red arteries and blue veins on black count alike; on a white
    ground that is the same everywhere, and how far the colour is from grey decides.
    """
    strongest = colours.max(axis=2)
    if strongest.min() != strongest.max():
        return np.asarray(strongest)
    return np.asarray(strongest - colours.min(axis=2)) if _coloured(colours) else strongest


def _coloured(colours: npt.NDArray[np.uint8]) -> bool:
    spread = colours.max(axis=2) - colours.min(axis=2)
    return bool(spread.min() != spread.max())


def _levels_of_rgba(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Alpha is ignored where constant, is the mask where the visible colour is constant."""
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3]
    if alpha.min() == alpha.max():
        return _strength(colours)
    visible = colours[alpha > 0]
    if bool((visible == visible[0]).all()):
        return np.asarray(alpha)
    over_black = colours.astype(np.uint16) * alpha[:, :, None] // 255
    return _strength(over_black.astype(np.uint8))
