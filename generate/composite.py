"""The composite image engine: new vessels in grounds lifted out of a few labelled images.

In: a bool mask H×W, a `Library` of shots, a `Recipe`. Out: an 8-bit image, grey H×W or RGB H×W×3,
and the mask of what is visible in it. Two grounds of the shots are laid under the vessels, bent,
blended and lit anew; vessels are drawn in as those of the shots look. No network, no model: the
baseline that learnt engines have to beat. The same mask, library and recipe give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.masks import BoolMask

from .blend import blend, restore_grain
from .composite_library import (
    MAP_PX,
    Ground,
    Library,
    build_library,
    distance_to_edge,
    map_vessels,
)
from .composite_vessels import draw_vessels
from .fields import blur, normalize, smooth_noise
from .procedural import Rendered

__all__ = ["Library", "Recipe", "Rendered", "build_library", "render_composite", "sample_recipe"]

Floats = npt.NDArray[np.float32]

REACH = 0.14
"""How far a ground may be moved under the new vessels, as a share of the side."""
OTHER_REACH = 0.03
"""The same of the ground that is blended in."""
STAY = 1.2
"""How much a ground rather stays where it was."""
COARSE_PX = 32
"""Side of the grid on which seams, bends and light are drawn."""
MATCH = 0.75
"""How far the second ground takes on the light of the first."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that is drawn for one image."""

    base: int
    """The shot whose ground and frame the image has."""
    other: int
    """The shot whose ground is blended in."""
    share: float
    """About how much of the image is of the other shot."""
    turn_deg: float
    other_turn_deg: float
    zoom: float
    other_zoom: float
    bend: float
    """How far the ground is bent, as a share of the short side."""
    light: float
    """Strength of the new light, in logarithms."""
    tint: int
    """The shot whose colour the image is drawn to."""
    tint_share: float
    contrast: float
    """Of the vessels, beside the shots'."""
    texture_seed: int
    """Of the fields: seam, bends, light."""

    def to_plain(self) -> dict[str, float]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_plain` gave."""
        kinds: dict[str, Any] = {
            each.name: int if each.type == "int" else float for each in fields(cls)
        }
        if set(plain) != set(kinds):
            odd = sorted(set(plain) ^ set(kinds))
            raise DataError(f"not a recipe of the composite engine: missing or unknown {odd}")
        return cls(**{name: kinds[name](value) for name, value in plain.items()})


def sample_recipe(library: Library, rng: np.random.Generator) -> Recipe:
    """Draw a recipe: which shots, how bent, how lit."""
    count = len(library.grounds)
    base, tint = (int(value) for value in rng.integers(count, size=2))
    other = (base + 1 + int(rng.integers(max(1, count - 1)))) % count
    turns = rng.normal(0, 4, 2).clip(-10, 10)
    zooms = np.exp(rng.normal(0, 0.04, 2)).clip(0.9, 1.12)
    return Recipe(
        base=base, other=other, share=round(float(rng.uniform(0.15, 0.6)), 4),
        turn_deg=round(float(turns[0]), 3), other_turn_deg=round(float(turns[1]), 3),
        zoom=round(float(zooms[0]), 4), other_zoom=round(float(zooms[1]), 4),
        bend=round(float(rng.uniform(0.004, 0.02)), 5),
        light=round(float(library.light_spread * rng.uniform(0, 0.6)), 4),
        tint=tint, tint_share=round(float(rng.uniform(0, 0.7)), 4),
        contrast=round(float(np.exp(rng.normal(0, 0.1)).clip(0.8, 1.25)), 4),
        texture_seed=int(rng.integers(2**53)),
    )  # fmt: skip


def render_composite(mask: BoolMask, library: Library, recipe: Recipe) -> Rendered:
    """Render `mask` as `recipe` says, of the grounds and vessels in `library`."""
    mask = np.ascontiguousarray(mask, np.bool_)
    if max(recipe.base, recipe.other, recipe.tint) >= len(library.grounds):
        raise DataError(f"the recipe names shots that a library of {len(library.grounds)} lacks")
    fitted = library.at((mask.shape[0], mask.shape[1]))
    rng = np.random.Generator(np.random.PCG64(recipe.texture_seed))
    base = fitted.grounds[recipe.base]
    visible = mask & base.view
    ground = _light_anew(_lay_ground(fitted, recipe, visible, rng), fitted, recipe, rng)
    picture = draw_vessels(ground, visible, fitted.style, recipe.contrast, rng)
    stored = _put_in_frame(picture, base)
    return Rendered(stored[:, :, 0] if library.grey else stored, visible)


def _lay_ground(
    library: Library, recipe: Recipe, mask: BoolMask, rng: np.random.Generator
) -> Floats:
    """Return (H, W, C) of two shots, each where it suits the new vessels."""
    wanted = map_vessels(mask)
    bends = [smooth_noise(rng, (COARSE_PX,) * 2, 10.0) for _ in range(4)]
    seam = smooth_noise(rng, (COARSE_PX,) * 2, 12.0)
    laid, seen = [], []
    for number, turn, zoom, bend, reach in (
        (recipe.base, recipe.turn_deg, recipe.zoom, bends[:2], REACH),
        # The other shot fills in what the first one did not see: it stays where it sees most.
        (recipe.other, recipe.other_turn_deg, recipe.other_zoom, bends[2:], OTHER_REACH),
    ):
        ground = library.grounds[number]
        mirrored, shift = find_place(ground.vessel_map, wanted, reach)
        rows, columns = _lay_places(mask.shape, mirrored, shift, turn, zoom, recipe.bend, bend)
        laid.append(_take(ground, rows, columns))
        seen.append(_take_view(ground, rows, columns))
    other = _match_light(laid[1], laid[0])
    mixed = blend(laid[0], other, _choose_seam(laid, seen, seam, recipe.share))
    return restore_grain(mixed, library.grounds[recipe.base].grain)


def find_place(old: Floats, new: Floats, reach: float = REACH) -> tuple[bool, tuple[float, float]]:
    """Return whether to mirror a ground, and its shift (y, x) as shares of the sides.

    So that its old vessels would lie about where the new ones are: what goes with vessels, an optic
    disc or a free zone, is then where it should be.
    """
    size = 2 * MAP_PX
    spectrum = np.fft.rfft2(new, (size, size))
    farthest = int(reach * MAP_PX)
    steps = np.arange(-farthest, farthest + 1)
    far = np.square(steps[:, None] / MAP_PX) + np.square(steps[None, :] / MAP_PX)
    norm = float(np.linalg.norm(old) * np.linalg.norm(new)) + 1e-6
    best, found = -np.inf, (False, (0.0, 0.0))
    for mirrored in (False, True):
        turned = old[:, ::-1] if mirrored else old
        match = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(turned, (size, size))), (size, size))
        score = match[np.ix_(steps, steps)] / norm - STAY * far
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        if score[row, column] > best:
            best = float(score[row, column])
            found = (mirrored, (steps[row] / MAP_PX, steps[column] / MAP_PX))
    return found


def _lay_places(
    shape: tuple[int, ...], mirrored: bool, shift: tuple[float, float], turn_deg: float,
    zoom: float, amount: float, bend: list[Floats],
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the row and column (H, W) of a ground that are shown at each pixel."""
    height, width = shape[0], shape[1]
    angle = math.radians(turn_deg)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2 + shift[0] * height)
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(width / 2 + shift[1] * width)
    reach = np.float32(amount * min(height, width))
    dy, dx = (
        cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) * reach for each in bend
    )
    rows = np.float32(cos) * y + np.float32(sin) * x + dy + np.float32(height / 2)
    columns = np.float32(cos) * x - np.float32(sin) * y + dx + np.float32(width / 2)
    if mirrored:
        columns = np.float32(width - 1) - columns
    return rows, columns


def _take(ground: Ground, rows: Floats, columns: Floats) -> Floats:
    """Return the ground's picture (H, W, C) at these places, as float32."""
    moved = cv2.remap(
        ground.picture, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return moved.reshape(ground.picture.shape).astype(np.float32)


def _take_view(ground: Ground, rows: Floats, columns: Floats) -> Floats:
    """Return where the shot did see (COARSE, COARSE), 0..1; elsewhere its ground is made up."""
    height, width = rows.shape
    down = np.linspace(0, height - 1, COARSE_PX).round().astype(np.int64)
    across = np.linspace(0, width - 1, COARSE_PX).round().astype(np.int64)
    at = np.ix_(down, across)
    seen = cv2.remap(
        ground.view.astype(np.float32), columns[at], rows[at], cv2.INTER_LINEAR, borderValue=0.0
    )
    return np.asarray(seen, np.float32)


def _match_light(picture: Floats, wanted: Floats) -> Floats:
    """Return `picture` in about the light of `wanted`: else a blend would be patches of light."""
    height, width, channels = picture.shape
    small = [
        blur(cv2.resize(each, (COARSE_PX,) * 2, interpolation=cv2.INTER_AREA), 2.0)
        for each in (picture, wanted)
    ]
    ratio = np.log(np.maximum(small[1], 4)) - np.log(np.maximum(small[0], 4))
    gain = np.exp(MATCH * np.clip(ratio, -0.7, 0.7))
    wide = cv2.resize(gain, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(picture * wide.reshape(height, width, channels), np.float32)


def _choose_seam(
    laid: list[Floats], seen: list[Floats], noise: Floats, share: float
) -> Floats:  # fmt: skip
    """Return where the second ground is shown (H, W), 0 or 1.

    Not where one of the two has something of its own: half an optic disc fits no other ground. But
    where the first one's shot saw nothing, and never where only the first one's did.
    """
    height, width, _ = laid[0].shape
    marked = np.zeros(noise.shape, np.float32)
    for picture in laid:
        small = cv2.resize(picture, noise.shape[::-1], interpolation=cv2.INTER_AREA)
        small = small.reshape(*noise.shape, -1)
        band = (blur(small, 1.0) - blur(small, 6.0)).reshape(small.shape)
        level = np.abs(band).max(axis=2)
        marked = np.maximum(marked, level / max(float(np.median(level)), 1e-3))
    liking = normalize(noise) - np.clip(marked - 2, 0, 4)
    liking -= np.quantile(liking, 1 - share)
    liking += 8 * (seen[1] - seen[0])
    wide = cv2.resize(liking, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide > 0, np.float32)


def _light_anew(
    ground: Floats, library: Library, recipe: Recipe, rng: np.random.Generator
) -> Floats:
    """Return `ground` under another light and in another shot's colour."""
    height, width, _ = ground.shape
    target, own = (library.grounds[k].colour for k in (recipe.tint, recipe.base))
    gain = np.exp(np.clip(recipe.tint_share * (target - own), -0.35, 0.35))
    field = recipe.light * smooth_noise(rng, (COARSE_PX,) * 2, 18.0)
    light = cv2.resize(np.exp(field), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(ground * light[:, :, None] * gain.astype(np.float32), np.float32)


def _put_in_frame(picture: Floats, base: Ground) -> npt.NDArray[np.uint8]:
    """Return 8-bit pixels: `picture` inside the view of `base`, its frame outside."""
    if base.view.all():
        return np.asarray(np.clip(picture + 0.5, 0, 255), np.uint8)
    depth = np.maximum(distance_to_edge(base.view) - 1, 0)
    ring = base.view & (depth < len(base.rim) - 1)
    low = depth[ring].astype(np.int64)
    share = (depth[ring] - low)[:, None]
    shaded = picture.copy()
    shaded[ring] *= base.rim[low] * (1 - share) + base.rim[low + 1] * share
    stored = np.asarray(np.clip(shaded + 0.5, 0, 255), np.uint8)
    stored[~base.view] = base.frame[~base.view]
    return stored
