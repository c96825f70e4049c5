"""The courses of trunks: each kind runs where the card says, in frames of any shape."""

from __future__ import annotations

import numpy as np
import pytest

from univg.sca.guides import SAMPLES, Curve, arc_length, catmull_rom, lay_guides
from univg.sca.params import FieldOfView, Growth, Guide
from univg.sca.sampling import Frame

FRAMES = [Frame(400, 400), Frame(211, 512), Frame(640, 160)]
PLACES = {"a": np.array([0.3, 0.4]), "b": np.array([0.6, 0.5]), "c": np.array([0.5, 0.5])}
WAY = ((0.0, 0.0), (0.3, 0.25), (0.7, -0.2), (1.0, 0.1))


def lay(
    *guides: Guide,
    frame: Frame = FRAMES[0],
    seed: int = 0,
    variant: str = "",
    places=PLACES,
    **more,
) -> list[Curve]:
    growth = Growth(guides=guides, **more)
    return lay_guides(growth, variant, places, frame, np.random.default_rng(seed))


def spline(**more) -> Guide:
    return Guide(**{"kind": "spline", "origin": "a", "toward": "b", "through": WAY} | more)


def distance_to(curve: Curve, point: np.ndarray) -> float:
    fine = catmull_rom(curve.course[:, :2], 2000)
    return float(np.hypot(*(fine - point).T).min())


def headings(curve: Curve) -> np.ndarray:
    return np.arctan2(*np.diff(curve.course[:, :2], axis=0).T[::-1])


@pytest.mark.parametrize("frame", FRAMES)
def test_a_spline_passes_its_control_points(frame):
    (curve,) = lay(spline(), frame=frame)
    u = PLACES["b"] - PLACES["a"]
    v = np.array([-u[1], u[0]])  # to the right of u, y down
    for along, aside in WAY:
        point = frame.to_px(PLACES["a"] + along * u + aside * v)
        assert distance_to(curve, point) < 0.01 * frame.side
    assert np.allclose(curve.course[0, :2], frame.to_px(PLACES["a"]))
    assert curve.course.shape == (SAMPLES, 3) and curve.rooted


def test_a_spline_without_points_runs_in_the_unit_square():
    (curve,) = lay(spline(origin="", toward="", through=((0.0, 0.0), (1.0, 1.0))))
    assert np.allclose(curve.course[[0, -1], :2], FRAMES[0].to_px([[0, 0], [1, 1]]))


def test_spread_moves_every_control_point_and_the_root_least():
    ends = np.array([lay(spline(spread=0.2), seed=s)[0].course[[0, -1], :2] for s in range(60)])
    unit = np.hypot(*(PLACES["b"] - PLACES["a"])) * FRAMES[0].side
    wide = ends.std(axis=0).max(axis=1) / unit
    assert 0 < wide[0] < 0.06 < 0.08 < wide[1] < 0.2


@pytest.mark.parametrize("reach", [0.25, 0.5, 0.9])
def test_reach_keeps_that_share_of_a_spline(reach):
    (whole,), (part,) = lay(spline()), lay(spline(reach=reach))
    lengths = [arc_length(c.course[:, :2])[-1] for c in (whole, part)]
    assert lengths[1] / lengths[0] == pytest.approx(reach, abs=0.02)
    assert np.allclose(part.course[0], whole.course[0])


@pytest.mark.parametrize("frame", FRAMES)
def test_a_fan_leaves_the_root_within_the_sector(frame):
    sector = (-40.0, 110.0)
    guide = Guide(kind="fan", origin="a", toward="b", count=(5, 9), sector_deg=sector, length=0.3)
    ahead = np.arctan2(*(PLACES["b"] - PLACES["a"])[::-1])
    counts = set()
    for seed in range(20):
        curves = lay(guide, frame=frame, seed=seed)
        counts.add(len(curves))
        for curve in curves:
            assert curve.rooted and np.allclose(curve.course[0, :2], frame.to_px(PLACES["a"]))
            off = np.rad2deg((headings(curve)[0] - ahead + np.pi) % (2 * np.pi) - np.pi)
            assert sector[0] <= off <= sector[1]
            assert arc_length(curve.course[:, :2])[-1] == pytest.approx(0.3 * frame.side)
    assert counts == {5, 6, 7, 8, 9}


def test_the_curves_of_a_fan_share_the_sector_out():
    """One in each part of the sector, so that none stays empty."""
    for seed in range(10):
        curves = lay(Guide(kind="fan", origin="c", count=(6, 6)), seed=seed)
        angles = np.rad2deg([headings(curve)[0] for curve in curves]) % 360
        assert sorted((angles // 60).astype(int)) == list(range(6))


def test_a_bend_is_the_turn_along_the_curve_to_either_side():
    guide = Guide(kind="fan", origin="c", count=(1, 1), bend_deg=(30.0, 50.0))
    turns = []
    for seed in range(40):
        course = np.unwrap(headings(lay(guide, seed=seed)[0]))
        turns.append(np.rad2deg(course[-1] - course[0]))
    assert (np.abs(turns) > 28).all() and (np.abs(turns) <= 50).all()
    assert min(turns) < 0 < max(turns)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("reach", [0.4, 1.0, 1.6])
def test_inward_curves_run_from_the_border_as_far_as_they_reach(frame, reach):
    guide = Guide(kind="inward", toward="c", count=(7, 7), reach=reach)
    curves = lay(guide, frame=frame)
    assert len(curves) == 7
    target = frame.to_px(PLACES["c"])
    for curve in curves:
        x, y = curve.course[0, :2]
        edge = min(x, y, frame.width - 1 - x, frame.height - 1 - y)
        assert edge == pytest.approx(0, abs=1e-6) and curve.rooted
        way = target - curve.course[0, :2]
        assert np.allclose(curve.course[-1, :2], curve.course[0, :2] + reach * way, atol=1e-6)


def test_inward_curves_start_at_the_circle_of_the_view():
    view = FieldOfView(shape="circle", diameter=0.8)
    frame = FRAMES[0]
    for curve in lay(Guide(kind="inward", toward="c", count=(6, 6)), view=view):
        away = np.hypot(*(curve.course[0, :2] - frame.to_px([0.5, 0.5])))
        assert away == pytest.approx(0.4 * frame.side)


@pytest.mark.parametrize(("sector", "side"), [((-40, 40), 0), ((140, 220), 1), ((50, 130), 2)])
def test_inward_curves_come_from_their_part_of_the_border(sector, side):
    """0 to the right, clockwise: 90 is below, since y runs down."""
    guide = Guide(kind="inward", toward="c", count=(5, 5), sector_deg=sector)
    for curve in lay(guide):
        x, y = curve.course[0, :2]
        assert [x, -x, y][side] == pytest.approx([399, 0, 399][side], abs=1e-6)


def test_inward_curves_miss_by_as_much_as_said():
    guide = Guide(kind="inward", toward="c", count=(5, 5), miss=(0.1, 0.2), reach=1.0)
    target = FRAMES[0].to_px(PLACES["c"])
    for curve in lay(guide):
        off = np.hypot(*(curve.course[-1, :2] - target)) / FRAMES[0].side
        assert 0.099 < off < 0.201


@pytest.mark.parametrize("branch_at", [0.0, 0.4, 1.0])
def test_a_follower_starts_on_the_spline_before_it(branch_at):
    stem, branch = lay(
        spline(tree="x"),
        spline(tree="x", follow="previous", branch_at=branch_at, spread=0.1),
    )
    at = round(branch_at * (SAMPLES - 1))
    gaps = np.hypot(*(stem.course[:, :2] - branch.course[0, :2]).T)
    assert gaps.min() == 0 and abs(int(gaps.argmin()) - at) <= 1
    assert stem.rooted and not branch.rooted


def test_a_follower_of_another_tree_has_a_root_of_its_own():
    _, branch = lay(spline(tree="x"), spline(tree="y", follow="previous"))
    assert branch.rooted and branch.tree == "y"


def test_all_followers_start_on_the_same_stem():
    stem, *branches = lay(spline(), *[spline(follow="previous", branch_at=b) for b in (0.2, 0.8)])
    for branch in branches:
        assert np.hypot(*(stem.course[:, :2] - branch.course[0, :2]).T).min() == 0


def test_a_follower_of_nothing_is_left_out():
    follower = spline(follow="previous")
    assert lay(spline(probability=0.0), follower) == []
    assert lay(follower) == []
    assert len(lay(spline(), spline(probability=0.0), follower)) == 1  # its own stem is missing


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_a_fan_between_spline_and_follower_changes_nothing(chance):
    """A follower branches off the last spline, whether or not a fan was laid since."""
    fan = Guide(kind="fan", origin="c", count=(2, 2), probability=chance)
    curves = lay(spline(), fan, spline(follow="previous"))
    assert len(curves) == 2 + 2 * chance
    assert np.hypot(*(curves[0].course[:, :2] - curves[-1].course[0, :2]).T).min() == 0


def test_a_guide_of_a_variant_is_laid_in_its_masks_only():
    guides = (spline(variant="left", tree="l"), spline(variant="right", tree="r"), spline())
    for variant, trees in (("left", ["l", "all"]), ("right", ["r", "all"]), ("", ["all"])):
        laid = lay(*guides, variant=variant, variants={"left": 1.0, "right": 1.0})
        assert [curve.tree for curve in laid] == trees


@pytest.mark.parametrize(("chance", "low", "high"), [(0.0, 0, 0), (1.0, 200, 200), (0.3, 40, 80)])
def test_probability(chance, low, high):
    laid = sum(len(lay(spline(probability=chance), seed=seed)) for seed in range(200))
    assert low <= laid <= high


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(
    "guide",
    [
        spline(end_radius_px=3.0),
        Guide(kind="fan", origin="c", count=(3, 3), end_radius_px=3.0),
        Guide(kind="inward", toward="c", count=(3, 3), end_radius_px=3.0),
    ],
    ids=lambda guide: guide.kind,
)
def test_the_end_radius_is_carried_and_scales_with_the_image(guide, frame):
    for curve in lay(guide, frame=frame):
        assert np.allclose(curve.course[:, 2], 3.0 * frame.side / 512)


def test_waves_swing_about_the_course_and_not_at_its_root():
    (still,) = lay(spline())
    (waved,) = lay(spline(wave_px=6.0))
    off = np.hypot(*(still.course - waved.course)[:, :2].T)
    assert off[0] == pytest.approx(0) and 2 < off.max() < 2 * 6 * FRAMES[0].scale + 1


def test_a_mirrored_frame_gives_the_mirrored_spline():
    """What stands to the right of u stands to its left when all is mirrored."""
    frame = FRAMES[1]
    mirrored = {name: np.array([1 - x, y]) for name, (x, y) in PLACES.items()}
    (first,) = lay(spline(), frame=frame)
    (second,) = lay(spline(through=tuple((u, -v) for u, v in WAY)), frame=frame, places=mirrored)
    assert np.allclose(second.course[:, 0], frame.width - 1 - first.course[:, 0])
    assert np.allclose(second.course[:, 1], first.course[:, 1])


@pytest.mark.parametrize("degrees", [30, 90, 200])
def test_a_turned_frame_gives_the_turned_spline_and_fan(degrees):
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    turned = {name: turn @ (at - 0.5) + 0.5 for name, at in PLACES.items()}
    frame = FRAMES[0]
    guides = (spline(), Guide(kind="fan", origin="a", toward="b", count=(2, 2), bend_deg=20.0))
    centre = frame.to_px([0.5, 0.5])
    for one, other in zip(lay(*guides), lay(*guides, places=turned), strict=True):
        wanted = (one.course[:, :2] - centre) @ turn.T + centre
        assert np.allclose(other.course[:, :2], wanted)


def test_the_generator_decides_all():
    guides = (
        spline(spread=0.2, wave_px=(2.0, 8.0)),
        Guide(kind="inward", toward="c", count=(2, 6), miss=(0.0, 0.2), bend_deg=(0.0, 40.0)),
    )
    one, same, other = (lay(*guides, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a.course, b.course) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].course, other[0].course)
