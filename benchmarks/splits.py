"""The fixed halves and five-shot draws of the development data, shared by the benchmarks.

In: a folder with `CHASEDB1/`, `HRF/`, `OCTA500_3M/`, `XCA/`, each with `masks/*.png`. Out: which
masks are pool, which are test (cut by patient: both eyes on one side), and three draws of five
shots from the pool. The test half is for reporting alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Split:
    """One data set: its modality, which stems are in the pool, and the draws."""

    name: str
    modality: str
    in_pool: Callable[[str], bool]
    draws: dict[str, tuple[str, ...]]

    def masks(self, data: Path) -> dict[str, list[Path]]:
        """The mask files of the two halves."""
        folder = data / self.name / "masks"
        paths = sorted(folder.glob("*.png"))
        if not paths:
            raise SystemExit(f"{folder}: no masks there; give --data the folder of the data sets")
        pool = [path for path in paths if self.in_pool(path.stem)]
        return {"pool": pool, "test": [path for path in paths if path not in pool]}

    def shots(self, data: Path, draw: str) -> list[Path]:
        """The five masks of a draw."""
        return [data / self.name / "masks" / f"{stem}.png" for stem in self.draws[draw]]


def _eyes(*names: str) -> tuple[str, ...]:
    return tuple(f"Image_{name}" for name in names)


SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split(
            name="CHASEDB1",
            modality="fundus",
            in_pool=lambda stem: int(stem[6:8]) <= 7,
            draws={
                "A": _eyes("01L", "03R", "04L", "06R", "07L"),
                "B": _eyes("02L", "03L", "05R", "06L", "07R"),
                "C": _eyes("01R", "02R", "04R", "05L", "07L"),
            },
        ),
        Split(
            name="HRF",
            modality="fundus",
            in_pool=lambda stem: int(stem[:2]) <= 7,
            draws={
                "A": ("01_h", "05_h", "02_dr", "06_dr", "04_g"),
                "B": ("02_h", "06_h", "03_dr", "07_dr", "01_g"),
                "C": ("03_h", "07_h", "01_dr", "05_dr", "06_g"),
            },
        ),
        Split(
            name="OCTA500_3M",
            modality="octa",
            in_pool=lambda stem: int(stem) <= 10350,
            draws={
                "A": ("10301", "10310", "10320", "10330", "10345"),
                "B": ("10305", "10315", "10325", "10335", "10350"),
                "C": ("10303", "10312", "10322", "10340", "10348"),
            },
        ),
        Split(
            name="XCA",
            modality="coronary",
            in_pool=lambda stem: int(stem[1:]) <= 20,
            draws={
                "A": ("t01", "t05", "t09", "t14", "t19"),
                "B": ("t02", "t06", "t11", "t15", "t18"),
                "C": ("t03", "t08", "t12", "t16", "t20"),
            },
        ),
    )
}
