"""Which images below a root may enter the pretraining set, and which are test images.

In: a root whose sub-folders are named like data cards, each as handed out by its provider or as
`univg data prepare` writes it. Out: candidates in a fixed order, and the images that must never be
taken in. What a card does not call pretraining is not taken: a leak has to be impossible by
omission.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from univg.errors import DataError
from univg.images import is_picture_name
from univg.manifest import MANIFEST_NAME, iterate_rows
from univg.pairs import strip_stem

from .archives import walk_files
from .card import DataCard, Group, UniVG58K, index_names, load_cards, name_key
from .layouts import wants

SPLIT_NAME = "split.json"


@dataclass(frozen=True)
class Candidate:
    """An image that may be taken in: its source, its name below the source, where it lies."""

    source: str
    modality: str
    name: str
    path: Path
    stem: str


@dataclass
class SourceFolder:
    """What a card's folder below the root holds."""

    card: DataCard
    folder: Path | None = None
    candidates: list[Candidate] = field(default_factory=list)
    tests: list[Path] = field(default_factory=list)
    """Images that the card keeps for downstream tasks."""
    listed: list[str] = field(default_factory=list)
    """Names left out because a split's test list holds them."""
    unrecognized: int = 0
    """Pictures that fit no pattern of the card."""

    @property
    def numbers(self) -> UniVG58K:
        """The card's row in the paper's table."""
        return self.card.univg58k or UniVG58K()


@dataclass
class Survey:
    """Every source of UniVG-58K, there or not, and the sub-folders that are none."""

    sources: list[SourceFolder]
    strangers: list[str]

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates, source by source."""
        return [candidate for source in self.sources for candidate in source.candidates]

    @property
    def tests(self) -> list[Path]:
        """All downstream images that lie below the root."""
        return [path for source in self.sources for path in source.tests]


def survey_root(root: Path) -> Survey:
    """Look at the sub-folders of `root`; reads names only."""
    if not root.is_dir():
        reason = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}: {reason}; --root is the folder that holds one folder a data set")
    cards = [card for card in load_cards().values() if card.univg58k is not None]
    folders, strangers = _match_folders(root, cards)
    sources = [SourceFolder(card, folders.get(card.name)) for card in cards]
    for source in sources:
        if source.folder is not None:
            _look_into(source, source.folder)
    if not any(source.candidates for source in sources):
        found = [s.card.name for s in sources if s.folder is not None and s.numbers.pretraining]
        if found:
            raise DataError(
                f"{root}: of {', '.join(found)} no file has a name that the data set is known by; "
                "give the provider's files, or what `univg data prepare` wrote"
            )
        names = ", ".join(s.card.name for s in sources if s.numbers.pretraining)
        raise DataError(
            f"{root}: holds no source of the pretraining set; make sub-folders named {names} "
            "(any of them), each with the provider's files or what `univg data prepare` wrote"
        )
    return Survey(sources, strangers)


def _match_folders(root: Path, cards: list[DataCard]) -> tuple[dict[str, Path], list[str]]:
    known = index_names(load_cards().values())
    sources = {key: card.name for key, card in index_names(cards).items()}
    by_key = sources | {key: card.name for key, card in known.items()}
    wanted = {card.name for card in cards}
    folders: dict[str, Path] = {}
    strangers = []
    for path in sorted(root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        name = by_key.get(name_key(path.name))
        if name is None:
            _refuse_near_miss(path, sources)
        if name not in wanted:
            strangers.append(path.name)
        elif name in folders:
            raise DataError(f"{path}: {folders[name].name} is the same data set; keep one of them")
        else:
            folders[name] = path
    return folders, strangers


def _refuse_near_miss(path: Path, by_key: dict[str, str]) -> None:
    """A misspelt source must not be passed over: its test images would not be kept out."""
    words = [w for w in re.split(r"[^a-z0-9]+", path.name.lower()) if w in by_key]
    begins = [key for key in by_key if len(key) > 3 and name_key(path.name).startswith(key)]
    close = difflib.get_close_matches(name_key(path.name), list(by_key), n=1, cutoff=0.75)
    near = [*close, *words, *begins]
    if near:
        raise DataError(
            f"{path}: is this the data set `{by_key[near[0]]}`? Rename the folder to that, so that "
            "its test images are known, or move it out of --root"
        )


def _look_into(source: SourceFolder, folder: Path) -> None:
    if (folder / MANIFEST_NAME).exists():
        _look_into_prepared(source, folder)
    else:
        _look_into_provider(source, folder)
    _take_out_listed(source, folder)


def _look_into_prepared(source: SourceFolder, folder: Path) -> None:
    """Sort what `univg data prepare` wrote by the group that each row names."""
    groups = {group.name for group in source.card.layout if group.pretraining}
    only_pretraining = source.numbers.downstream == 0
    for row in iterate_rows(folder):
        name = str(row.get("image") or "")
        if not name:
            continue
        path = folder / name
        # An image with a mask is what tests are made of, whatever group the row names.
        if only_pretraining or (row.get("group") in groups and not row.get("mask")):
            stem = str(row.get("id", path.stem))
            source.candidates.append(_candidate(source, name, path, stem))
        else:
            source.tests.append(path)


def _look_into_provider(source: SourceFolder, folder: Path) -> None:
    """Sort the provider's files by the groups whose patterns they match."""
    for name in _pictures_below(folder):
        path = folder / name
        if source.numbers.pretraining == 0:
            # Nothing of a downstream set may enter, known to the layout or not.
            if not any(_is_beside(group, name) for group in source.card.layout):
                source.tests.append(path)
            continue
        matching = [group for group in source.card.layout if _is_image_of(group, name)]
        if not matching:
            source.unrecognized += 1
        elif all(group.pretraining for group in matching):
            stem = strip_stem(PurePosixPath(name).stem, matching[0].strip)
            source.candidates.append(_candidate(source, name, path, stem))
        else:
            source.tests.append(path)


def _is_image_of(group: Group, name: str) -> bool:
    return wants([replace(group, masks=(), fov=())], name) and not _is_beside(group, name)


def _is_beside(group: Group, name: str) -> bool:
    """Whether the file is a mask or a field of view."""
    return wants([replace(group, images=())], name)


def _candidate(source: SourceFolder, name: str, path: Path, stem: str) -> Candidate:
    return Candidate(source.card.name, source.card.modality, name, path, stem)


def _pictures_below(folder: Path) -> list[str]:
    return sorted(p.as_posix() for p in walk_files(folder) if is_picture_name(p.as_posix()))


def _take_out_listed(source: SourceFolder, folder: Path) -> None:
    """Leave out what the source's `split.json` keeps for tests."""
    path = folder / SPLIT_NAME
    if not path.exists():
        return
    kept_for_test = {stem.casefold() for stem in read_test_list(path)}
    names = {group.name for group in source.card.layout}

    def is_listed(candidate: Candidate) -> bool:
        # `prepare` puts the group before a stem that two groups share.
        called = [candidate.stem, *(f"{name}_{candidate.stem}" for name in names)]
        return any(one.casefold() in kept_for_test for one in (*called, Path(candidate.name).stem))

    source.listed = [c.name for c in source.candidates if is_listed(c)]
    source.tests += [c.path for c in source.candidates if is_listed(c)]
    source.candidates = [c for c in source.candidates if not is_listed(c)]


def read_test_list(path: Path) -> list[str]:
    """Return the stems of a split's test list."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON; make it with `univg data split`"
        ) from error
    tests = content.get("test") if isinstance(content, dict) else None
    if not isinstance(tests, list) or not all(isinstance(stem, str) for stem in tests):
        raise DataError(f"{path}: has no list `test` of names; make it with `univg data split`")
    return tests
