"""What the `sca` section of a modality card says.

In: the section as plain YAML values. Out: a checked `Growth`. Positions are in the unit square
(x to the right, y down, side sqrt(H·W), centred in the image); lengths in pixels at a side of 512
and scaled to the size asked for; a number may also be a [low, high] range, drawn anew a mask.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from univg.config import from_plain, settings
from univg.errors import ConfigError
from univg.modalities import Modality

REFERENCE_SIDE_PX = 512.0

Span = float | tuple[float, float]
PositiveSpan = Annotated[float, Gt(0)] | tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]]
NotNegativeSpan = Annotated[float, Ge(0)] | tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]]
Share = Annotated[float, Ge(0), Le(1)]
Cell = Annotated[float, Ge(1)]
CellSpan = Cell | tuple[Cell, Cell]
ShareSpan = Share | tuple[Share, Share]
XY = tuple[float, float]
CountSpan = tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]]


@settings
class Point:
    """A named place, drawn anew a mask."""

    at: XY
    """Mean position, or offset where `of` names another point."""
    spread: XY = (0.0, 0.0)
    """Half-width of the uniform spread in x and y."""
    of: str = ""
    """The point that `at` is an offset from; that one must stand before this one."""


@settings
class FieldOfView:
    """The part of the image that can hold vessels."""

    shape: Literal["full", "circle"] = "full"
    diameter: PositiveSpan = 1.0
    """Of the circle, as a share of the side."""


@settings
class Obstacle:
    """A disc that no vessel enters (foveal avascular zone, macula, optic cup)."""

    at: str
    """Name of a point."""
    radius_px: NotNegativeSpan
    squash: Annotated[float, Gt(0), Le(4)] = 1.0
    """Height over width of the ellipse."""


@settings
class Guide:
    """Courses that the trunks follow: attractors stand densely along them.

    spline: a smooth curve through points of a frame. fan: curves out of the root in a sector.
    inward: curves from the border of the field towards a point; each is rooted at the border.
    """

    kind: Literal["spline", "fan", "inward"]
    variant: str = ""
    """Only in masks of this variant (left or right coronary tree); empty: in all."""
    tree: str = "all"
    """Trees do not see each other while trunks grow, so their vessels may cross."""
    probability: Share = 1.0
    count: CountSpan = (1, 1)
    """How many such curves (fan, inward), fewest and most."""
    through: tuple[XY, ...] = ()
    """spline: control points (u, v); u from `origin` to `toward` (distance 1), v to its right."""
    origin: str = ""
    """spline: frame's origin; fan: the root. A point's name; empty: the unit square's corner."""
    toward: str = ""
    """spline: where u points; fan: where angle 0 points; inward: the target."""
    spread: Annotated[float, Ge(0)] = 0.0
    """spline: half-width of the uniform spread of each control point, in frame units."""
    reach: PositiveSpan = 1.0
    """Share of the curve that is kept; inward: share of the way to the target."""
    sector_deg: tuple[float, float] = (0.0, 360.0)
    """fan: from and to; inward: the part of the border, 0 to the right, clockwise."""
    length: PositiveSpan = 0.4
    """fan: length, in sides."""
    bend_deg: Span = (0.0, 0.0)
    """fan, inward: total turn along the curve; the sign is drawn too."""
    miss: Span = (0.0, 0.0)
    """inward: how far beside the target the curve aims, in sides."""
    end_radius_px: NotNegativeSpan = 0.0
    """The trunk has this radius at its end and more towards its root."""
    wave_px: NotNegativeSpan = 0.0
    """Amplitude of the waves laid over the curve."""
    wavelength_px: PositiveSpan = (60.0, 160.0)
    follow: Literal["", "previous"] = ""
    """spline: `previous` starts where the guide before it was, at `branch_at` of its length."""
    branch_at: ShareSpan = 0.5


@settings
class Stage:
    """One round of growth. Trunks follow guides; the later ones fill the space."""

    layer: str = ""
    """A round with a name is left out unless asked for (`--layers capillaries`)."""
    attraction_px: PositiveSpan = 20.0
    """Da: an attractor further from every node than this pulls none."""
    kill_px: PositiveSpan = 10.0
    """Dk: an attractor nearer to a node than this is reached and removed."""
    step_px: PositiveSpan = 15.0
    """Ls: length of one segment."""
    cell_px: CellSpan = 24.0
    """Side of the grid cells; one attractor a cell, anywhere in it."""
    keep: ShareSpan = 1.0
    """Share of the cells that get an attractor."""
    placement: Literal["grid", "random"] = "grid"
    patchiness: ShareSpan = 0.0
    """0: evenly; 1: whole regions get none."""
    within: str = ""
    """Only within `within_px` of this point; empty: everywhere."""
    within_px: PositiveSpan = 100.0
    apart: bool = False
    """Trees go on not seeing each other in this round."""
    closed: bool = False
    """Closed venation: fronts that meet at an attractor join into loops (capillary beds)."""
    inertia: ShareSpan = 0.3
    """Share of its course that a vessel keeps at each step."""
    lean: ShareSpan = 0.3
    """How far a side branch leans downstream when it leaves."""
    wobble_deg: NotNegativeSpan = 0.0
    """Half-width of the random turn at each step."""
    wobble_memory: Annotated[float, Ge(0), Le(0.99)] = 0.8
    """How long such a turn goes on."""


@settings
class Widths:
    """Radii by Murray's law, r0^e = r1^e + r2^e, from the tips to the root."""

    tip_radius_px: PositiveSpan = 0.8
    exponent: PositiveSpan = 2.5
    taper_per_px: NotNegativeSpan = 0.01
    """Flow gained a pixel of vessel, in tips; makes a vessel taper between its branchings."""
    max_radius_px: PositiveSpan = 8.0


@settings
class Course:
    """What is cut, joined and smoothed after growth."""

    stub_px: NotNegativeSpan = 8.0
    """Side branches that come out of their parent's wall by less are cut."""
    join_px: NotNegativeSpan = 0.0
    """Tips join a vessel ahead of them within this distance; 0: never."""
    lean_px: NotNegativeSpan = 8.0
    """Side branches may leave their vessel so much further upstream, to leave it acutely."""
    smooth_rounds: Annotated[int, Ge(0), Le(50)] = 4


@settings
class Conditioning:
    """How real masks steer the growth (R-SCA)."""

    strength: ShareSpan = 0.8
    """0: real masks are ignored; 1: every real vessel is followed."""
    graft: ShareSpan = 0.9
    """Share of the fallen vessels that a subtree of another real mask replaces."""
    warp_px: NotNegativeSpan = 16.0
    """Amplitude of the smooth random warp laid over the real mask, so that none is copied."""
    rotate_deg: Span = (-8.0, 8.0)
    zoom: PositiveSpan = (0.93, 1.1)
    shift_px: NotNegativeSpan = 8.0
    mirror: bool = True
    """Left and right may be swapped."""
    flip: bool = False
    """Top and bottom may be swapped."""
    quarter_turns: bool = False
    """Quarter turns may be applied."""
    attraction_px: PositiveSpan = 7.0
    kill_px: PositiveSpan = 3.0
    step_px: PositiveSpan = 3.0
    jitter_px: NotNegativeSpan = 0.15
    """Scatter of the attractors about the real centreline."""
    roots: Literal["hub", "border", "thick"] = "thick"
    """Where real vessels start: where they converge, at the image's border, at the thick end."""
    near_px: NotNegativeSpan = 3.0
    """No attractor of the grid nearer than this to a real vessel,"""
    far_px: NotNegativeSpan = 45.0
    """nor further than this: the voids of the real masks stay void."""
    fill: Annotated[float, Ge(0), Le(4)] = 0.5
    """The shares of grid cells that the rounds keep, times this: real courses fill much already."""
    course: Course | None = None
    """What is cut, joined and smoothed when real masks steer; none: as without."""
    width_factor: NotNegativeSpan = 1.0
    """A vessel on a real course is at least so much of the real width wide; 0: Murray alone."""
    min_component_px: Annotated[float, Ge(0)] = 16.0
    """Real vessel pieces shorter than this are left out."""


@settings
class Growth:
    """The whole section."""

    points: dict[str, Point] = field(default_factory=dict)
    view: FieldOfView = FieldOfView()
    obstacles: tuple[Obstacle, ...] = ()
    roots: tuple[str, ...] = ()
    """Points that start a tree without any guide."""
    guides: tuple[Guide, ...] = ()
    variants: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """Weights of the variants, of which each mask is one; empty: there is one kind only."""
    trunk: Stage = Stage(attraction_px=12.0, kill_px=4.0, step_px=4.0)
    """The round in which guides are followed; its cell_px is the attractors' spacing there."""
    stages: Annotated[tuple[Stage, ...], MinLen(0)] = ()
    widths: Widths = Widths()
    course: Course = Course()
    real: Conditioning = Conditioning()
    margin_px: NotNegativeSpan = 0.0
    """How far beyond the image vessels may run, to come back or not."""
    mirror: Share = 0.0
    """Probability that the mask is mirrored left to right (left and right eyes)."""
    max_nodes: Annotated[int, Ge(16), Le(2_000_000)] = 20_000
    max_iterations: Annotated[int, Ge(1)] = 2_000


def growth_of(modality: Modality) -> Growth:
    """Read and check the `sca` section of `modality`; all that is wrong is told at once."""
    growth = from_plain(Growth, modality.sca, f"modality {modality.name}, sca")
    wrong = [*_unknown_points(growth), *_empty_spans(growth)]
    if growth.variants and not sum(growth.variants.values()) > 0:
        wrong.append("variants: the weights sum to 0; give one a weight above 0")
    if wrong:
        raise ConfigError(f"modality {modality.name}, sca: " + "; ".join(wrong))
    return growth


def _unknown_points(growth: Growth) -> list[str]:
    known: list[str] = []
    wrong = []
    for name, point in growth.points.items():
        if point.of and point.of not in known:
            wrong.append(f"points.{name}.of names `{point.of}`, which does not stand before it")
        known.append(name)
    uses = [(f"obstacles.{i}.at", o.at) for i, o in enumerate(growth.obstacles)]
    uses += [("roots", root) for root in growth.roots]
    for i, guide in enumerate(growth.guides):
        uses += [(f"guides.{i}.origin", guide.origin), (f"guides.{i}.toward", guide.toward)]
        if guide.variant and guide.variant not in growth.variants:
            wrong.append(f"guides.{i}.variant names `{guide.variant}`, which has no weight")
        if guide.kind == "spline" and len(guide.through) < 2:
            wrong.append(f"guides.{i}.through needs 2 points or more")
    uses += [(f"stages.{i}.within", s.within) for i, s in enumerate(growth.stages)]
    wrong += [
        f"{where} names `{name}`, which is no point (points: {', '.join(known) or 'none'})"
        for where, name in uses
        if name and name not in known
    ]
    return wrong


def _empty_spans(part: Any, where: str = "") -> list[str]:
    """Ranges whose low end lies above the high one, anywhere in the section."""
    wrong: list[str] = []
    for name, value in vars(part).items():
        path = f"{where}{name}"
        if isinstance(value, tuple) and len(value) == 2 and _is_range(name, value):
            if value[0] > value[1]:
                wrong.append(f"{path} is [{value[0]}, {value[1]}]: the low end is above the high")
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if hasattr(item, "__dataclass_fields__"):
                    wrong += _empty_spans(item, f"{path}.{i}.")
        elif hasattr(value, "__dataclass_fields__"):
            wrong += _empty_spans(value, f"{path}.")
    return wrong


def _is_range(name: str, value: tuple[Any, ...]) -> bool:
    return name not in {"at", "spread"} and all(isinstance(v, int | float) for v in value)
