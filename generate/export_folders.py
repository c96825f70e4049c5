"""Layouts of single files: our own folder, the paper's, MONAI's, Hugging Face's ImageFolder.

In: items. Out: images and masks as files, and the index that the reader of that layout opens,
written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from univg.errors import DataError
from univg.files import sha256_hex, write_atomic
from univg.manifest import MANIFEST_NAME, encode_row
from univg.modalities import find_modality, modality_names

from .export_card import write_card
from .export_index import Item, Totals
from .export_layout import (
    FileExporter,
    Whole,
    read_source,
    roles_of,
    write_json_list,
    write_stream,
)
from .export_pictures import label_bytes

FOLDERS = {"image": "images", "mask": "masks", "fov": "fov"}


class Folder(FileExporter):
    """images/, masks/, fov/ and manifest.jsonl: what all of univg reads."""

    def paths(self, item: Item) -> dict[str, str]:
        """Return images/KEY.png and so on."""
        return _paths(item, "", self.encoding.suffix, self.keeps_fov)

    def finish(self, whole: Whole) -> None:
        """Write the manifest."""
        with write_stream(whole.place / MANIFEST_NAME) as stream:
            for record in whole.records(whole.summary.splits):
                stream.write(encode_row(record))

    def begin(self, place: Path) -> None:
        """Write an empty manifest: readers then do not take a part for the whole."""
        if not (place / MANIFEST_NAME).exists():
            write_atomic(place / MANIFEST_NAME, b"")

    def advice(self, whole: Whole) -> str:
        """Name the reader."""
        return f'univg.pairs.open_pairs(Path("{whole.place}"))'


class Paper(FileExporter):
    """images/ + masks/ and, of the same files, source/ + target/ with ControlNet's prompt.json.

    Real pairs stand in real/ in the same way: the paper fills half of each batch from either.
    """

    keeps_fov: ClassVar[bool] = False

    def paths(self, item: Item) -> dict[str, str]:
        """Return images/KEY.png and masks/KEY.png."""
        return _paths(item, _lead(item), self.encoding.suffix, with_fov=False)

    def links(self, item: Item) -> dict[str, str]:
        """Return source/ for masks/ and target/ for images/."""
        paths, lead = self.paths(item), _lead(item)
        return {
            f"{lead}source/{Path(paths['mask']).name}": paths["mask"],
            f"{lead}target/{Path(paths['image']).name}": paths["image"],
        }

    def finish(self, whole: Whole) -> None:
        """Write a prompt.json beside each source/ and target/, a line a pair."""
        for lead in sorted({"real/" if name == "real" else "" for name in whole.summary.splits}):
            part = {"real"} if lead else {"train", "validation"}
            with write_stream(whole.place / lead / "prompt.json") as stream:
                for record in whole.records(part):
                    line = {
                        "source": f"source/{Path(record['mask']).name}",
                        "target": f"target/{Path(record['image']).name}",
                        "prompt": _prompt(str(record.get("modality", ""))),
                    }
                    stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class Monai(FileExporter):
    """images/, labels/ of 0 and 1, and dataset.json as MONAI's load_decathlon_datalist reads it.

    Real pairs are its `validation`.
    """

    formats: ClassVar[tuple[str, ...]] = ("png", "jpeg")  # MONAI's PIL reader knows no other
    real_split: ClassVar[str] = "validation"
    real_validates: ClassVar[bool] = True

    def paths(self, item: Item) -> dict[str, str]:
        """Return labels/KEY.png and images/KEY.png."""
        paths = _paths(item, "", self.encoding.suffix, self.keeps_fov)
        return {"mask": f"labels/{item.key}.png", **{k: v for k, v in paths.items() if k != "mask"}}

    def contents(self, item: Item) -> Iterator[tuple[str, bytes, str]]:
        """Yield the files; a mask holds class numbers, not grey levels."""
        for role, data, digest in super().contents(item):
            if role == "mask":
                labels = label_bytes(item.files[role], read_source(item, role))
                yield role, labels, sha256_hex(labels)
            else:
                yield role, data, digest

    def finish(self, whole: Whole) -> None:
        """Write dataset.json."""
        summary = whole.summary
        channels = "RGB" if summary.totals.channels == 3 else "grey"
        head = {
            "name": "Vessels",
            "description": f"vessels; {summary.totals.pairs} pairs by UniVG {summary.version}",
            "licence": self.licence or ", ".join(summary.licences) or "not stated",
            "tensorImageSize": "2D",
            "modality": {"0": channels},
            "labels": {"0": "background", "1": "vessel"},
            "numTraining": summary.splits.get("train", 0),
            "numTest": 0,
        }
        with write_stream(whole.place / "dataset.json") as stream:
            stream.write(json.dumps(head, ensure_ascii=False, indent=1)[:-2].encode())
            for name, split in (("training", "train"), ("validation", "validation")):
                stream.write(f',\n "{name}": '.encode())
                write_json_list(stream, map(_decathlon, whole.records({split})))
            stream.write(b',\n "test": []\n}\n')

    def advice(self, whole: Whole) -> str:
        """Name the reader."""
        return f'monai.data.load_decathlon_datalist("{whole.place / "dataset.json"}")'


class ImageFolder(FileExporter):
    """A folder a split, with metadata.jsonl: Hugging Face's ImageFolder."""

    def fit(self, totals: Totals) -> ImageFolder:
        """Refuse a column with holes."""
        if 0 < totals.fovs < totals.pairs:
            raise DataError(
                f"{totals.fovs} of {totals.pairs} pairs have a field of view, and ImageFolder "
                "cannot leave a file out; use --to hf, or remove fov/"
            )
        return self

    def paths(self, item: Item) -> dict[str, str]:
        """Return SPLIT/images/KEY.png and so on."""
        return _paths(item, f"{item.split}/", self.encoding.suffix, self.keeps_fov)

    def finish(self, whole: Whole) -> None:
        """Write the metadata of each split, then the card."""
        for split in whole.summary.splits:
            with write_stream(whole.place / split / "metadata.jsonl") as stream:
                for record in whole.records({split}):
                    stream.write(encode_row(_metadata(record, split)))
        write_card(whole.place, whole.summary, self.licence)

    def advice(self, whole: Whole) -> str:
        """Name the reader."""
        first = next(iter(whole.summary.splits))
        return f'datasets.load_dataset("{whole.place}", split="{first}")'


def _paths(item: Item, lead: str, suffix: str, with_fov: bool) -> dict[str, str]:
    return {
        role: f"{lead}{FOLDERS[role]}/{item.key}{suffix if role == 'image' else '.png'}"
        for role in roles_of(item, with_fov)
    }


def _lead(item: Item) -> str:
    return "real/" if item.real else ""


def _prompt(modality: str) -> str:
    """Return the text that the image engine goes with."""
    if modality in modality_names():
        return find_modality(modality).image_prompt
    return f"{modality} image".strip()


def _decathlon(record: dict[str, Any]) -> dict[str, Any]:
    entry = {"image": record["image"], "label": record["mask"]}
    return {**entry, "fov": record["fov"]} if "fov" in record else entry


def _metadata(record: dict[str, Any], split: str) -> dict[str, Any]:
    """Return a row with the same columns everywhere: readers make one table of all."""
    row = {
        f"{role}_file_name": str(record[role]).removeprefix(f"{split}/")
        for role in FOLDERS
        if role in record
    }
    return {**row, **flatten_record(record)}


def flatten_record(record: dict[str, Any]) -> dict[str, str]:
    """Return what is told of a pair as columns of text; all of it as JSON in the last."""
    told = {k: v for k, v in record.items() if k not in {*FOLDERS, "sha256", "split"}}
    source = record.get("source", "")
    return {
        "id": str(record["id"]),
        "modality": str(record.get("modality", "")),
        "engine": str(record.get("engine", "")),
        "source": source if isinstance(source, str) else "",
        "origin": str(record["origin"]),
        "provenance": json.dumps(told, sort_keys=True, ensure_ascii=False),
    }
