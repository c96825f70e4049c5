"""`univg generate one`: make one item of a run again, alone, and compare.

In: a run folder, the name of an item. Out: whether it comes out the same: byte for byte of engines
that draw on the CPU, within a tolerance of those that draw on a GPU; with --out also the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from annotated_types import Ge, Le

from univg.config import from_plain, read_yaml, settings
from univg.errors import ConfigError, DataError
from univg.files import make_folder, write_all_atomic
from univg.manifest import RUN_NAME, Row, iterate_rows
from univg.run_folder import require_joined

TOLERANCE = 8
"""Grey levels by which an image of another GPU, batch or library may differ at most."""
MOVABLE = ("masks", "shots", "unlabelled", "found", "engine_dir")
"""Folders of a run that may lie elsewhere now."""


@settings
class One:
    """Make one item of a run again, alone, and compare it with what is there."""

    manifest: Annotated[Path, tyro.conf.arg(name="manifest")]
    """Run folder of `univg generate images`, `univg generate masks` or `univg sca synth`, or its
    manifest.jsonl."""
    id: str
    """Name of the item."""
    masks: Path | None = None
    """Where the masks of the run lie now, if they were moved."""
    shots: Path | None = None
    """Where its shots lie now."""
    unlabelled: Path | None = None
    """Where its unlabelled images lie now."""
    found: Path | None = None
    """Where what was found in them lies now."""
    engine_dir: Path | None = None
    """Where its engine lies now."""
    out: Path | None = None
    """Folder to write it to as well."""
    tolerance: Annotated[int, Ge(0), Le(255)] = TOLERANCE
    """Grey levels by which a diffusion image may differ; masks never."""


@dataclass(frozen=True)
class Compared:
    """How the files of an item, made again, differ from those on disk."""

    id: str
    equal: bool
    largest: int
    """Largest difference of a pixel."""
    mean: float
    masks_equal: bool

    def line(self) -> str:
        """Return one line for the terminal."""
        if self.equal:
            return f"{self.id}: made again, equal byte for byte"
        masks = "masks equal" if self.masks_equal else "masks differ"
        return (
            f"{self.id}: made again, pixels differ by {self.mean:.3f} levels on average, "
            f"{self.largest} at most; {masks}"
        )


def plan(settings: One) -> str:
    """Say what would be made."""
    folder, row = find_row(settings.manifest, settings.id)
    return f"Would make item {row['index']} of {folder} again and compare it."


def run(settings: One) -> Compared:
    """Make the item again; refuse it where it differs by more than it may."""
    folder, row = find_row(settings.manifest, settings.id)
    files = make_again(folder, row, _find_moved(settings))
    if settings.out is not None:
        names = {settings.out / row[role]: data for role, data in files.items()}
        for path in names:
            make_folder(path.parent)
        write_all_atomic(names)
    compared = compare_files(folder, row, files)
    print(compared.line())  # noqa: T201
    is_drawn = row.get("engine") == "diffusion"
    allowed = is_drawn and compared.masks_equal and compared.largest <= settings.tolerance
    if not compared.equal and not allowed:
        raise DataError(
            f"{folder}: {settings.id} does not come out the same; was it made by other versions "
            f"({row.get('version')}), or changed since?"
        )
    return compared


def find_row(path: Path, name: str) -> tuple[Path, Row]:
    """Return the run folder and the row of the item called `name`."""
    folder = path.parent if path.name.endswith(".jsonl") else path
    if not folder.is_dir():
        raise DataError(f"{path}: does not exist; give a run folder or its manifest.jsonl")
    require_joined(folder)
    for row in iterate_rows(folder):
        if row.get("id") == name or str(row.get("index")) == name:
            return folder, row
    raise DataError(f"{folder}: its manifest names no item {name!r}")


def _find_moved(settings: One) -> dict[str, str]:
    """Return the settings of the run that are others now."""
    given = {name: getattr(settings, name) for name in MOVABLE}
    return {name: str(path) for name, path in given.items() if path is not None}


def make_again(folder: Path, row: Row, moved: Mapping[str, str] = {}) -> dict[str, bytes]:
    """Return the files of the item, by role, made from the run's own settings.

    `moved` says where folders lie that the run had elsewhere.
    """
    try:
        stage = json.loads((folder / RUN_NAME).read_bytes())["stage"]
        plain = read_yaml(folder / "config.yaml")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: is no run folder of univg ({error})") from error
    again = {
        "generate images": _again_image,
        "generate masks": _again_mask,
        "sca synth": _again_grown,
    }
    if stage not in again:
        raise DataError(f"{folder}: items of `{stage}` cannot be made one by one")
    plain = {**plain, "out": str(folder), **course_of(row)}
    for name, place in moved.items():
        known = "real" if stage == "sca synth" and name == "shots" else name
        if plain.get(known) is None:
            raise ConfigError(f"{name} is {place}: the run of {folder} used none")
        plain[known] = place
    for name in MOVABLE:
        path = plain.get(name)
        if isinstance(path, str) and not Path(path).exists():
            option = f"--{name.replace('_', '-')}"
            raise DataError(
                f"{path}: is gone, and {folder} was made with it; where is it? {option}"
            )
    files: dict[str, bytes] = again[stage](plain, row)
    return files


def course_of(row: Row) -> dict[str, Any]:
    """Return how the row's picture was computed, which is no setting of its run."""
    course: dict[str, Any] = dict((row.get("parameters") or {}).get("course", {}))
    if course.get("attention") == "xformers" and find_spec("xformers") is None:
        del course["attention"]  # another machine, which rounds in its own way
    return course


def _again_image(plain: dict[str, Any], row: Row) -> dict[str, bytes]:
    from .images import Images, prepare_maker

    maker = prepare_maker(from_plain(Images, plain))
    _check_run(maker.identity(), Path(plain["out"]))
    maker.prepare()
    return dict(maker.make([row["index"]])[0].files)


def _again_mask(plain: dict[str, Any], row: Row) -> dict[str, bytes]:
    from .masks import Masks, prepare_maker

    maker = prepare_maker(from_plain(Masks, plain))
    _check_run(maker.identity(), Path(plain["out"]))
    maker.prepare()
    return dict(maker.make([row["index"]])[0].files)


def _again_grown(plain: dict[str, Any], row: Row) -> dict[str, bytes]:
    from univg.masks import encode_mask
    from univg.sca.synth import Synth, prepare_jobs
    from univg.sca.writing import synthesize

    jobs = {job.name: job for job in prepare_jobs(from_plain(Synth, plain))}
    made = synthesize(jobs[row["modality"]], row["index"])
    return {"mask": encode_mask(made.pixels > 0)}


def _check_run(identity: dict[str, Any], folder: Path) -> None:
    """Refuse where masks, engine or version are no longer those of the run."""
    from univg.manifest import claim_folder

    claim_folder(folder, identity)


def compare_files(folder: Path, row: Row, files: dict[str, bytes]) -> Compared:
    """Return how `files` differ from those on disk."""
    largest, means, equal, masks_equal = 0, [0.0], True, True
    for role, data in files.items():
        path = folder / row[role]
        if not path.is_file():
            raise DataError(f"{path}: is missing; run the command of the run again")
        stored = path.read_bytes()
        if stored == data:
            continue
        equal = False
        first, second = _decode(stored), _decode(data)
        if role == "mask":
            masks_equal = first.shape == second.shape and bool((first == second).all())
        elif first.shape != second.shape:
            largest = 255
        else:
            differ = np.abs(first.astype(np.int16) - second)
            largest = max(largest, int(differ.max()))
            means.append(float(differ.mean()))
    return Compared(row["id"], equal, largest, max(means), masks_equal)


def _decode(data: bytes) -> Any:
    import cv2

    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.zeros((0, 0), np.uint8) if found is None else found
