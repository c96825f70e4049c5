"""The mask rule: every form that people store is read as the same mask, every bad file is named."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from univg.errors import DataError
from univg.images import PictureError, encode_image, list_pictures, read_image
from univg.masks import (
    MaskWarning,
    check_mask,
    encode_mask,
    find_fov,
    inspect_mask,
    read_labels,
    read_mask,
    write_mask,
)


def draw_mask(height: int = 60, width: int = 90) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    cv2.line(canvas, (5, 50), (80, 10), 1, 5)
    cv2.line(canvas, (40, 30), (80, 55), 1, 3)
    return canvas.astype(bool)


MASK = draw_mask()
BYTE = MASK.astype(np.uint8)


def paletted(indices: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(indices).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(colours)
    return picture


def coloured(inside: tuple[int, ...], outside: tuple[int, ...]) -> Image.Image:
    chosen = np.where(MASK[..., None], np.array(inside, np.uint8), np.array(outside, np.uint8))
    return Image.fromarray(chosen.astype(np.uint8))


def two_coloured() -> Image.Image:
    pixels = np.asarray(coloured((255, 0, 0), (0, 0, 0))).copy()
    pixels[:, 45:][MASK[:, 45:]] = (0, 0, 255)
    return Image.fromarray(pixels)


FORMS = {
    "grey-255.png": (Image.fromarray(BYTE * 255), "binary 0/255"),
    "grey-1.png": (Image.fromarray(BYTE), "binary 0/1"),
    "grey-128.png": (Image.fromarray(BYTE * 128), "grey"),
    "grey.tif": (Image.fromarray(BYTE * 255), "binary 0/255"),
    "grey.bmp": (Image.fromarray(BYTE * 255), "binary 0/255"),
    "grey.pgm": (Image.fromarray(BYTE * 255), "binary 0/255"),
    "grey.gif": (Image.fromarray(BYTE * 255), None),
    "one-bit.png": (Image.fromarray(MASK), "1-bit"),
    "one-bit.tif": (Image.fromarray(MASK), "1-bit"),
    "one-bit.pbm": (Image.fromarray(MASK), "1-bit"),
    "rgb-equal.png": (Image.fromarray(BYTE * 255).convert("RGB"), "rgb"),
    "rgb.ppm": (Image.fromarray(BYTE * 255).convert("RGB"), "rgb"),
    "red-on-black.png": (coloured((255, 0, 0), (0, 0, 0)), "rgb"),
    "dark-red-on-black.png": (coloured((128, 0, 0), (0, 0, 0)), "rgb"),
    "red-on-white.png": (coloured((255, 0, 0), (255, 255, 255)), "rgb"),
    "red-and-blue.png": (two_coloured(), "rgb"),
    "palette-black-white.png": (paletted(BYTE, [0, 0, 0, 255, 255, 255]), "palette"),
    "palette-voc.png": (paletted(BYTE, [0, 0, 0, 128, 0, 0, 0, 128, 0]), "palette"),
    "palette-all-black.png": (paletted(BYTE, [0, 0, 0, 0, 0, 0]), "palette"),
    "palette-255.gif": (paletted(BYTE * 255, [v for v in range(256) for _ in "rgb"]), None),
    "opaque.png": (coloured((255, 255, 255, 255), (0, 0, 0, 255)), "rgba"),
    "half-opaque.png": (coloured((255, 255, 255, 128), (0, 0, 0, 128)), "rgba"),
    "white-on-transparent.png": (coloured((255, 255, 255, 255), (255, 255, 255, 0)), "rgba"),
    "white-on-transparent-black.png": (coloured((255, 255, 255, 255), (0, 0, 0, 0)), "rgba"),
    "black-on-transparent.png": (coloured((0, 0, 0, 255), (0, 0, 0, 0)), "rgba"),
    "grey-alpha.png": (Image.fromarray(BYTE * 255).convert("LA"), "rgba"),
    "deep-65535.png": (Image.fromarray(BYTE.astype(np.uint16) * 65535), "16-bit"),
    "deep-1.png": (Image.fromarray(BYTE.astype(np.uint16)), "16-bit"),
    "deep-255.tif": (Image.fromarray(BYTE.astype(np.uint16) * 255), "16-bit"),
    "float.tif": (Image.fromarray(BYTE.astype(np.float32)), "16-bit"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_as_the_same_mask(tmp_path: Path, name: str) -> None:
    picture, stored = FORMS[name]
    picture.save(tmp_path / name)
    reading = inspect_mask(tmp_path / name)
    assert np.array_equal(reading.mask, MASK)
    assert reading.levels == 2 and reading.ambiguous_share == 0
    assert stored is None or reading.stored == stored
    assert check_mask(tmp_path / name, (90, 60), strict=True) == []
    assert read_mask(tmp_path / name, strict=True).dtype == np.bool_


def test_written_masks_are_one_channel_of_0_and_255_and_the_same_bytes_each_time() -> None:
    data = encode_mask(MASK)
    assert data == encode_mask(np.asfortranarray(MASK))
    for stored in (
        np.asarray(Image.open(io.BytesIO(data))),
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
    ):
        assert stored.dtype == np.uint8 and stored.shape == (60, 90)
        assert np.array_equal(stored, BYTE * 255)
    assert Image.open(io.BytesIO(data)).mode == "L"


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (513, 511)])
def test_masks_of_any_shape_survive(tmp_path: Path, shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    write_mask(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.parametrize("wrong", [BYTE, MASK[..., None], MASK[:0]])
def test_only_masks_are_encoded(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="a mask is bool"):
        encode_mask(wrong)


def test_a_mask_damaged_by_jpeg_is_cut_at_half_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "m.jpg"
    Image.fromarray(BYTE * 255).save(path, quality=60)
    with pytest.warns(MaskWarning, match=r"m\.jpg: .*% of its pixels are neither"):
        mask = read_mask(path)
    assert (mask != MASK).mean() < 0.01
    with pytest.raises(DataError, match="never as JPEG"):
        read_mask(path, strict=True)
    assert [p.kind for p in check_mask(path, strict=True)] == ["grey"]
    assert check_mask(path) == []


def test_the_share_of_ambiguous_pixels_is_counted(tmp_path: Path) -> None:
    levels = np.zeros((10, 10), np.uint8)
    levels[:5] = 255
    levels[0, :7] = 100
    levels[0, 7:] = 250  # near the highest value: not ambiguous
    Image.fromarray(levels).save(tmp_path / "m.png")
    reading = inspect_mask(tmp_path / "m.png")
    assert reading.ambiguous_share == pytest.approx(0.07) and reading.levels == 4
    assert reading.mask.sum() == 43 and reading.stored == "grey"


def test_orientation_tags_do_not_turn_a_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BYTE * 255).save(tmp_path / "m.png", exif=exif)
    Image.fromarray(BYTE * 255).save(tmp_path / "i.jpg", exif=exif, quality=95)
    assert np.array_equal(read_mask(tmp_path / "m.png"), MASK)
    assert read_image(tmp_path / "i.jpg").shape == (60, 90)


@pytest.mark.parametrize(("value", "kind"), [(0, "empty"), (255, "full"), (1, "full")])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_empty_and_full_masks_are_named(tmp_path: Path, value: int, kind: str, mode: str) -> None:
    Image.fromarray(np.full((8, 8), value, np.uint8)).convert(mode).save(tmp_path / "m.png")
    (problem,) = check_mask(tmp_path / "m.png")
    assert problem.kind == kind and "m.png" in problem.line()


def test_another_size_than_the_image_names_both(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", MASK)
    (problem,) = check_mask(tmp_path / "m.png", (60, 90))
    assert problem.kind == "size"
    assert "90x60" in problem.detail and "60x90" in problem.detail


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "bmp", "ppm"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_called_truncated(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"m.{ending}"
    noise = np.random.default_rng(1).integers(0, 2, (64, 64), dtype=np.uint8) * 255
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    (problem,) = check_mask(path)
    assert problem.kind == "truncated" and "truncated" in problem.detail


def test_other_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "nothing.png").touch()
    (tmp_path / "folder.png").mkdir()
    flipped = bytearray(encode_mask(MASK))
    flipped[60] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(flipped)
    kinds = {
        name: check_mask(tmp_path / f"{name}.png")[0].kind
        for name in ("text", "nothing", "folder", "flipped", "absent")
    }
    assert kinds == {
        "text": "unreadable",
        "nothing": "truncated",
        "folder": "unreadable",
        "flipped": "unreadable",
        "absent": "missing",
    }


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8200, 10_000, 60_000])
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of_size(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (problem,) = check_mask(tmp_path / "bomb.png")
    assert problem.kind == "too large" and "at most 67108864 px" in problem.detail


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(BYTE * 255), Image.fromarray((1 - BYTE) * 255)]
    frames[0].save(tmp_path / "m.tif", save_all=True, append_images=frames[1:])
    (problem,) = check_mask(tmp_path / "m.tif")
    assert problem.kind == "frames" and "2 pictures" in problem.detail


def test_cielab_colours_are_refused(tmp_path: Path) -> None:
    lab = Image.new("LAB", (9, 9), (50, 20, 30))
    lab.save(tmp_path / "lab.tif")
    with pytest.raises(PictureError, match=r"lab\.tif: is stored in CIELAB colours"):
        read_image(tmp_path / "lab.tif")


def test_label_values_are_read_from_grey_and_palette_files(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(values).save(tmp_path / "grey.bmp")
    paletted(values // 20, list(range(36))).save(tmp_path / "colours.png")
    assert np.array_equal(read_labels(tmp_path / "grey.bmp"), values)
    assert np.array_equal(read_labels(tmp_path / "colours.png"), values // 20)
    coloured((255, 0, 0), (0, 0, 255)).save(tmp_path / "rgb.png")
    with pytest.raises(PictureError, match="not a map of label values"):
        read_labels(tmp_path / "rgb.png")


def test_the_disc_of_a_fundus_image_is_found() -> None:
    image = np.full((200, 240, 3), 6, np.uint8)
    cv2.circle(image, (120, 100), 90, (140, 70, 30), -1)
    cv2.circle(image, (120, 100), 12, (10, 8, 6), -1)  # a dark fovea is no hole
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    wanted = np.zeros((200, 240), np.uint8)
    cv2.circle(wanted, (120, 100), 90, 1, -1)
    found = find_fov(image)
    assert 2 * (found & (wanted > 0)).sum() / (found.sum() + wanted.sum()) > 0.98


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_keep_every_pixel(tmp_path: Path, dtype: type, channels: int, ending: str) -> None:
    shape = (20, 30) if channels == 1 else (20, 30, 3)
    image = np.random.default_rng(2).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / f"i.{ending}"
    if ending == "png":
        path.write_bytes(encode_image(image))
        assert encode_image(image) == path.read_bytes()
    else:
        cv2.imwrite(str(path), image if channels == 1 else image[..., ::-1])
    found = read_image(path)
    assert found.dtype == dtype and np.array_equal(found, image)


def test_images_in_other_forms_are_read_or_refused(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.gif")
    assert np.array_equal(read_image(tmp_path / "grey.gif"), grey)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").shape == (16, 16, 3)
    coloured((9, 9, 9, 255), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    with pytest.raises(PictureError, match="transparent pixels"):
        read_image(tmp_path / "clear.png")
    Image.fromarray(grey.astype(np.float32) / 7).save(tmp_path / "float.tif")
    with pytest.raises(PictureError, match="save it with 8 or 16 bits"):
        read_image(tmp_path / "float.tif")


def test_only_pictures_that_people_mean_are_listed(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.tif", "._a.tif", ".h.png", "Thumbs.db", "x.txt", ".univg-tmp-1-a.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_pictures(tmp_path)] == ["a.tif", "b.PNG"]
    with pytest.raises(DataError, match="does not exist"):
        list_pictures(tmp_path / "absent")


@pytest.mark.parametrize("bits", [8, 16])
def test_tiffs_in_which_white_is_0_are_turned_round(tmp_path, bits):
    """A file by hand: one strip, little-endian, Photometric 0 (WhiteIsZero) and 1."""
    shown = np.arange(48).reshape(6, 8) * (5 if bits == 8 else 1300)
    kind = np.uint8 if bits == 8 else np.uint16
    for photometric in (0, 1):
        stored = (2**bits - 1 - shown if photometric == 0 else shown).astype(kind)
        tags = [(256, 8), (257, 6), (258, bits), (259, 1), (262, photometric), (273, 8),
                (277, 1), (278, 6), (279, stored.nbytes)]  # fmt: skip
        fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        head = struct.pack("<2sHI", b"II", 42, 8 + stored.nbytes)
        data = head + stored.tobytes() + struct.pack("<H", len(tags)) + fields + bytes(4)
        path = tmp_path / f"{photometric}.tif"
        path.write_bytes(data)
        found = read_image(path)
        assert found.dtype == kind and np.array_equal(found, shown)
