"""Near-duplicates inside a set: which pair nearly repeats an earlier one.

In: a signature a pair (256 numbers of its mask, 256 of its image), their sources. Out: for each
pair the few earlier ones that are most like it, to be compared exactly (`gate_pairs`).

Signatures are compared in all eight quarter turns and mirrorings, shortened to 64 numbers by a
fixed random projection. Up to `EXACT_UP_TO` items every pair is looked at, by matrix products in
blocks of bounded memory: 5 s of one core for 20,000, 31 s for 50,000. Of more items only those are
compared that fall into one bucket of a hash: 8 s for 50,000, 2 minutes and 0.6 GB for 200,000.
Not seen: turns by other angles, shifts by more than about a fortieth of the side, cut-outs; and by
the hash 3 % of what has a likeness of 0.95, 13 % of 0.9 (a re-lit, grainy copy has about 0.98).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.overlap import TURNS, turn_over
from univg.seeds import rng_for
from univg.vesselness import Float32

Signature = npt.NDArray[np.int8]  # (256,)
Candidates = npt.NDArray[np.int64]  # (K, 2): earlier, later

SIDE = 16
LENGTH = SIDE * SIDE
EXACT_UP_TO = 50_000
CANDIDATES = 3
"""So many earlier items are offered for an exact comparison with each."""
LIKELY = 0.8
"""Likeness of signatures from which items are worth comparing exactly."""

_SHORT = 64
_BLOCK = 1024
_TABLES = 24
_BITS = 20
_CROWD = 64  # neighbours looked at in one bucket; a set of one picture has all in one
_SETTLED = 0.98  # who has an earlier one so much alike needs no further search
_DETAIL_PX = 64
_GROUND_PX = 12.0

_Ints = npt.NDArray[np.int64]
_Offers = tuple[Candidates, npt.NDArray[np.float32]]


def sign_mask(mask: BoolMask) -> Signature:
    """Return where the vessels of `mask` are, roughly: local density less its surroundings'."""
    side = (_DETAIL_PX, _DETAIL_PX)
    density = cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_AREA)
    density = np.minimum(density * 2, 1)  # thick vessels shall not drown the thin
    return _pack(density - cv2.GaussianBlur(density, (0, 0), _GROUND_PX))


def sign_ground(values: Float32) -> Signature:
    """Return the signature of an image from its fine structure (64, 64), its vessels left out."""
    return _pack(values)


def find_candidates(
    signatures: npt.NDArray[np.int8], groups: _Ints | None = None, *, exact: bool | None = None
) -> Candidates:
    """Return (K, 2), sorted: for each of `signatures` (N, 256) the most alike earlier ones.

    At most `CANDIDATES` an item, all of a likeness of `LIKELY` or more. Items of one number in
    `groups` (N,) are not compared. `exact` chooses the way; None: by N.
    """
    count = len(signatures)
    by_all = count <= EXACT_UP_TO if exact is None else exact
    short = _Shortened(signatures)
    found = _look_at_all(short, groups) if by_all else _look_in_buckets(short, groups)
    return found[np.lexsort((found[:, 0], found[:, 1]))]


def unpack(signatures: npt.NDArray[np.int8]) -> Float32:
    """Return `signatures` (N, 256) as vectors of length 1; those of nothing stay 0."""
    plain = signatures.astype(np.float32)
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    return np.asarray(plain / np.maximum(norms, 1e-6), np.float32)


def _pack(pixels: Float32) -> Signature:
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.5)  # so that a small shift changes little
    small = np.asarray(cv2.resize(soft, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)
    small = small - small.mean()
    largest = float(np.abs(small).max())
    if largest < 1e-4:
        return np.zeros(LENGTH, np.int8)
    return np.asarray(np.rint(small * (127 / largest)), np.int8).ravel()


class _Shortened:
    """Signatures and their turned versions, 64 numbers each, made block by block."""

    def __init__(self, signatures: npt.NDArray[np.int8]) -> None:
        self.signatures = signatures
        rng = rng_for(0, "generate/gate near")  # fixed: no part of any run
        project = rng.standard_normal((LENGTH, _SHORT)).astype(np.float32) / np.sqrt(_SHORT)
        places = np.arange(LENGTH).reshape(SIDE, SIDE)
        orders = [turn_over(places, turn).ravel() for turn in range(TURNS)]
        # Turning a signature and projecting it is projecting it with the rows laid elsewhere.
        self._projects = [project[np.argsort(order)] for order in orders]

    def __len__(self) -> int:
        return len(self.signatures)

    def take(self, which: slice | _Ints, turn: int = 0) -> Float32:
        """Return (n, 64): `which` of the signatures in position `turn`."""
        short = unpack(self.signatures[which]) @ self._projects[turn]
        norms = np.linalg.norm(short, axis=1, keepdims=True)
        return np.asarray(short / np.maximum(norms, 1e-6), np.float32)


def _look_at_all(short: _Shortened, groups: _Ints | None) -> Candidates:
    """Compare all with all: of each block of earlier items the most alike one counts.

    About 8 · 64 · N² floating-point operations; memory for a block and for 16 to N / 1024 offers
    an item.
    """
    count = len(short)
    rows = max(1, min(_BLOCK, -(-count // 16)))
    found = [np.empty((0, 2), np.int64)]
    for first in range(0, count, _BLOCK):
        later = slice(first, min(first + _BLOCK, count))
        turned = np.concatenate([short.take(later, turn) for turn in range(TURNS)])
        offers, likeness = [], []
        for start in range(0, later.stop, rows):
            earlier = slice(start, min(start + rows, later.stop))
            every = (short.take(earlier) @ turned.T).reshape(-1, TURNS, later.stop - first)
            table = every.max(axis=1)
            if earlier.stop > first:
                numbers = np.arange(start, earlier.stop)[:, None]
                table[numbers >= np.arange(first, later.stop)[None, :]] = -1.0
            if groups is not None:
                table[groups[earlier, None] == groups[None, later]] = -1.0
            offers.append(start + table.argmax(axis=0))
            likeness.append(table.max(axis=0))
        found.append(_take_best(first, np.array(offers), np.array(likeness)))
    return np.concatenate(found)


def _take_best(first: int, offers: _Ints, likeness: npt.NDArray[np.floating]) -> Candidates:
    """Return the `CANDIDATES` best of the offers (B, n) to the items from `first` on."""
    order = np.argsort(-likeness, axis=0, kind="stable")[:CANDIDATES]
    rank, later = np.nonzero(np.take_along_axis(likeness, order, axis=0) >= LIKELY)
    chosen = np.take_along_axis(offers, order, axis=0)[rank, later]
    return np.stack([chosen, first + later], axis=1).astype(np.int64)


def _look_in_buckets(short: _Shortened, groups: _Ints | None) -> Candidates:
    """Compare those whose signatures lie on the same sides of 20 random planes, 24 times over."""
    count = len(short)
    rng = rng_for(0, "generate/gate buckets")
    planes = rng.standard_normal((_SHORT, _TABLES * _BITS)).astype(np.float32)
    keys = [_hash(short, planes, turn) for turn in range(TURNS)]
    best: _Offers = (np.empty((0, 2), np.int64), np.empty(0, np.float32))
    settled = np.zeros(count, np.bool_)
    for number in range(_TABLES):
        order = np.argsort(keys[0][number], kind="stable")
        ordered = keys[0][number][order]
        for turn in range(TURNS):
            for part in _parts(count):
                other, mine = _meet(ordered, order, keys[turn][number], part)
                open_ = ~settled[np.maximum(other, mine)]
                # Sieved at once, so that memory does not grow with the number of meetings.
                new = _weigh(short, other[open_], mine[open_], turn, groups)
                best = _keep_best(best, new)
                settled[new[0][new[1] >= _SETTLED, 1]] = True
    return best[0]


def _parts(count: int) -> list[slice]:
    return [slice(k, min(k + 8 * _BLOCK, count)) for k in range(0, count, 8 * _BLOCK)]


def _hash(short: _Shortened, planes: Float32, turn: int) -> npt.NDArray[np.int32]:
    """Return keys (tables, N): on which side of its 20 planes each signature lies."""
    keys = np.empty((_TABLES, len(short)), np.int32)
    weights = (1 << np.arange(_BITS)).astype(np.float32)  # sums below 2^24 are exact
    for part in _parts(len(short)):
        bits = (short.take(part, turn) @ planes > 0).reshape(-1, _TABLES, _BITS)
        keys[:, part] = (bits.astype(np.float32) @ weights).T
    return keys


def _meet(
    ordered: npt.NDArray[np.int32], order: _Ints, asked: npt.NDArray[np.int32], part: slice
) -> tuple[_Ints, _Ints]:
    """Return the upright items (K,) that lie in one bucket with turned ones of `part` (K,)."""
    left = np.searchsorted(ordered, asked[part], "left")
    sizes = np.minimum(np.searchsorted(ordered, asked[part], "right") - left, _CROWD)
    mine = np.repeat(np.arange(part.start, part.stop), sizes)
    steps = np.arange(len(mine)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.repeat(left, sizes) + steps], mine


def _weigh(
    short: _Shortened, other: _Ints, mine: _Ints, turn: int, groups: _Ints | None
) -> _Offers:
    """Return the pairs (K, 2), the earlier first, that are alike, and how much (K,)."""
    good = other != mine
    if groups is not None:
        good &= groups[other] != groups[mine]
    other, mine = other[good], mine[good]
    likeness = np.empty(len(mine), np.float32)
    for part in _parts(len(mine)):
        likeness[part] = (short.take(other[part]) * short.take(mine[part], turn)).sum(axis=1)
    alike = likeness >= LIKELY
    return np.sort(np.stack([other, mine], axis=1)[alike], axis=1), likeness[alike]


def _keep_best(found: _Offers, new: _Offers) -> _Offers:
    """Return the best `CANDIDATES` of both for each later item."""
    if not len(new[0]):
        return found
    pairs = np.concatenate([found[0], new[0]])
    likeness = np.concatenate([found[1], new[1]])
    order = np.lexsort((-likeness, pairs[:, 0], pairs[:, 1]))
    pairs, likeness = pairs[order], likeness[order]
    first = np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)]
    pairs, likeness = pairs[first], likeness[first]
    order = np.lexsort((pairs[:, 0], -likeness, pairs[:, 1]))
    pairs, likeness = pairs[order], likeness[order]
    starts = np.flatnonzero(np.r_[True, pairs[1:, 1] != pairs[:-1, 1]])
    rank = np.arange(len(pairs)) - np.repeat(starts, np.diff(np.r_[starts, len(pairs)]))
    return pairs[rank < CANDIDATES], likeness[rank < CANDIDATES]


def number_groups(names: Sequence[str | None]) -> _Ints:
    """Return a number a name, the same for the same name; each None has one of its own."""
    numbers: dict[object, int] = {}
    return np.array(
        [
            numbers.setdefault(("", k) if name is None else name, len(numbers))
            for k, name in enumerate(names)
        ],
        np.int64,
    )
