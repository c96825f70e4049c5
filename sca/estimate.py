"""A first card for a modality that nobody has described: roots and trunks read off the masks.

In: real masks. Out: the `sca` section of a card whose guides leave where the real vessels do, as
many, as long, as bent and as wide. The search then turns the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .params import REFERENCE_SIDE_PX
from .sampling import Floats
from .template import Rooting, Template, trace_template

Masks = Sequence[npt.NDArray[np.bool_]]
BORDER = 0.04  # of the side: a root so near the border is one that comes in from outside
TRUNK_SHARE = 0.04  # of all vessels: a way out of a root that carries this is a trunk


def choose_rooting(masks: Masks) -> Rooting:
    """Where vessels start: at the border, at one hub, or at the thick end of each piece."""
    at_border, at_hub = [], []
    for mask in masks:
        border = trace_template(mask, "", "border")
        half = np.array(mask.shape[::-1]) / np.sqrt(mask.size) / 2
        edge = (half - np.abs(border.roots - 0.5)).min(axis=1)
        carried = _carried(border)
        at_border.append(float(carried[edge < BORDER].sum()) if len(edge) > 2 else 0.0)
        hub = trace_template(mask, "", "hub")
        at_hub.append(len(_trunks(hub)) if len(hub.roots) else 0)
    if np.mean(at_border) > 0.6:
        return "border"
    return "hub" if np.mean(at_hub) >= 5 else "thick"


def _carried(template: Template) -> Floats:
    """Share of all vessels that hangs on each root."""
    total = max(float(template.length.sum()), 1e-9)
    first = template.parent < 0
    carried = np.zeros(len(template.roots))
    np.add.at(carried, template.piece[first], template.below[first] / total)
    return carried


def estimate_section(masks: Masks, rooting: Rooting) -> dict[str, Any]:
    """Return the `sca` section that describes `masks` to a first approximation."""
    templates = [trace_template(mask, "", rooting) for mask in masks]
    section: dict[str, Any] = {
        "margin_px": 40 if rooting == "border" else 16,
        "trunk": {"attraction_px": 10, "kill_px": 3, "step_px": 4, "inertia": 0.2, "lean": 0.5},
        "stages": [
            {"attraction_px": 80, "kill_px": 15, "step_px": 5, "cell_px": [46, 62],
             "keep": [0.4, 0.8], "inertia": 0.5, "lean": 0.5, "wobble_deg": 8},
            {"attraction_px": 40, "kill_px": 9, "step_px": 4, "cell_px": [26, 38],
             "keep": [0.2, 0.5], "patchiness": 0.5, "inertia": 0.35, "lean": 0.4,
             "wobble_deg": 9},
        ],
        "real": {"roots": rooting},
    }  # fmt: skip
    trunks = [trunk for template in templates for trunk in _trunks(template)]
    if not trunks:  # nothing leaves a root far enough: grow from the middle
        return section | {"points": {"root": {"at": [0.5, 0.5]}}, "roots": ["root"]}
    section |= _border_guides(templates) if rooting == "border" else _fan_guides(templates)
    return section


def _trunks(template: Template) -> list[Floats]:
    """The main way out of each root along each branch that carries enough, (k, 3)."""
    total = float(template.length.sum())
    found = []
    for branch in np.flatnonzero(template.below > TRUNK_SHARE * total):
        parent = template.parent[branch]
        near = parent < 0 or (template.parent[parent] < 0 and template.length[parent] < 0.04)
        if near:
            found.append(_main_way(template, int(branch)))
    return found


def _main_way(template: Template, branch: int) -> Floats:
    """Follow the heaviest branch from `branch` to its tip."""
    parts = []
    while True:
        parts.append(template.points[template.start[branch] : template.start[branch + 1]])
        children = np.flatnonzero(template.parent == branch)
        if len(children) == 0:
            return np.vstack(parts)
        branch = int(children[template.below[children].argmax()])


def _quantiles(values: Sequence[float], digits: int = 3) -> list[float]:
    low, high = np.quantile(values, [0.15, 0.85])
    return [round(float(low), digits), round(float(max(high, low + 10.0**-digits)), digits)]


def _describe(trunks: Sequence[Floats]) -> dict[str, Any]:
    """Bend and end width of trunks, as a guide's settings."""
    bends = [abs(_bend_deg(trunk)) for trunk in trunks]
    ends = [float(np.median(trunk[-8:, 2])) * REFERENCE_SIDE_PX for trunk in trunks]
    return {
        "bend_deg": _quantiles([min(b, 120.0) for b in bends], 1),
        "end_radius_px": _quantiles(ends, 2),
        "wave_px": [1.0, 4.0],
    }


def _bend_deg(trunk: Floats) -> float:
    """Turn between the first and the last third of a trunk."""
    third = max(1, len(trunk) // 3)
    first, last = trunk[third] - trunk[0], trunk[-1] - trunk[-1 - third]
    turn = np.arctan2(last[1], last[0]) - np.arctan2(first[1], first[0])
    return float(np.rad2deg((turn + np.pi) % (2 * np.pi) - np.pi))


def _fan_guides(templates: Sequence[Template]) -> dict[str, Any]:
    """One root, its trunks spread over the sectors in which the real ones leave."""
    roots = np.array([t.roots[_carried(t).argmax()] for t in templates if len(t.roots)])
    middle, spread = roots.mean(axis=0), np.clip(roots.std(axis=0) * 1.5, 0.01, 0.2)
    each = [_trunks(t) for t in templates]
    trunks = [trunk for some in each for trunk in some]
    angles = np.array([np.arctan2(*(t[len(t) // 3] - t[0])[1::-1]) for t in trunks])
    lengths = [float(np.hypot(*np.diff(t[:, :2], axis=0).T).sum()) for t in trunks]
    count = [len(some) for some in each]
    guide = {
        "kind": "fan", "origin": "root", "count": [max(1, min(count)), max(1, max(count))],
        "sector_deg": _sector(angles), "length": _quantiles(lengths), **_describe(trunks),
    }  # fmt: skip
    at = [round(float(v), 3) for v in middle]
    return {
        "points": {"root": {"at": at, "spread": [round(float(v), 3) for v in spread]}},
        "guides": [guide],
    }


def _sector(angles: npt.NDArray[np.float64]) -> list[float]:
    """The narrowest sector that holds all `angles`, in degrees."""
    turns = np.sort(np.rad2deg(angles) % 360.0)
    gaps = np.diff(np.concatenate([turns, [turns[0] + 360.0]]))
    widest = int(gaps.argmax())
    start = turns[(widest + 1) % len(turns)]
    return [round(float(start) - 10.0, 1), round(float(start + 360.0 - gaps[widest]) + 10.0, 1)]


def _border_guides(templates: Sequence[Template]) -> dict[str, Any]:
    """Trunks that come in from the border, towards the centre and beside it."""
    each = [_trunks(t) for t in templates]
    trunks = [trunk for some in each for trunk in some]
    reach, miss = [], []
    for trunk in trunks:
        way = np.array([0.5, 0.5]) - trunk[0, :2]
        far = max(float(np.hypot(*way)), 1e-6)
        course = trunk[min(len(trunk) - 1, 20), :2] - trunk[0, :2]
        course /= max(float(np.hypot(*course)), 1e-9)
        miss.append(min(abs(float(way[0] * course[1] - way[1] * course[0])), 0.45))
        reach.append(float(np.hypot(*np.diff(trunk[:, :2], axis=0).T).sum()) / far)
    count = [len(some) for some in each]
    guide = {
        "kind": "inward", "toward": "centre", "count": [max(1, min(count)), max(1, max(count))],
        "sector_deg": [0, 360], "reach": _quantiles(reach), "miss": _quantiles(miss),
        **_describe(trunks),
    }  # fmt: skip
    return {"points": {"centre": {"at": [0.5, 0.5], "spread": [0.05, 0.05]}}, "guides": [guide]}
