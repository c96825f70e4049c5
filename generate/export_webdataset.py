"""WebDataset: numbered tar files of KEY.image.png, KEY.mask.png, KEY.json.

In: items. Out: `pairs-000000.tar` and so on; real pairs in `real-…`, held-out ones in
`validation-…`. The bytes of a tar depend on its pairs alone: no times, no owners.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, ClassVar

from univg.manifest import encode_row

from .export_index import Item
from .export_layout import (
    Exporter,
    Shard,
    Whole,
    describe,
    roles_of,
    write_form,
    write_stream,
)

NAMES = {"train": "pairs"}


class WebDataset(Exporter):
    """A tar a shard."""

    overhead_bytes: ClassVar[int] = 4 * 512 + 4 * 256

    def names(self, shard: Shard, items: Iterable[Item]) -> Iterator[str]:
        """Yield the name of the tar."""
        del items
        yield tar_name(shard)

    def write(self, place: Path, shard: Shard, items: Iterable[Item]) -> int:
        """Write the tar, a pair at a time."""
        path = place / tar_name(shard)
        with (
            write_stream(path) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for item in items:
                self._add_pair(tar, item)
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
        return path.stat().st_size

    def advice(self, whole: Whole) -> str:
        """Name the reader, with the shards of the first split."""
        first = next(iter(whole.summary.splits))
        names = [tar_name(shard) for shard in whole.shards if shard.split == first]
        digits = names[0].removesuffix(".tar")[-6:], names[-1].removesuffix(".tar")[-6:]
        numbers = "{" + "..".join(digits) + "}" if len(names) > 1 else digits[0]
        lead = names[0][: -len("000000.tar")]
        return f'webdataset.WebDataset("{whole.place}/{lead}{numbers}.tar")'

    def _add_pair(self, tar: tarfile.TarFile, item: Item) -> None:
        sums: dict[str, str] = {}
        for role in roles_of(item, self.keeps_fov):
            data, sums[role] = write_form(item, role, self.encoding)
            suffix = self.encoding.suffix if role == "image" else ".png"
            _add_file(tar, f"{item.key}.{role}{suffix}", data)
        record = {**describe(item, self.modality), "sha256": sums}
        _add_file(tar, f"{item.key}.json", encode_row(record))


def tar_name(shard: Shard) -> str:
    """Return the name of a shard's tar."""
    return f"{NAMES.get(shard.split, shard.split)}-{shard.part:06d}.tar"


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    content: IO[bytes] = io.BytesIO(data)
    tar.addfile(info, content)
