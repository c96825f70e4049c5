"""How often `univg run` sees shots whose masks are mixed up or turned, and copies of shots.

    python benchmarks/shot_checks.py --data FOLDER [--draws 100]

FOLDER holds the sets of `splits.py`; the pool halves alone are opened. For each set, draws of five
shots: as they are (none may be refused), two masks exchanged, all masks moved on by one, one mask
mirrored; and each image saved again in five ways, beside the others (none may be taken for a copy).
Prints Markdown and writes benchmarks/results/shot_checks.md.
"""

from __future__ import annotations

import argparse
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from splits import SPLITS, Split

from univg.images import ImageArray, read_image
from univg.likeness import FARTHEST, find_copies, sign_picture
from univg.pairing import LEAST_FIT, LEAST_GAIN, Trace, judge_pairing, trace_shot
from univg.pairs import find_pairs, read_pair

OUT = Path(__file__).parent / "results" / "shot_checks.md"
SHOTS = 5


def main() -> None:
    """Measure all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--draws", type=int, default=100, help="draws of five shots of each set")
    asked = parser.parse_args()
    orders = "".join(f" {name} |" for name in ORDERS)
    copies = "".join(f" {name} |" for name in COPIES)
    lines = [
        "# What `univg run` sees in shots that cannot be right",
        "",
        f"`python benchmarks/shot_checks.py --data FOLDER --draws {asked.draws}`, "
        f"{platform.machine()}, {date.today().isoformat()}. Pool halves alone.",
        "",
        f"Draws of {SHOTS} shots refused, in percent ({asked.draws} draws a set; a gain of Dice "
        f"of {LEAST_GAIN:g}, to {LEAST_FIT:g} or more):",
        "",
        f"| set | images |{orders}",
        "|---|---|" + "---|" * len(ORDERS),
    ]
    chosen = {split.name: list_pool(asked.data, split) for split in SPLITS.values()}
    for name, pairs in chosen.items():
        traces = [trace_shot(read_pair(pair)[1]) for pair in pairs]
        lines.append(f"| {name} | {len(pairs)} |{count_refused(traces, asked.draws)}")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Images taken for a copy of another, in percent (a distance below {FARTHEST:g}):",
        "",
        f"| set | the other images |{copies}",
        "|---|---|" + "---|" * len(COPIES),
    ]
    for name, pairs in chosen.items():
        lines.append(f"| {name} |{count_copies([read_image(pair.image) for pair in pairs])}")
        print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def list_pool(data: Path, split: Split) -> list:
    """Return the pairs of the pool."""
    return [pair for pair in find_pairs(data / split.name)[0].pairs if split.in_pool(pair.stem)]


def _exchange(shots: Sequence[Trace]) -> list[Trace]:
    first, second, *rest = shots
    return [_with(first, second), _with(second, first), *rest]


def _move_on(shots: Sequence[Trace]) -> list[Trace]:
    return [_with(shot, shots[k - 1]) for k, shot in enumerate(shots)]


def _mirror(shots: Sequence[Trace]) -> list[Trace]:
    return [replace(shots[0], mask=np.fliplr(shots[0].mask)), *shots[1:]]


def _with(shot: Trace, other: Trace) -> Trace:
    return replace(shot, mask=other.mask)


ORDERS: dict[str, Callable[[Sequence[Trace]], Sequence[Trace]]] = {
    "as they are": list,
    "two masks exchanged": _exchange,
    "all moved on by one": _move_on,
    "one mirrored": _mirror,
}


def count_refused(traces: Sequence[Trace], draws: int) -> str:
    """Return the share of draws that are refused, for each order."""
    rng = random.Random(0)
    drawn = [rng.sample(list(traces), SHOTS) for _ in range(draws)]
    shares = [np.mean([bool(judge_pairing(order(shots))) for shots in drawn])
              for order in ORDERS.values()]  # fmt: skip
    return "".join(f" {share:.0%} |" for share in shares)


def _as_jpeg(quality: int) -> Callable[[ImageArray], ImageArray]:
    def save(image: ImageArray) -> ImageArray:
        stream = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.imdecode(stream, cv2.IMREAD_UNCHANGED)

    return save


def _halve(image: ImageArray) -> ImageArray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _lighten(image: ImageArray) -> ImageArray:
    return np.clip(image * 0.8 + 25, 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[ImageArray], ImageArray]] = {
    "JPEG 90": _as_jpeg(90),
    "JPEG 50": _as_jpeg(50),
    "half the size": _halve,
    "lightened": _lighten,
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def count_copies(images: Sequence[ImageArray]) -> str:
    """Return the share of images that are taken for a copy of another: none, and of itself."""
    own = [sign_picture(Path(str(k)), image) for k, image in enumerate(images)]
    others = [len(find_copies([each], own[:k] + own[k + 1 :])) for k, each in enumerate(own)]
    shares = [float(np.mean(others))]
    for save in COPIES.values():
        again = [sign_picture(Path(str(k)), save(image)) for k, image in enumerate(images)]
        found = find_copies(again, own)
        shares.append(sum(path == other for path, other in found.items()) / len(images))
    return "".join(f" {share:.0%} |" for share in shares)


if __name__ == "__main__":
    main()
