"""The files of a pair on their way out: are they sound, and which bytes are written.

In: the files of a pair as bytes. Out: `Facts` or problems; the bytes to write. A PNG or JPEG that
any reader understands alike leaves as it came, never decoded and encoded again; what could turn or
hide pixels in one reader and not in another (EXIF, palettes, alpha) is taken out without loss.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from univg.errors import DataError, Problem
from univg.files import sha256_hex
from univg.images import MAX_PIXELS, ImageArray, PictureError, bit_depth, encode_image, read_image
from univg.masks import BoolMask, encode_mask, inspect_mask, judge_mask

ImageFormat = Literal["png", "webp", "jpeg"]

LONGEST_SIDE_PX = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_535}
GUESSED_SHARE = {"png": 0.6, "webp": 0.45, "jpeg": 0.2}
"""Bytes of an encoded image over those of its pixels, for the estimate of disk space."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type ")
"""Beginnings of text chunks in which some readers look for an orientation."""
_FILTERS = {(0, 8): 1, (0, 16): 1, (2, 8): 3, (2, 16): 3}
"""(colour type, bits) that every reader takes alike -> channels."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images are stored; masks are always lossless PNG."""

    image_format: ImageFormat = "png"
    quality: int = 95
    """Of JPEG."""

    @property
    def suffix(self) -> str:
        """Ending of image files, with its dot."""
        return ".jpg" if self.image_format == "jpeg" else f".{self.image_format}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What checking the files of a pair has shown."""

    width: int
    height: int
    channels: int
    bits: int
    exact: tuple[str, ...]
    """Masks (mask, fov) that are one-channel PNG of 0 and 255 already."""
    grey: tuple[str, ...]
    """Masks with in-between values, which are cut at half."""
    empty: bool
    sha256: dict[str, str]
    """Of the files as they are, by role."""
    bytes_out: int
    """About what the pair's files will take."""

    def to_plain(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return dataclasses.asdict(self)


def facts_from_plain(plain: Mapping[str, Any]) -> Facts:
    """Return the facts that `to_plain` gave."""
    return Facts(**{**plain, "exact": tuple(plain["exact"]), "grey": tuple(plain["grey"])})


def check_files(
    files: Mapping[str, Path], wanted: Mapping[str, str], encoding: Encoding, strict: bool
) -> tuple[Facts | None, list[Problem]]:
    """Read the files of a pair (image, mask, fov) once; `wanted` are checksums of a manifest."""
    problems: list[Problem] = []
    data: dict[str, bytes] = {}
    for role, path in files.items():
        try:
            data[role] = path.read_bytes()
        except OSError as error:
            detail = f"cannot be read ({error.strerror})"
            problems.append(Problem(path=path, kind="unreadable", detail=detail))
    if problems:
        return None, problems
    sums = {role: sha256_hex(content) for role, content in data.items()}
    for role, path in files.items():
        if wanted.get(role, sums[role]) != sums[role]:
            remedy = "restore it, or run the command that made the folder again"
            detail = "differs from what manifest.jsonl says was written"
            problems.append(Problem(path=path, kind="changed", detail=detail, remedy=remedy))
    try:
        width, height, channels, bits = _measure(files["image"], data["image"])
    except PictureError as error:
        return None, [*_unless_told(problems, error.problem)]
    problems += _judge_format(files["image"], (width, height), bits, encoding)
    exact: list[str] = []
    grey: list[str] = []
    empty = False
    for role in [role for role in files if role != "image"]:
        try:
            mask, kind = _inspect(files[role], data[role])
        except PictureError as error:
            problems = _unless_told(problems, error.problem)
            continue
        problems += _judge_mask(files[role], mask, kind, (width, height), strict)
        empty = empty or (role == "mask" and not mask.any())
        exact += [role] if kind == "exact" else []
        grey += [role] if kind == "grey" else []
    if problems:
        return None, problems
    kept = _kept_bytes(data["image"], encoding.image_format)
    share = GUESSED_SHARE[encoding.image_format]
    size = len(kept) if kept else int(width * height * channels * bits / 8 * share)
    size += sum(len(content) for role, content in data.items() if role != "image")
    return Facts(
        width=width, height=height, channels=channels, bits=bits, exact=tuple(exact),
        grey=tuple(grey), empty=empty, sha256=sums, bytes_out=size,
    ), []  # fmt: skip


def image_bytes(path: Path, data: bytes, encoding: Encoding) -> bytes:
    """Return the image at `path`, whose content is `data`, as it is to be written."""
    kept = _kept_bytes(data, encoding.image_format)
    return kept if kept is not None else encode_picture(read_image(path), encoding)


def encode_picture(image: ImageArray, encoding: Encoding) -> bytes:
    """Return `image` in the format of `encoding`."""
    if encoding.image_format == "png":
        return encode_image(image)
    stream = io.BytesIO()
    picture = Image.fromarray(image)
    if encoding.image_format == "webp":
        picture.save(stream, "WEBP", lossless=True, quality=20, method=1)
    else:  # full colour resolution: vessels are thin
        picture.save(stream, "JPEG", quality=encoding.quality, subsampling=0)
    return stream.getvalue()


def mask_bytes(path: Path, data: bytes, exact: bool) -> bytes:
    """Return the mask at `path` as one-channel PNG of 0 and 255: its own bytes if it is one."""
    return data if exact else encode_mask(inspect_mask(path).mask)


def label_bytes(path: Path, data: bytes) -> bytes:
    """Return the mask at `path` as one-channel PNG of 0 and 1."""
    labels = _inspect(path, data)[0].astype(np.uint8)
    done, encoded = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise DataError(f"{path}: cannot be written as PNG")
    return bytes(encoded.tobytes())


def plain_png(data: bytes) -> bytes | None:
    """Return the PNG `data` if all readers take it alike, without orientation; else None."""
    header = _header(data)
    if header is None or header[2:] not in _FILTERS or data[28] not in {0, 1}:
        return None
    kept: list[bytes | memoryview] = [_PNG]
    view, dropped = memoryview(data), False
    for name, start, end in _chunks(data):
        if name in {b"tRNS", b"acTL"}:
            return None
        turning = name in {b"tEXt", b"zTXt", b"iTXt"} and data[start:].startswith(_TURNING)
        if name == b"eXIf" or turning:
            dropped = True
        else:
            kept.append(view[start - 8 : end + 4])
    return b"".join(kept) if dropped else data


def plain_jpeg(data: bytes) -> bytes | None:
    """Return the JPEG `data` without EXIF and XMP (which can turn it); None if it is CMYK."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC} and data[at + 9] == 4:
            return None
        if marker != 0xE1:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*kept, data[at:]])


def _kept_bytes(data: bytes, image_format: str) -> bytes | None:
    """Return the bytes that can be written without decoding, None where there are none."""
    if image_format == "png" and data.startswith(_PNG):
        return plain_png(data)
    if image_format == "jpeg" and data.startswith(b"\xff\xd8\xff"):
        return plain_jpeg(data)
    if image_format == "webp" and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data
    return None


def _measure(path: Path, data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, channels and bits of an image of which every pixel is there.

    Each chunk of a PNG has a checksum: comparing them finds a cut or damaged file in a tenth of
    the time of decoding it. Other formats are decoded.
    """
    header = _header(data)
    if header is not None and header[2:] in _FILTERS and plain_png(data) is not None:
        width, height, colour, bits = header
        if _sound(data) and 0 < width * height <= MAX_PIXELS:
            return width, height, _FILTERS[colour, bits], bits
    image = read_image(path)
    return image.shape[1], image.shape[0], 1 if image.ndim == 2 else 3, bit_depth(image)


def _sound(data: bytes) -> bool:
    view, last, pixels = memoryview(data), b"", False
    for name, start, end in _chunks(data):
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        last, pixels = name, pixels or name == b"IDAT"
    return last == b"IEND" and pixels


def _header(data: bytes) -> tuple[int, int, int, int] | None:
    """Return width, height, colour type and bits of a PNG, None of anything else."""
    if not data.startswith(_PNG) or len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return width, height, colour, bits


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each chunk, up to IEND or the first cut one."""
    at, name = len(_PNG), b""
    while name != b"IEND" and at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name, start = data[at + 4 : at + 8], at + 8
        if start + length + 4 > len(data):
            return
        yield name, start, start + length
        at = start + length + 4


def _inspect(path: Path, data: bytes) -> tuple[BoolMask, str]:
    """Return a mask and whether it is stored `exact`ly, in another `clean` form, or `grey`."""
    header = _header(data)
    if header is not None and header[2:] == (0, 8) and plain_png(data) is data and _sound(data):
        stored: npt.NDArray[Any] | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
        # One pass: 255 + 1 wraps to 0, 0 gives 1, all else gives more.
        if stored is not None and stored.ndim == 2 and bool((stored + np.uint8(1) <= 1).all()):
            return stored.astype(np.bool_), "exact"
    reading = inspect_mask(path)
    return reading.mask, "clean" if reading.levels <= 2 else "grey"


def _judge_mask(
    path: Path, mask: BoolMask, kind: str, image_size: tuple[int, int], strict: bool
) -> list[Problem]:
    """Return what is wrong; a mask without a vessel is no error in a data set, only a question."""
    size = (mask.shape[1], mask.shape[0])
    if size == image_size and not (strict and kind == "grey"):
        return []
    found = judge_mask(path, inspect_mask(path), image_size, strict)
    return [problem for problem in found if problem.kind in {"size", "grey"}]


def _judge_format(
    path: Path, size: tuple[int, int], bits: int, encoding: Encoding
) -> list[Problem]:
    name = encoding.image_format
    remedy = "export with --image-format png"
    if bits == 16 and name != "png":
        detail = f"has 16 bits a channel, {name} holds 8"
        return [Problem(path=path, kind="depth", detail=detail, remedy=remedy)]
    if max(size) > LONGEST_SIDE_PX[name]:
        detail = f"is {size[0]}x{size[1]} px, {name} holds sides of {LONGEST_SIDE_PX[name]} px"
        return [Problem(path=path, kind="too large", detail=detail, remedy=remedy)]
    return []


def _unless_told(problems: list[Problem], new: Problem) -> list[Problem]:
    """Add `new`, in the place of a mere checksum that differs: it says why."""
    return [p for p in problems if p.path != new.path] + [new]
