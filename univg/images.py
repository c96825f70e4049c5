"""Picture files in and out, without loss and without surprises.

In: a path. Out: a loaded Pillow picture or an array H×W (grey) or H×W×3 (RGB), 8 or 16 bits, as it
is stored: never rotated by EXIF, never scaled to another depth. A file that cannot be used raises
`PictureError`, which carries a `Problem` with the kind: missing, unreadable, truncated, too large,
frames, transparent or depth.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from univg.errors import DataError, Problem
from univg.files import TEMPORARY_PREFIX

ImageArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

PICTURE_SUFFIXES = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
MAX_PIXELS = 2**26
"""Larger pictures are refused: 8192 × 8192, five times the largest public vessel image."""

PHOTOMETRIC, BITS = 262, 258
"""Tags of TIFF."""
_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    **{f"P{digit}".encode(): "PNM" for digit in range(1, 7)},
}
_DECODING_ERRORS = (OSError, SyntaxError, EOFError, ValueError, IndexError, KeyError, TypeError)
# Pillow reports oversized headers through the global warning filters, which must not be changed by
# two threads at a time.
_HEADER_LOCK = threading.Lock()


class PictureError(DataError):
    """A picture file that cannot be used; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.line())


def is_picture_name(name: str) -> bool:
    """Whether a file called `name` is a picture that people mean.

    Not the `._x` twins of macOS, Thumbs.db, hidden files, or what a killed run left behind.
    """
    path = Path(name)
    if path.name.startswith((".", "~", TEMPORARY_PREFIX)) or "__MACOSX" in path.parts:
        return False
    return path.suffix.lower() in PICTURE_SUFFIXES


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures that lie directly in `folder`, sorted by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        reason = "does not exist" if not folder.exists() else "is not a folder that can be read"
        raise DataError(f"{folder}: {reason}; check the path") from error
    found = [path for path in entries if is_picture_name(path.name) and _may_be_file(path)]
    odd = [path for path in found if not _is_text(path.name)]
    if odd:
        name = ascii(odd[0].name)[1:-1]
        raise DataError(
            f"{folder}: {len(odd)} file names hold signs that no text can (first: {name}); rename "
            "them, often a zip file was unpacked in another encoding"
        )
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_be_file(path: Path) -> bool:
    """Whether `path` is a file, or a link whose file is missing: that is told when it is opened."""
    return path.is_file() or not path.exists()


def open_picture(path: Path) -> Image.Image:
    """Return the picture at `path`, its pixels really loaded, as stored."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refuse_unread(path, error) from error
    if not data:
        raise _refuse(path, "truncated", "is an empty file of 0 bytes", "copy it again")
    picture = _open_header(path, data)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"is {width}x{height} px")
    try:
        frames = int(getattr(picture, "n_frames", 1))
        picture.load()
    except _DECODING_ERRORS as error:
        raise _explain_damage(path, data, error) from error
    if frames > 1:
        raise _refuse(path, "frames", f"holds {frames} pictures", "save the one to use alone")
    return picture


def read_image(path: Path) -> ImageArray:
    """Return the image at `path` as H×W or H×W×3 (RGB), uint8 or uint16, without loss."""
    picture = open_picture(path)
    if picture.mode in {"RGB", "RGBA"} and _stored_with_16_bits(path):
        return _read_deep_colour(path)
    if picture.mode in {"L", "RGB"}:
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode == "LAB":
        raise _refuse(path, "colours", "is stored in CIELAB colours", "save it as RGB")
    if picture.mode == "P" or "A" in picture.mode:
        return _drop_alpha(path, np.asarray(_without_palette(picture)))
    if picture.mode.startswith(("I", "F")):
        pixels = _to_uint16(path, np.asarray(picture))
        return np.iinfo(np.uint16).max - pixels if _stored_as_negative(picture) else pixels
    return np.asarray(picture.convert("RGB"))  # CMYK and YCbCr files


def encode_image(image: ImageArray) -> bytes:
    """Return `image` (H×W or H×W×3, 8 or 16 bits) as PNG; the same array gives the same bytes."""
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Level 4: on fundus images 5 % more bytes than level 6, in a third of its time.
    done, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise DataError(f"an array of shape {image.shape} and {image.dtype} cannot be a PNG")
    return bytes(data.tobytes())


def bit_depth(image: ImageArray) -> int:
    """Return 8 or 16."""
    return image.dtype.itemsize * 8


def _open_header(path: Path, data: bytes) -> Image.Image:
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torn EXIF and the like, which we do not use
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(path, "has more than 89 million pixels") from error
    except (UnidentifiedImageError, *_DECODING_ERRORS) as error:
        raise _explain_damage(path, data, error) from error


def _explain_damage(path: Path, data: bytes, error: Exception) -> PictureError:
    """Tell a file that is cut short from one that never was a picture."""
    kinds = [name for start, name in _SIGNATURES.items() if data.startswith(start)]
    if not kinds:
        return _refuse(
            path, "unreadable", "is not a picture that can be read", "check what the file is"
        )
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(path, "has too many pixels")
    ends = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "GIF": b"\x3b"}
    end = ends.get(kinds[0])
    cut = "truncated" in str(error) or "not enough" in str(error) or isinstance(error, EOFError)
    if cut or end is None or end not in data[-64:]:
        detail = f"is truncated: a {kinds[0]} file of {len(data)} bytes without all of its pixels"
        return _refuse(path, "truncated", detail, "copy or download it again")
    detail = f"is a damaged {kinds[0]} file ({' '.join(str(error).split())})"
    return _refuse(path, "unreadable", detail, "copy or download it again")


def _refuse_unread(path: Path, error: OSError) -> PictureError:
    if not path.exists():
        return _refuse(path, "missing", "does not exist", "check the path")
    return _refuse(path, "unreadable", f"cannot be read ({error.strerror})", "check its rights")


def _too_large(path: Path, what: str) -> PictureError:
    detail = f"{what}; at most {MAX_PIXELS} px are read"
    return _refuse(path, "too large", detail, "scale it down or cut it into tiles")


def _refuse(path: Path, kind: str, detail: str, remedy: str) -> PictureError:
    return PictureError(Problem(path=path, kind=kind, detail=detail, remedy=remedy))


def _stored_with_16_bits(path: Path) -> bool:
    """Whether a colour file has 16 bits a channel, which Pillow would halve without a word."""
    with _HEADER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            tiles: Sequence[Any] = getattr(picture, "tile", [])
            return any(";16" in str(tile[3]) for tile in tiles)


def _read_deep_colour(path: Path) -> ImageArray:
    stored = None
    with contextlib.suppress(cv2.error):
        stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3:
        raise _refuse(path, "depth", "has 16 bits a colour in a form not known", "save it as PNG")
    order = [2, 1, 0, 3][: stored.shape[2]]
    return _drop_alpha(path, np.ascontiguousarray(stored[:, :, order]))


def _without_palette(picture: Image.Image) -> Image.Image:
    """Return RGB, RGBA, L or LA; a palette of greys gives L."""
    if picture.mode not in {"P", "PA"}:
        return picture
    if picture.mode == "PA" or "transparency" in picture.info:
        return picture.convert("RGBA")
    colours = np.asarray(picture.convert("RGB"))
    grey = bool((colours == colours[:, :, :1]).all())
    return Image.fromarray(colours[:, :, 0] if grey else colours)


def _drop_alpha(path: Path, pixels: npt.NDArray[Any]) -> ImageArray:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels in {1, 3}:
        return pixels
    alpha = pixels[:, :, -1]
    if int(alpha.min()) != np.iinfo(pixels.dtype).max:
        detail = "is an image with transparent pixels, which have no value to learn from"
        raise _refuse(path, "transparent", detail, "save it without an alpha channel")
    return np.ascontiguousarray(pixels[:, :, 0] if channels == 2 else pixels[:, :, :3])


def _stored_as_negative(picture: Image.Image) -> bool:
    """Whether white is 0 in a TIFF of 16 bits: of those of 8 bits Pillow makes positives itself."""
    tags: Any = getattr(picture, "tag_v2", {})
    return bool(tags.get(PHOTOMETRIC) == 0 and tags.get(BITS) == (16,))


def _to_uint16(path: Path, pixels: npt.NDArray[Any]) -> ImageArray:
    low, high = float(pixels.min()), float(pixels.max())
    whole = np.issubdtype(pixels.dtype, np.integer)
    if not whole or low < 0 or high > np.iinfo(np.uint16).max:
        detail = f"holds {pixels.dtype} values from {low:g} to {high:g}"
        raise _refuse(path, "depth", detail, "save it with 8 or 16 bits a pixel")
    return pixels.astype(np.uint16)
