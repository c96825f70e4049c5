"""A provider's files as items: which image, mask and field of view belong together.

In: the file names of a source, and the groups of a data card. Out: `Item`s with unique ids, plus
every problem of pairing. A source that does not look like the provider's layout is refused with
the patterns that were looked for and what was found instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from univg.errors import DataError, Problem
from univg.images import is_picture_name
from univg.pairs import DEFAULT_SUFFIXES, match_stems, strip_stem

from .archives import Source, SourceFile
from .card import DataCard, Group, find_card

GENERIC = "generic"
_IMAGE_FOLDERS = ("images", "image", "img", "imgs", "source", "train_origin")
_MASK_FOLDERS = ("masks", "mask", "labels", "label", "gt", "target", "train_mask")


@dataclass(frozen=True)
class Item:
    """One image of the provider with what belongs to it."""

    id: str
    group: Group
    image: SourceFile
    mask: SourceFile | None = None
    fov: SourceFile | None = None


@dataclass
class Layout:
    """The items of a source, what is wrong with its names, and what is worth a remark."""

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def card_for(name: str, images: Sequence[str] = (), masks: Sequence[str] = ()) -> DataCard:
    """Return the data card called `name`, or the built-in one for plain folders of pairs."""
    if name.lower() != GENERIC:
        if images or masks:
            raise DataError(f"--images and --masks go with `{GENERIC}`; `{name}` has a card")
        card = find_card(name)
        if not card.layout:
            raise DataError(
                f"{card.name}: its card does not know the provider's layout; put the files into "
                f"images/ and masks/ and use `univg data prepare {GENERIC}`"
            )
        return card
    group = Group(
        images=tuple(images) or tuple(f"**/{name}/*" for name in _IMAGE_FOLDERS),
        masks=tuple(masks) or tuple(f"**/{name}/*" for name in _MASK_FOLDERS),
        fov=("**/fov/*",),
        strip=DEFAULT_SUFFIXES,
    )
    return DataCard(
        name=GENERIC,
        title="a folder of pairs",
        modality="other",
        licence="",
        access="",
        citation="",
        layout=(group,),
    )


def choose_groups(card: DataCard, group: str | None) -> tuple[Group, ...]:
    """Return all groups of the card, or the one that is asked for."""
    if group is None:
        return card.layout
    chosen = tuple(g for g in card.layout if g.name.lower() == group.lower())
    if not chosen:
        names = ", ".join(g.name for g in card.layout if g.name) or "none"
        raise DataError(f"--group {group}: {card.name} has no such group (it has: {names})")
    return chosen


def wants(groups: Iterable[Group], name: str) -> bool:
    """Whether any pattern of the groups asks for the file called `name`."""
    return any(_matches((*g.images, *g.masks, *g.fov), name) for g in groups)


def arrange(card: DataCard, groups: Sequence[Group], source: Source) -> Layout:
    """Pair the files of `source` group by group; refuse a source that is something else."""
    layout = Layout()
    files = {file.name: file for file in source.files}
    shared = _shared_stems(card, source.names)
    paired: set[str] = set()
    for group in groups:
        found = _arrange_group(group, files, source.root)
        layout.problems += found.problems
        paired |= {item.mask.name for item in found.items if item.mask}
        layout.items += [_prefix(item, shared) for item in found.items]
        if not found.items and not found.problems:
            layout.remarks.append(f"group {group.name or card.name}: nothing found")
    if not layout.items and not layout.problems:
        raise DataError(_explain_mismatch(card, groups, source))
    if len(groups) == len(card.layout):  # else a mask may belong to a group that was not asked for
        lone = {name for name in files if any(_is_mask(g, name) for g in groups)} - paired
        layout.problems += [_lone_mask(source.root, name) for name in sorted(lone)]
        if card.images and 0 < len(layout.items) < card.images:
            layout.remarks.append(
                f"{len(layout.items)} images found; {card.title} has {card.images}"
            )
    _take_out_doubles(layout, source.root)
    return layout


def check_classes(groups: Iterable[Group], classes: Sequence[str]) -> None:
    """Refuse label classes that none of the groups has."""
    known = list(dict.fromkeys(name for group in groups for name in group.labels or {}))
    strangers = [name for name in classes if name not in known]
    if strangers:
        valid = ", ".join(known) or "none, its masks have no classes"
        raise DataError(f"--labels {' '.join(strangers)}: not a class of this set (valid: {valid})")


def _arrange_group(group: Group, files: dict[str, SourceFile], root: Path) -> Layout:
    masks = [Path(name) for name in files if _is_mask(group, name)]
    views = [Path(name) for name in files if _matches(group.fov, name)]
    aside = {*masks, *views}
    images = [
        Path(name) for name in files if _matches(group.images, name) and Path(name) not in aside
    ]
    matching = match_stems(images, masks, group.strip)
    of_view = {image: view for _, image, view in match_stems(images, views, group.strip).pairs}

    def item(stem: str, image: Path, mask: Path | None) -> Item:
        view = of_view.get(image)
        return Item(
            stem,
            group,
            files[image.as_posix()],
            files[mask.as_posix()] if mask else None,
            files[view.as_posix()] if view else None,
        )

    items = [item(stem, image, mask) for stem, image, mask in matching.pairs]
    problems = [p for p in matching.problems() if p.kind == "duplicate"]
    if group.unlabelled_ok or not group.masks:
        items += [item(strip_stem(i.stem, group.strip), i, None) for i in matching.unmatched_images]
    elif masks:
        problems += [p for p in matching.problems() if p.path in matching.unmatched_images]
    elif images:
        detail = f"{len(images)} images of {group.name or 'this set'}, and no {group.masks[0]}"
        problems.append(Problem(path=Path(), kind="unmatched", detail=detail))
    items.sort(key=lambda one: one.id)
    return Layout(items, [_below(root, problem) for problem in problems])


def _below(root: Path, problem: Problem) -> Problem:
    return Problem(
        path=root / problem.path, kind=problem.kind, detail=problem.detail, remedy=problem.remedy
    )


def _is_mask(group: Group, name: str) -> bool:
    return _matches(group.masks, name) and not _matches(group.fov, name)


def _lone_mask(root: Path, name: str) -> Problem:
    detail = "this mask has no image of the same name"
    return Problem(path=root / name, kind="unmatched", detail=detail, remedy="add its image")


def _shared_stems(card: DataCard, names: Sequence[str]) -> set[str]:
    """Return the stems that more than one group of the card uses, chosen or not.

    From all groups, so that an item is called the same whether one group is prepared or all.
    """
    plain = [name[:-3] if name.lower().endswith(".gz") else name for name in names]
    count: Counter[str] = Counter()
    for group in card.layout:
        stems = {
            strip_stem(PurePosixPath(name).stem, group.strip).casefold()
            for name in plain
            if _matches(group.images, name)
            and not _matches(group.masks, name)
            and not _matches(group.fov, name)
        }
        count.update(stems)
    return {stem for stem, times in count.items() if times > 1}


def _prefix(item: Item, shared: set[str]) -> Item:
    if item.id.casefold() not in shared or not item.group.name:
        return item
    name = f"{item.group.name}_{item.id}".replace("/", "_").replace(" ", "_")
    return Item(name, item.group, item.image, item.mask, item.fov)


def _take_out_doubles(layout: Layout, root: Path) -> None:
    """Turn items of one id into problems: neither may silently be the one that is kept."""
    by_id: dict[str, list[Item]] = {}
    for item in layout.items:
        by_id.setdefault(item.id.casefold(), []).append(item)
    for doubles in (group for group in by_id.values() if len(group) > 1):
        names = ", ".join(item.image.name for item in doubles)
        detail = f"{len(doubles)} images stand for one item: {names}"
        path = root / doubles[0].image.name
        layout.problems.append(Problem(path=path, kind="duplicate", detail=detail))
        layout.items = [item for item in layout.items if item not in doubles]


def _explain_mismatch(card: DataCard, groups: Sequence[Group], source: Source) -> str:
    wanted = [pattern for group in groups for pattern in (*group.images, *group.masks)]
    names = [name for name in source.names if "__MACOSX" not in name]
    endings = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names)
    found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) or "nothing"
    example = f" (for example {min(names)})" if names else ""
    return (
        f"{source.root}: does not look like {card.title}; looked for {', '.join(wanted[:8])} and "
        f"found {found}{example}; check --from"
    )


def _matches(patterns: Sequence[str], name: str) -> bool:
    if not is_picture_name(name):
        return False
    # A provider may compress single pictures; they are unpacked before they get here.
    spellings = (name, f"{name}.gz")
    return any(compile_pattern(p).fullmatch(one) for p in patterns for one in spellings)


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a glob: `**/` any folders or none, `*` and `?` inside one name, `[…]` a set.

    Letter case does not matter; every other sign, brackets of folder names too, stands for itself.
    """
    special = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    text = "".join(
        special.get(piece) or (piece if piece.startswith("[") else re.escape(piece))
        for piece in pieces
    )
    return re.compile(text, re.IGNORECASE)
