"""How far a segmenter agrees with the labels of pairs, by where it differs: why pairs help or hurt.

    python benchmarks/pair_agreement.py --model RUN --pairs NAME=FOLDER ... [--most 40] [--out CSV]

RUN: what `univg segment fit` wrote, on the shots alone; each FOLDER holds `images` and `masks`. Of
each folder, inside the field of view less its rim: DSC; and, in percent of the labelled pixels,
what is found beside the labels (`far`: more than 2.5 px off, something else was taken for vessel;
`near`: the border) and what is missed (likewise). Real images differ in all four. Synthetic ones
on which the segmenter finds little that is far teach it nothing about what is not a vessel.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from univg.files import make_folder, write_atomic
from univg.images import read_image
from univg.masks import BoolMask, find_fov, read_mask
from univg.pairs import open_pairs
from univg.segment.predict import Predict, run

RIM = 0.035
"""Share of the longer side that is left out at the border of the field of view."""
NEAR_PX = 2.5
LEAST_PX = 50
"""Images with fewer labelled pixels are not counted."""
COLUMNS = ("pairs", "images", "dsc", "found_far", "found_near", "missed_far", "missed_near")


def main(words: Sequence[str] | None = None) -> None:
    """Measure each folder; print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="run of a segmenter")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--most", type=int, default=40, help="images of each folder, at most")
    parser.add_argument("--out", type=Path, help="CSV to write")
    asked = parser.parse_args(words)
    rows = []
    for given in asked.pairs:
        name, equals, folder = given.partition("=")
        if not equals:
            parser.error(f"--pairs {given}: write NAME=FOLDER")
        rows.append({"pairs": name, **measure(asked.model, Path(folder), asked.most)})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if asked.out:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        make_folder(asked.out.parent)
        write_atomic(asked.out, stream.getvalue().encode())


def measure(model: Path, folder: Path, most: int) -> dict[str, float]:
    """Return the figures of a folder of pairs, means over its images."""
    with tempfile.TemporaryDirectory() as place:
        given = make_folder(Path(place) / "images")
        pairs = open_pairs(folder).pairs[:most]
        for pair in pairs:
            write_atomic(given / pair.image.name, pair.image.read_bytes())
        run(Predict(model=model, images=given, out=Path(place) / "found"))
        masks = Path(place) / "found" / "masks"
        found = [
            compare(read_mask(pair.mask), read_mask(masks / f"{pair.image.stem}.png"),
                    inner_field(read_image(pair.image)))
            for pair in pairs
        ]  # fmt: skip
    counted = [one for one in found if one is not None]
    if not counted:
        raise SystemExit(f"pair_agreement.py: no image of {folder} has {LEAST_PX} labelled pixels")
    means = np.mean(counted, axis=0)
    figures = {
        name: round(100 * float(mean), 1) for name, mean in zip(COLUMNS[2:], means, strict=True)
    }
    return {"images": len(counted), **figures}


def inner_field(image: np.ndarray) -> BoolMask:
    """Return the field of view of `image` less a rim; the border of the image is a rim too."""
    width = round(RIM * max(image.shape[:2]))
    field = cv2.copyMakeBorder(find_fov(image).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    kernel = np.ones((2 * width + 1,) * 2, np.uint8)
    return np.asarray(cv2.erode(field, kernel)[1:-1, 1:-1] > 0)


def compare(label: BoolMask, found: BoolMask, field: BoolMask) -> tuple[float, ...] | None:
    """Return DSC and the four shares of `label`; None where there is next to no label."""
    label, found = label & field, found & field
    labelled = int(label.sum())
    if labelled < LEAST_PX:
        return None
    beside, missed = found & ~label, label & ~found
    from_label = distance_transform_edt(~label)[beside]
    from_found = distance_transform_edt(~found)[missed] if found.any() else np.full(labelled, 1e9)
    far, missed_far = int((from_label > NEAR_PX).sum()), int((from_found > NEAR_PX).sum())
    dsc = 2 * int((label & found).sum()) / (labelled + int(found.sum()))
    counts = far, from_label.size - far, missed_far, from_found.size - missed_far
    return dsc, *(count / labelled for count in counts)


if __name__ == "__main__":
    main()
