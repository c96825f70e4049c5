"""Images as they enter the pretraining set, and the parquet shards that hold them.

In: picture files, a size. Out: encoded images with the hash of their original pixels, and parquet
files that `datasets` reads with its Image feature. No more than a row group is held in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import Problem, UserError
from univg.files import explain_os_error
from univg.images import ImageArray, PictureError, encode_image, read_image

from .build_sources import Candidate

Fit = Literal["crop", "longest"]
Format = Literal["png", "jpeg"]
In = TypeVar("In")
Out = TypeVar("Out")

ROW_GROUP_ROWS = 100
"""What readers of image data sets ask for: large enough to stream, small enough to hold."""
JPEG_QUALITY = 95
_COLUMNS = ("modality", "source", "stem", "width", "height", "sha256")


@dataclass(frozen=True)
class Made:
    """An image ready for its shard, or what is wrong with its file."""

    candidate: Candidate
    sha256: str = ""
    data: bytes = b""
    width: int = 0
    height: int = 0
    problem: Problem | None = None


def require_pyarrow() -> Any:
    """Import pyarrow, or say how to get it."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            'univg data build needs pyarrow to write parquet: pip install "univg[export]"'
        ) from error


def make_image(candidate: Candidate, size_px: int, fit: Fit, image_format: Format) -> Made:
    """Read, hash, scale and encode one image; a bad file comes back as its problem."""
    try:
        image = read_image(candidate.path)
    except PictureError as error:
        return Made(candidate, problem=error.problem)
    scaled = scale_image(to_8_bits(image), size_px, fit)
    return Made(
        candidate,
        hash_pixels(image),
        encode_as(scaled, image_format),
        width=scaled.shape[1],
        height=scaled.shape[0],
    )


def hash_pixels(image: ImageArray) -> str:
    """Return the SHA-256 of an image's pixels, whatever file format they came in.

    Grey stored as three equal channels is grey: re-encoding must not hide an image.
    """
    if image.ndim == 3 and bool((image == image[:, :, :1]).all()):
        image = image[:, :, 0]
    head = f"{image.shape} {image.dtype.itemsize}\0".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def to_8_bits(image: ImageArray) -> npt.NDArray[np.uint8]:
    """Return the image with 8 bits; of 16 bits the used range is stretched, most use 12 or less."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    low, high = int(image.min()), int(image.max())
    scaled = (image.astype(np.float64) - low) * (255.0 / max(1, high - low))
    return np.rint(scaled).astype(np.uint8)


def scale_image(image: npt.NDArray[np.uint8], size_px: int, fit: Fit) -> npt.NDArray[np.uint8]:
    """Scale to a square (the centre, cut at the shorter side) or to a longest side of `size_px`."""
    height, width = image.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
        wanted = (size_px, size_px)
    else:
        factor = size_px / max(height, width)
        wanted = (max(1, round(width * factor)), max(1, round(height * factor)))
    if (image.shape[1], image.shape[0]) == wanted:
        return np.ascontiguousarray(image)
    shrinks = wanted[0] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, wanted, interpolation=method), dtype=np.uint8)


def encode_as(image: npt.NDArray[np.uint8], image_format: Format) -> bytes:
    """Return the image as PNG, or as JPEG with full colour resolution."""
    if image_format == "png":
        return encode_image(image)
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", stored, options)
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be a JPEG")
    return bytes(data.tobytes())


def map_in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """Yield `work(item)` in the order of the items, a few of them ahead, whatever their number."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class ShardWriter:
    """Writes one parquet file, row group by row group, under a name of its own."""

    def __init__(self, path: Path, image_format: Format) -> None:
        self.path = path
        self.rows = 0
        self._suffix = ".jpg" if image_format == "jpeg" else ".png"
        self._arrow = require_pyarrow()
        self._schema = _schema(self._arrow)
        self._held: list[dict[str, Any]] = []
        parquet = importlib.import_module("pyarrow.parquet")
        # Encoded images do not compress any further.
        self._writer = parquet.ParquetWriter(path, self._schema, compression="none")

    def add(self, made: Made) -> None:
        """Add one image."""
        source = made.candidate.source
        place = f"{source}/{Path(made.candidate.name).with_suffix(self._suffix).as_posix()}"
        self._held.append(
            {
                "image": {"bytes": made.data, "path": place},
                "modality": made.candidate.modality,
                "source": source,
                "stem": made.candidate.stem,
                "width": made.width,
                "height": made.height,
                "sha256": made.sha256,
            }
        )
        self.rows += 1
        if len(self._held) == ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is held, and the footer without which no reader opens the file."""
        self._flush()
        self._guard(self._writer.close)

    def _flush(self) -> None:
        if self._held:
            table = self._arrow.Table.from_pylist(self._held, schema=self._schema)
            self._guard(lambda: self._writer.write_table(table))
            self._held = []

    def _guard(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            raise explain_os_error(error, self.path) from error


def read_hashes(path: Path) -> dict[str, str]:
    """Return, for each image of a shard, the hash of its original pixels and where it came from."""
    parquet = importlib.import_module("pyarrow.parquet")
    table = parquet.read_table(path, columns=["sha256", "source", "stem"])
    rows = zip(
        *(table.column(name).to_pylist() for name in ("sha256", "source", "stem")), strict=True
    )
    return {sha256: f"{source}/{stem}" for sha256, source, stem in rows}


def _schema(arrow: Any) -> Any:
    """The columns, with the note by which `datasets` knows that `image` is to be decoded."""
    kinds = {"width": "int32", "height": "int32"}
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    fields = [("image", image)]
    for name in _COLUMNS:
        kind = kinds.get(name, "string")
        features[name] = {"dtype": kind, "_type": "Value"}
        fields.append((name, getattr(arrow, kind)()))
    note = json.dumps({"info": {"features": features}})
    return arrow.schema(fields, metadata={"huggingface": note})
