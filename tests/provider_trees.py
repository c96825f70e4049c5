"""Miniature copies of what providers hand out, drawn by the tests that use them."""

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from univg.cli import main

HEIGHT, WIDTH = 40, 48


def picture(seed: int, channels: int = 3) -> np.ndarray:
    shape = (HEIGHT, WIDTH, 3) if channels == 3 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def vessels(seed: int) -> np.ndarray:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    ends = np.random.default_rng(seed).integers(4, 36, 4)
    cv2.line(canvas, (int(ends[0]), 2), (int(ends[1]), 37), 1, 3)
    cv2.line(canvas, (2, int(ends[2])), (45, int(ends[3])), 1, 1)
    return canvas.astype(bool)


def disc() -> np.ndarray:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(canvas, (24, 20), 18, 1, -1)
    return canvas.astype(bool)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Save in the form that the ending asks for; `.gz` is compressed on top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if path.suffix == ".gz":
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PPM")
        path.write_bytes(gzip.compress(stream.getvalue()))
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def make_drive(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for half, stems in (("training", ("21", "22")), ("test", ("01", "02"))):
        for stem in stems:
            image, mask = picture(int(stem)), vessels(int(stem))
            place = root / half
            save(place / "images" / f"{stem}_{half}.tif", image, compression="tiff_lzw")
            save(place / "mask" / f"{stem}_{half}_mask.gif", disc())
            if half == "training":
                save(place / "1st_manual" / f"{stem}_manual1.gif", mask)
            wanted[stem] = (image, mask if half == "training" else None)
    return wanted


def make_chasedb1(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    for seed, stem in enumerate(("Image_01L", "Image_01R", "Image_02L")):
        save(root / f"{stem}.jpg", picture(seed), quality=90)
        Image.fromarray(vessels(seed)).save(root / f"{stem}_1stHO.png")
        Image.fromarray(vessels(seed + 9)).save(root / f"{stem}_2ndHO.png")
    return {
        stem: (np.asarray(Image.open(root / f"{stem}.jpg")), vessels(seed))
        for seed, stem in enumerate(("Image_01L", "Image_01R", "Image_02L"))
    }


def make_hrf(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for seed, name in enumerate(("01_dr.JPG", "01_g.jpg", "01_h.jpg")):
        path = save(root / "images" / name, picture(seed), format="JPEG")
        save(root / "manual1" / f"{path.stem}.tif", vessels(seed))
        fov = np.repeat(disc()[..., None], 3, axis=2)
        save(root / "mask" / f"{path.stem}_mask.tif", fov)
        wanted[path.stem] = (np.asarray(Image.open(path)), vessels(seed))
    return wanted


def make_stare(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for seed in (1, 2, 44):
        stem = f"im{seed:04d}"
        save(root / "stare-images" / f"{stem}.ppm.gz", picture(seed))
        save(root / "labels-ah" / f"{stem}.ah.ppm.gz", np.repeat(vessels(seed)[..., None], 3, 2))
        wanted[stem] = (picture(seed), vessels(seed))
    return wanted


def make_aria(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for seed, kind in enumerate("acd"):
        stem = f"aria_{kind}_{seed}_1"
        save(root / f"aria_{kind}_markups" / f"{stem}.tif", picture(seed))
        save(root / f"aria_{kind}_markup_vessel" / f"{stem}_BDP.tif", vessels(seed))
        wanted[stem] = (picture(seed), vessels(seed))
    return wanted


def make_fives(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for half, shift in (("train", 0), ("test", 10)):
        for stem in ("1_A", "2_D"):
            seed = shift + int(stem[0])
            save(root / half / "Original" / f"{stem}.png", picture(seed))
            save(root / half / "Ground truth" / f"{stem}.png", vessels(seed))
            wanted[f"{half}_{stem}"] = (picture(seed), vessels(seed))
    return wanted


def make_octa500(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for seed in (1, 2):
        stem = f"1000{seed}"
        labels = np.where(vessels(seed), 255, 0).astype(np.uint8)
        labels[30:36, 30:36] = 100
        save(root / "OCTA_6M/Projection Maps/OCTA(ILM_OPL)" / f"{stem}.bmp", picture(seed, 1))
        save(root / "OCTA_6M/GroundTruth" / f"{stem}.bmp", labels)
        wanted[stem] = (picture(seed, 1), labels == 255)
    return wanted


def make_generic(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    wanted = {}
    for seed, stem in enumerate("abc"):
        save(root / "images" / f"{stem}.png", picture(seed))
        save(root / "masks" / f"{stem}_mask.png", vessels(seed))
        wanted[stem] = (picture(seed), vessels(seed))
    return wanted


MAKERS: dict[str, Callable[[Path], dict[str, tuple[np.ndarray, np.ndarray | None]]]] = {
    "drive": make_drive,
    "chasedb1": make_chasedb1,
    "hrf": make_hrf,
    "stare": make_stare,
    "aria": make_aria,
    "fives": make_fives,
    "octa500": make_octa500,
    "generic": make_generic,
}


def pack_zip(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def pack_tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    return path


def pack_nested(folder: Path, path: Path) -> Path:
    """One archive for each top folder, as DRIVE and STARE come, and a zip around them."""
    inner = path.with_suffix("")
    inner.mkdir()
    for number, part in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        pack = pack_tar if number % 2 else pack_zip
        own = inner / "own"
        shutil.copytree(part, own / part.name)
        pack(own, inner / f"{part.name}.{'tar' if number % 2 else 'zip'}")
        shutil.rmtree(own)
    for loose in (p for p in folder.iterdir() if p.is_file()):
        shutil.copy(loose, inner)
    return pack_zip(inner, path)


PACKERS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: folder,
    "zip": lambda folder: pack_zip(folder, folder.parent / "p.zip"),
    "tar.gz": lambda folder: pack_tar(folder, folder.parent / "p.tar.gz"),
    "nested": lambda folder: pack_nested(folder, folder.parent / "n.zip"),
}


def prepare(*words: object) -> int:
    return main(["data", "prepare", *map(str, words)])


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
