"""nnU-Net v2's raw layout: DatasetXXX_Name with imagesTr/, labelsTr/, dataset.json and splits.

In: items. Out: a folder to put into (or to make as) `nnUNet_raw`. Validation holds real images
only: nnU-Net's own random split would measure how well synthetic images are segmented. The file
splits_final.json lies in the raw folder, from where nnU-Net takes it when it plans.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from univg.files import sha256_hex
from univg.images import encode_image, read_image

from .export_index import Item, Totals
from .export_layout import (
    FileExporter,
    Summary,
    Whole,
    read_source,
    write_form,
    write_json_list,
    write_stream,
)
from .export_pictures import label_bytes

FOLDS = 5
"""nnU-Net trains folds 0 to 4, and splits at random those that it is not told of."""


@dataclass(frozen=True, kw_only=True)
class Nnunet(FileExporter):
    """imagesTr/KEY_0000.png, labelsTr/KEY.png of 0 and 1."""

    dataset_id: int = 501
    dataset_name: str = "Vessels"
    channels: int = 1
    apart: bool = False
    """Each channel in a file of its own: nnU-Net's reader would halve colours of 16 bits."""

    formats: ClassVar[tuple[str, ...]] = ("png",)
    keeps_fov: ClassVar[bool] = False
    real_validates: ClassVar[bool] = True

    def place(self, out: Path) -> Path:
        """Return the data set's folder in `out`, which stands for nnUNet_raw."""
        return out / f"Dataset{self.dataset_id:03d}_{self.dataset_name}"

    def fit(self, totals: Totals) -> Nnunet:
        """Give all images the same channels, as nnU-Net asks: grey ones become RGB among RGB."""
        apart = totals.deep_colour > 0
        return dataclasses.replace(self, channels=totals.channels, apart=apart)

    def identity(self) -> dict[str, Any]:
        """Return what decides bytes."""
        return {**super().identity(), "channels": self.channels, "apart": self.apart}

    def paths(self, item: Item) -> dict[str, str]:
        """Return labelsTr/KEY.png and imagesTr/KEY_0000.png, …."""
        count = self.channels if self.apart else 1
        images = {f"image{k}": f"imagesTr/{item.key}_{k:04d}.png" for k in range(count)}
        return {"mask": f"labelsTr/{item.key}.png", **images}

    def contents(self, item: Item) -> Iterator[tuple[str, bytes, str]]:
        """Yield the label and the image, or its channels."""
        labels = label_bytes(item.files["mask"], read_source(item, "mask"))
        yield "mask", labels, sha256_hex(labels)
        if item.checked.channels == self.channels and not self.apart:
            yield ("image0", *write_form(item, "image", self.encoding))
            return
        image = read_image(item.files["image"])
        colour = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
        apart = [np.ascontiguousarray(colour[:, :, k]) for k in range(3)]
        stored: list[Any] = apart if self.apart else [colour]
        for k, pixels in enumerate(stored):
            data = encode_image(pixels)
            yield f"image{k}", data, sha256_hex(data)

    def finish(self, whole: Whole) -> None:
        """Write splits_final.json, then dataset.json, without which nnU-Net sees no data set."""
        summary = whole.summary
        _write_splits(whole)
        names = ("R", "G", "B") if self.channels == 3 else ("grey",)
        head = {
            "name": self.dataset_name,
            "description": f"vessels; {summary.totals.pairs} pairs by UniVG {summary.version}",
            "licence": self.licence or ", ".join(summary.licences) or "not stated",
            "channel_names": {str(k): name for k, name in enumerate(names)},
            "labels": {"background": 0, "vessel": 1},
            "numTraining": summary.totals.pairs,
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        }
        with write_stream(whole.place / "dataset.json") as stream:
            stream.write(json.dumps(head, ensure_ascii=False, indent=1).encode() + b"\n")

    def advice(self, whole: Whole) -> str:
        """Say what to run, and what validates."""
        line = (
            f"nnUNet_raw={whole.place.parent} nnUNetv2_plan_and_preprocess -d {self.dataset_id} "
            "--verify_dataset_integrity"
        )
        if not _held_out(whole.summary):
            return (
                f"{line}\nNo --real and no --validation: nnU-Net will validate on synthetic "
                "images drawn at random, which tells little of real ones."
            )
        kind = "real" if _held_out(whole.summary) == "real" else "held-out synthetic"
        return f"{line}\nsplits_final.json: validation on {kind} images only."


def _write_splits(whole: Whole) -> None:
    """Write five folds: each validates some of the real cases and trains on all else.

    With fewer than five real ones they take turns, so that no fold is left to chance. Without real
    ones the held-out synthetic cases validate in the only fold.
    """
    kind = _held_out(whole.summary)
    if not kind:
        return
    held = [record["id"] for record in whole.records({kind})]
    folds = FOLDS if kind == "real" else 1
    turns = min(folds, len(held))
    with write_stream(whole.place / "splits_final.json") as stream:
        stream.write(b"[")
        for fold in range(folds):
            chosen = {name for k, name in enumerate(held) if k % turns == fold % turns}
            rest = [] if kind == "validation" else [name for name in held if name not in chosen]
            others = (record["id"] for record in whole.records({"train", "validation"} - {kind}))
            stream.write(b',\n{"train": ' if fold else b'\n{"train": ')
            write_json_list(stream, itertools.chain(others, rest))
            stream.write(b', "val": ')
            write_json_list(stream, [name for name in held if name in chosen])
            stream.write(b"}")
        stream.write(b"\n]\n")


def _held_out(summary: Summary) -> str:
    """Return the split that validates: real where there is one."""
    return next((name for name in ("real", "validation") if summary.splits.get(name)), "")
