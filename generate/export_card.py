"""The dataset card: README.md with the YAML head that the Hugging Face hub reads.

In: the set as a whole. Out: what is in it, how it was made, whose licences it stands under, what it
is for and where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from univg.files import write_atomic

if TYPE_CHECKING:
    from .export_layout import Summary

_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"), (10**8, "10M<n<100M"),
)  # fmt: skip
_CREATIVE = re.compile(r"CC[ -]?(BY(?:-NC)?(?:-SA|-ND)?|0)[ -](\d\.\d)", re.IGNORECASE)
_TEXTS = ("id", "modality", "engine", "source", "origin", "provenance")


def write_card(
    place: Path, summary: Summary, licence: str, parquet_bytes: Mapping[str, int] | None = None
) -> None:
    """Write README.md into `place`; without `parquet_bytes` (by split) it is of an ImageFolder."""
    head = _head(summary, licence, parquet_bytes)
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    body = "\n".join(_body(summary, licence))
    write_atomic(place / "README.md", f"---\n{text}---\n{body}\n".encode())


def find_licence(licence: str, summary: Summary) -> dict[str, str]:
    """Return the card's licence: as asked for, else the one under which all pairs stand, if any.

    The manifest of `univg data prepare` has it from the data card, in that card's words; the hub
    knows those of Creative Commons by a short name, and calls the rest `other`.
    """
    if licence:
        return {"license": licence}
    stated = summary.licences
    if len(stated) != 1 or sum(stated.values()) != summary.totals.pairs:
        return {"license": "unknown"}
    words = next(iter(stated))
    found = _CREATIVE.fullmatch(words.strip())
    if found is None:
        return {"license": "other", "license_name": words}
    kind, version = found[1].lower(), found[2]
    return {"license": f"cc0-{version}" if kind == "0" else f"cc-{kind}-{version}"}


def _head(
    summary: Summary, licence: str, parquet_bytes: Mapping[str, int] | None
) -> dict[str, Any]:
    pairs = summary.totals.pairs
    files = "{}/**" if parquet_bytes is None else "data/{}-*.parquet"
    configs = [{"split": name, "path": files.format(name)} for name in summary.splits]
    head: dict[str, Any] = {
        **find_licence(licence, summary),
        "task_categories": ["image-segmentation"],
        "size_categories": [next((name for most, name in _SIZES if pairs < most), "n>1T")],
        "tags": ["medical", "vessel-segmentation", *(["synthetic"] if _made(summary) else []),
                 *(name for name in summary.modalities if name)],
        "pretty_name": "Vessel images and masks",
        "configs": [{"config_name": "default", "data_files": configs}],
    }  # fmt: skip
    if parquet_bytes is None:
        head["configs"][0]["drop_labels"] = True
        return head
    roles = ("image", "mask", "fov") if summary.totals.fovs else ("image", "mask")
    features = [{"name": role, "dtype": "image"} for role in roles]
    features += [{"name": name, "dtype": "string"} for name in _TEXTS]
    splits = [
        {"name": name, "num_bytes": parquet_bytes[name], "num_examples": count}
        for name, count in summary.splits.items()
    ]
    size = sum(parquet_bytes.values())
    head["dataset_info"] = {
        "features": features, "splits": splits, "download_size": size, "dataset_size": size,
    }  # fmt: skip
    return head


def _body(summary: Summary, licence: str) -> list[str]:
    totals = summary.totals
    colours = "RGB" if totals.channels == 3 else "grey"
    lines = [
        "# Vessel images and masks",
        "",
        f"{totals.pairs} pairs of an image ({colours}, up to {totals.bits} bits) and a mask of its "
        f"vessels (0 background, 255 vessel), exported by UniVG {summary.version}.",
        "",
        "| split | pairs | what |",
        "|---|---|---|",
        *(f"| {name} | {n} | {_split_word(name)} |" for name, n in summary.splits.items()),
        "",
        *_table("modality", summary.modalities),
        *_table("made by", summary.engines),
        "## How it was made",
        "",
    ]
    if _made(summary):
        lines += [
            "Masks are vessel trees by space colonization or by an adapted diffusion model; each "
            "image is made for its mask by the engine named in the column `engine`. `provenance` "
            "holds seed, parameters and versions of every pair, which is enough to make it again.",
            "",
        ]
    else:
        lines += ["The manifests of the pairs do not say how they were made.", ""]
    return [
        *lines,
        "## Licences",
        "",
        f"Of this set: {_name_licence(licence, summary)}.",
        *(f"Of sources: {name} ({n} pairs)." for name, n in summary.licences.items()),
        "Synthetic images derive from the images their engine was trained on and adapted to: the "
        "terms of those apply, also to who may see them.",
        "",
        "## Use and limits",
        "",
        "For training and testing vessel segmentation, beside real annotated images. Not for "
        "diagnosis. Synthetic images follow their masks only as well as the engine does, show "
        "few lesions and artefacts, and say nothing of a population: judge a segmenter on real "
        "images of other patients. Images of one mask share its `source`; splits keep them "
        "together.",
        "",
        "## Open it",
        "",
        "```python",
        "import datasets",
        "",
        f'pairs = datasets.load_dataset("PATH OR REPOSITORY", split="{_first(summary)}")',
        'image, mask = pairs[0]["image"], pairs[0]["mask"]',
        "```",
    ]


def _name_licence(licence: str, summary: Summary) -> str:
    found = find_licence(licence, summary)
    told = found.get("license_name", found["license"])
    return "not stated; state it before you publish" if told == "unknown" else told


def _table(title: str, counts: Mapping[str, int]) -> list[str]:
    rows = [f"| {name or 'not stated'} | {count} |" for name, count in counts.items()]
    return [f"| {title} | pairs |", "|---|---|", *rows, ""]


def _split_word(name: str) -> str:
    words = {
        "train": "for training",
        "validation": "held out, of masks that are not in train",
        "real": "real annotated images",
    }
    return words.get(name, name)


def _first(summary: Summary) -> str:
    return next(iter(summary.splits))


def _made(summary: Summary) -> bool:
    """Whether any pair names the engine that made it."""
    return any(summary.engines)
