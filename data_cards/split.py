"""`univg data split`: which pairs are shots, which are tests, fixed once and for all runs.

In: a folder of pairs. Out: a JSON file with the pool, the test list and N draws of shots from the
pool, all by name. The seed decides everything, so the same command gives the same bytes, and draw
3 is the same whether 4 or 40 are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from annotated_types import Ge, Gt, Lt

from univg.config import settings
from univg.errors import ConfigError, DataError, ResumeError
from univg.files import make_folder, write_atomic
from univg.pairs import DEFAULT_SUFFIXES, open_pairs
from univg.seeds import rng_for

FILE_NAME = "split.json"
_DEFAULT_SHARE = 0.5


@settings
class Split:
    """Draw shots and a test list from a folder of pairs."""

    folder: tyro.conf.Positional[Path]
    """Folder with images/ and masks/ of the same names."""
    shots: Annotated[int, Ge(1)] = 5
    """Pairs in a draw."""
    draws: Annotated[int, Ge(1)] = 1
    """How many draws; each is independent of the others and of their number."""
    seed: int = 0
    """Decides the test list and the draws."""
    test_list: Path | None = None
    """Text file with the names of the test images, one a line; instead of --test-share."""
    test_share: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the images that become tests. Default: 0.5."""
    group_by: str = ""
    """Regular expression whose one group finds the patient in a name, such as "Image_(\\d+)"."""
    strip: tuple[str, ...] = DEFAULT_SUFFIXES
    """Endings of file names to ignore when images and masks are matched."""
    out: Path | None = None
    """File to write. Default: FOLDER/split.json."""
    overwrite: bool = False
    """Replace a different split that is already there."""


@dataclass(frozen=True)
class SplitResult:
    """The content of a split file."""

    pool: list[str]
    test: list[str]
    draws: list[list[str]]


def plan(settings: Split) -> str:
    """Tell how the pairs would be split; writes nothing."""
    result = make_split(settings)
    return f"{_out_of(settings)}: {_describe(settings, result)}"


def run(settings: Split) -> SplitResult:
    """Write the split; the same one again is fine, another one is refused."""
    result = make_split(settings)
    path, data = _out_of(settings), _encode(settings, result)
    if path.exists():
        if path.is_file() and path.read_bytes() == data:
            print(f"{path}: already there, the same split")  # noqa: T201
            return result
        if not settings.overwrite or not path.is_file():
            raise ResumeError(
                f"{path}: holds another split, on which results may rest; choose another --out, "
                "or --overwrite it"
            )
    make_folder(path.parent)
    write_atomic(path, data)
    print(f"{path}: {_describe(settings, result)}")  # noqa: T201
    return result


def make_split(settings: Split) -> SplitResult:
    """Split the pairs of a folder; see `Split`."""
    if settings.test_list is not None and settings.test_share is not None:
        raise ConfigError("--test-list and --test-share exclude each other; give one of them")
    stems = sorted(pair.stem for pair in open_pairs(settings.folder, settings.strip).pairs)
    patient_of = find_patients(stems, settings.group_by)
    if settings.test_list is not None:
        test = _read_test_list(settings.test_list, stems, settings.folder)
        _refuse_shared_patients(settings.test_list, test, stems, patient_of)
    else:
        share = _DEFAULT_SHARE if settings.test_share is None else settings.test_share
        test = draw_test(patient_of, share, rng_for(settings.seed, "data split test"))
    pool = sorted(set(stems) - set(test))
    _refuse_too_few(settings, stems, pool, test)
    draws = [
        draw_shots(pool, patient_of, settings.shots, rng_for(settings.seed, "data split shots", i))
        for i in range(settings.draws)
    ]
    return SplitResult(pool, sorted(test), draws)


def find_patients(stems: Sequence[str], pattern: str) -> dict[str, str]:
    """Return the patient of each name: what the pattern's group finds, else the name itself."""
    if not pattern:
        return {stem: stem for stem in stems}
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"--group-by {pattern!r}: is not a regular expression ({error})"
        ) from error
    if compiled.groups != 1:
        raise ConfigError(
            f"--group-by {pattern!r}: has {compiled.groups} groups; put one pair of brackets "
            'around what names the patient, as in "Image_(\\d+)"'
        )
    found = {stem: compiled.search(stem) for stem in stems}
    lost = [stem for stem, match in found.items() if match is None or match[1] is None]
    if lost:
        raise DataError(
            f"--group-by {pattern!r}: finds no patient in {len(lost)} of {len(stems)} names "
            f"(for example {lost[0]})"
        )
    return {stem: match[1] for stem, match in found.items() if match is not None}


def draw_test(patient_of: Mapping[str, str], share: float, rng: np.random.Generator) -> list[str]:
    """Draw whole patients for the test list: never more than the share asks for."""
    members = _by_patient(patient_of)
    wanted = round(share * len(patient_of))
    test: list[str] = []
    for patient in _shuffled(sorted(members), rng):
        if len(test) + len(members[patient]) <= wanted:
            test += members[patient]
    return test


def draw_shots(
    pool: Sequence[str], patient_of: Mapping[str, str], shots: int, rng: np.random.Generator
) -> list[str]:
    """Draw shots from the pool, a second image of a patient only when every patient gave one."""
    members = _by_patient({stem: patient_of[stem] for stem in pool})
    order = _shuffled(sorted(members), rng)
    waiting = [_shuffled(members[patient], rng) for patient in order]
    return [stem for stem, _ in zip(_take_turns(waiting), range(shots), strict=False)]


def _take_turns(lists: Sequence[list[str]]) -> Iterator[str]:
    for turn in range(max((len(names) for names in lists), default=0)):
        yield from (names[turn] for names in lists if turn < len(names))


def _by_patient(patient_of: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for stem in sorted(patient_of):
        members.setdefault(patient_of[stem], []).append(stem)
    return members


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]


def _read_test_list(path: Path, stems: Sequence[str], folder: Path) -> list[str]:
    """Read names, with or without an ending; `#` starts a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise DataError(f"--test-list {path}: cannot be read ({reason})") from error
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    known = set(stems)
    test = [name if name in known else Path(name).stem for name in names]
    strangers = [name for name, stem in zip(names, test, strict=True) if stem not in known]
    if strangers:
        raise DataError(
            f"--test-list {path}: {len(strangers)} of its names are no pair of {folder} "
            f"(for example {strangers[0]})"
        )
    if not test:
        raise DataError(f"--test-list {path}: holds no name")
    return sorted(set(test))


def _refuse_shared_patients(
    path: Path, test: Sequence[str], stems: Sequence[str], patient_of: Mapping[str, str]
) -> None:
    tested = {patient_of[stem] for stem in test}
    shared = [stem for stem in stems if stem not in test and patient_of[stem] in tested]
    if shared:
        raise DataError(
            f"--test-list {path}: leaves {len(shared)} images of its patients in the pool "
            f"(for example {shared[0]}); add them to the list, or leave --group-by out"
        )


def _refuse_too_few(
    settings: Split, stems: Sequence[str], pool: Sequence[str], test: Sequence[str]
) -> None:
    if len(pool) < settings.shots:
        raise DataError(
            f"{settings.folder}: {len(stems)} pairs leave {len(pool)} for the pool, fewer than "
            f"the {settings.shots} shots asked for; lower --shots or the share of tests"
        )
    if not test:
        raise DataError(
            f"{settings.folder}: not one of {len(stems)} pairs became a test; raise --test-share, "
            "or check --group-by: a single patient cannot be on both sides"
        )


def _out_of(settings: Split) -> Path:
    return settings.out if settings.out is not None else settings.folder / FILE_NAME


def _encode(settings: Split, result: SplitResult) -> bytes:
    """The file: what was asked for, then the names; no paths, so that it can be handed on."""
    share = None if settings.test_list is not None else settings.test_share or _DEFAULT_SHARE
    content: dict[str, Any] = {
        "seed": settings.seed,
        "shots": settings.shots,
        "test_share": share,
        "group_by": settings.group_by,
        "pool": result.pool,
        "test": result.test,
        "draws": result.draws,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _describe(settings: Split, result: SplitResult) -> str:
    draws = f"{len(result.draws)} draw{'s' if len(result.draws) != 1 else ''}"
    sides = f"{len(result.pool)} in the pool, {len(result.test)} tests"
    return f"{sides}, {draws} of {settings.shots} shots"
