"""Which bytes leave: copied where any reader takes them alike, without loss where not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_sets import draw_image, draw_mask
from PIL import Image

from univg.generate.export_pictures import (
    Encoding,
    check_files,
    image_bytes,
    label_bytes,
    mask_bytes,
    plain_jpeg,
    plain_png,
)
from univg.images import encode_image, read_image
from univg.masks import encode_mask

PNG = Encoding()
MASK = draw_mask(3, 40, 50)
RGB = draw_image(MASK, 3, "rgb")


def put(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def pillow(image: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """Put a chunk after the header."""
    body = name + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def check(tmp_path: Path, image: bytes, mask: bytes, encoding: Encoding = PNG, strict=False):
    files = {"image": put(tmp_path, "i.png", image), "mask": put(tmp_path, "m.png", mask)}
    return check_files(files, {}, encoding, strict)


@pytest.mark.parametrize("kind", ["rgb", "grey", "grey16", "rgb16"])
def test_png_leaves_as_it_came(kind, tmp_path):
    image = draw_image(MASK, 1, kind)
    data = encode_image(image)
    assert image_bytes(put(tmp_path, "a.png", data), data, PNG) is data
    facts, problems = check(tmp_path, data, encode_mask(MASK))
    assert not problems
    assert (facts.width, facts.height) == (50, 40)
    assert facts.channels == (3 if kind.startswith("rgb") else 1)
    assert facts.bits == image.dtype.itemsize * 8
    assert facts.exact == ("mask",) and not facts.grey and not facts.empty


def test_what_would_turn_a_png_is_taken_out_and_no_pixel_changes(tmp_path):
    clean = encode_image(RGB)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = with_chunk(clean, b"eXIf", exif.tobytes()[6:])
    xmp = with_chunk(clean, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6</tiff>")
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    assert plain_png(turned) == clean
    assert plain_png(xmp) == clean
    assert plain_png(with_chunk(clean, b"tEXt", b"Comment\0mine")) is not None


def test_palette_and_alpha_are_decoded(tmp_path):
    for stored in (
        pillow(np.dstack([RGB, np.full(MASK.shape, 255, np.uint8)]), "PNG"),
        _palette_png(),
    ):
        path = put(tmp_path, "a.png", stored)
        written = image_bytes(path, stored, PNG)
        assert written != stored
        np.testing.assert_array_equal(read_image(put(tmp_path, "b.png", written)), read_image(path))


def _palette_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RGB).quantize(16).save(stream, "PNG")
    return stream.getvalue()


def test_jpeg_stays_the_same_jpeg_without_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    stored = pillow(RGB, "JPEG", exif=exif.tobytes())
    written = image_bytes(put(tmp_path, "a.jpg", stored), stored, Encoding(image_format="jpeg"))
    assert 0x0112 not in Image.open(io.BytesIO(written)).getexif()
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(written))), np.asarray(Image.open(io.BytesIO(stored)))
    )
    stream = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(stream, "JPEG")
    assert plain_jpeg(stream.getvalue()) is None


def test_a_jpeg_becomes_a_png_of_its_pixels(tmp_path):
    stored = pillow(RGB, "JPEG")
    path = put(tmp_path, "a.jpg", stored)
    written = put(tmp_path, "b.png", image_bytes(path, stored, PNG))
    np.testing.assert_array_equal(read_image(written), read_image(path))


@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_webp_is_lossless(kind, tmp_path):
    image = draw_image(MASK, 2, kind)
    data = encode_image(image)
    written = image_bytes(put(tmp_path, "a.png", data), data, Encoding(image_format="webp"))
    back = np.asarray(Image.open(io.BytesIO(written)))  # WebP knows no grey
    np.testing.assert_array_equal(back if kind == "rgb" else back[:, :, 0], image)


def test_the_quality_of_jpeg_counts(tmp_path):
    smooth = cv2.GaussianBlur(RGB, (0, 0), 3)
    data = encode_image(smooth)
    path = put(tmp_path, "a.png", data)
    sizes, errors = [], []
    for quality in (50, 95):
        written = image_bytes(path, data, Encoding(image_format="jpeg", quality=quality))
        sizes.append(len(written))
        errors.append(np.abs(np.asarray(Image.open(io.BytesIO(written))) * 1.0 - smooth).mean())
    assert sizes[0] < sizes[1] and errors[0] > errors[1] < 1.5


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_sixteen_bits_are_not_halved_in_silence(name, tmp_path):
    deep = encode_image(draw_image(MASK, 1, "grey16"))
    encoding = Encoding(image_format=name)
    facts, problems = check(tmp_path, deep, encode_mask(MASK), encoding)
    assert facts is None
    assert [problem.kind for problem in problems] == ["depth"]


@pytest.mark.parametrize("where", ["pixels", "end", "half"])
def test_a_damaged_png_is_found_without_decoding_it(where, tmp_path):
    data = bytearray(encode_image(RGB))
    if where == "pixels":
        data[len(data) // 2] ^= 1
    damaged = bytes(data[:-12] if where == "end" else data[:90] if where == "half" else data)
    facts, problems = check(tmp_path, damaged, encode_mask(MASK))
    if where == "end":  # all pixels are there, and readers take it
        assert facts is not None or problems
    else:
        assert facts is None and len(problems) == 1
        assert str(tmp_path / "i.png") in problems[0].line()


def test_a_mask_in_any_form_becomes_0_and_255_and_a_clean_one_keeps_its_bytes(tmp_path):
    clean = encode_mask(MASK)
    assert mask_bytes(put(tmp_path, "m.png", clean), clean, exact=True) is clean
    for stored in (
        pillow(MASK.astype(np.uint8), "PNG"),
        pillow(np.repeat(MASK[:, :, None] * np.uint8(255), 3, axis=2), "PNG"),
    ):
        facts, problems = check(tmp_path, encode_image(RGB), stored)
        assert not problems and facts.exact == ()
        assert mask_bytes(tmp_path / "m.png", stored, exact=False) == clean
    labels = cv2.imdecode(np.frombuffer(label_bytes(tmp_path / "m.png", clean), np.uint8), -1)
    np.testing.assert_array_equal(labels, MASK.astype(np.uint8))


def test_grey_levels_are_told_and_refused_if_strict(tmp_path):
    smooth = cv2.GaussianBlur(MASK * np.uint8(255), (0, 0), 1)
    stored = pillow(smooth, "PNG")
    facts, problems = check(tmp_path, encode_image(RGB), stored)
    assert not problems and facts.grey == ("mask",)
    facts, problems = check(tmp_path, encode_image(RGB), stored, strict=True)
    assert facts is None and [problem.kind for problem in problems] == ["grey"]


def test_a_mask_of_another_size_is_refused_and_an_empty_one_noted(tmp_path):
    facts, problems = check(tmp_path, encode_image(RGB), encode_mask(MASK[:, :-1]))
    assert facts is None and [problem.kind for problem in problems] == ["size"]
    facts, problems = check(tmp_path, encode_image(RGB), encode_mask(MASK & False))
    assert not problems and facts.empty


def test_a_file_that_is_not_what_the_manifest_says_is_refused(tmp_path):
    files = {
        "image": put(tmp_path, "i.png", encode_image(RGB)),
        "mask": put(tmp_path, "m.png", encode_mask(MASK)),
    }
    facts, problems = check_files(files, {"image": "0" * 64}, PNG, False)
    assert facts is None and [problem.kind for problem in problems] == ["changed"]
