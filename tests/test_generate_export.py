"""One suite that every exporter inherits: the real reader opens it, and nothing disturbs it.

A subclass names the exporter and reads its result with the tool that the layout is for. What is
read must be what was exported, pixel by pixel.
"""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import logging
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from export_sets import (
    NAMES,
    draw_image,
    draw_mask,
    export,
    hashes,
    kill_at_random,
    make_plain,
    make_run,
    start,
)
from PIL import Image

from univg.errors import DataError, ProblemReport, ResumeError
from univg.generate.export import EXPORTERS
from univg.generate.export_index import safe_key
from univg.images import read_image
from univg.manifest import read_rows
from univg.masks import read_mask
from univg.pairs import open_pairs

PAIRS = 14
NNUNET_CHECK = (
    "import sys; from nnunetv2.experiment_planning.verify_dataset_integrity import "
    "verify_dataset_integrity; verify_dataset_integrity(sys.argv[1], 1)"
)
Pixels = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB pairs with a manifest, two of each mask."""
    return make_run(tmp_path_factory.mktemp("made") / "run", PAIRS)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plain folders of odd names and sizes: grey, and grey of 16 bits, with fields of view."""
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: make_plain(folder / kind, kind) for kind in ("grey", "grey16")}


def expected(folder: Path) -> Pixels:
    """What every reader must find."""
    found = {}
    for pair in open_pairs(folder).pairs:
        pixels = {"image": read_image(pair.image), "mask": read_mask(pair.mask)}
        if pair.fov is not None:
            pixels["fov"] = read_mask(pair.fov)
        found[safe_key(pair.stem)] = pixels
    return found


def check_equal(found: Pixels, wanted: Pixels, roles: set[str]) -> None:
    assert set(found) == set(wanted)
    for key, pixels in wanted.items():
        assert set(found[key]) == roles & set(pixels)
        for role in found[key]:
            got = found[key][role]
            got = got if role == "image" else got > 0
            assert got.dtype == pixels[role].dtype, (key, role)
            np.testing.assert_array_equal(got, pixels[role], err_msg=f"{key} {role}")


class Suite:
    """What holds for every exporter."""

    to = ""
    roles = frozenset({"image", "mask", "fov"})

    def read(self, out: Path, split: str = "train") -> Pixels:
        """Open `out` with the reader the layout is for."""
        raise NotImplementedError

    def place(self, out: Path) -> Path:
        return out

    def test_the_real_reader_finds_every_pixel(self, made, tmp_path):
        export(made, tmp_path / "out", self.to)
        check_equal(self.read(tmp_path / "out"), expected(made), set(self.roles))

    @pytest.mark.parametrize("kind", ["grey", "grey16"])
    def test_odd_names_sizes_depths_and_fields_of_view(self, kind, kinds, tmp_path):
        export(kinds[kind], tmp_path / "out", self.to)
        check_equal(self.read(tmp_path / "out"), expected(kinds[kind]), set(self.roles))

    def test_real_pairs_stand_apart_and_equal_names_collide_nowhere(self, made, tmp_path):
        real = make_run(tmp_path / "shots", 3, first=500)
        export(made, tmp_path / "out", self.to, real=[real])
        check_equal(self.read(tmp_path / "out"), expected(made), set(self.roles))
        renamed = {f"real-{key}": pixels for key, pixels in expected(real).items()}
        check_equal(self.read(tmp_path / "out", "real"), renamed, set(self.roles))

    def test_killed_and_resumed_it_is_as_if_it_had_not_been(self, made, tmp_path):
        self.check_kills(made, tmp_path, kills=2, seed=1)

    @pytest.mark.slow
    def test_killed_more_often(self, made, tmp_path):
        self.check_kills(made, tmp_path, kills=25, seed=2)

    def check_kills(self, made: Path, tmp_path: Path, kills: int, seed: int) -> None:
        dice = random.Random(seed)
        words: list[object] = [made, "--to", self.to, "--shard-size", 2, "--validation", 0.3]
        whole, part = tmp_path / "whole", tmp_path / "part"
        changes = {"shard_size": 2, "validation": 0.3}
        export(made, whole, self.to, **changes)
        wanted = hashes(whole)
        done = rounds = 0
        while done < kills:
            rounds += 1
            out = tmp_path / f"part{rounds}"
            running = True
            while running and done < kills:
                workers = dice.choice([1, 1, 2])
                part = [*words, "--workers", workers]
                running = kill_at_random([made, out, *part[1:]], out, dice)
                done += running
                self.check_nothing_half_written(out, wanted)
            deadline = time.monotonic() + 30
            while True:
                try:
                    export(made, out, self.to, **changes)
                    break
                except ResumeError:  # the lock of a process that is just dying
                    assert time.monotonic() < deadline
            assert hashes(out) == wanted
            assert rounds < 10 * kills

    def check_nothing_half_written(self, out: Path, wanted: dict[str, str]) -> None:
        """Whatever has a final name has its final bytes (notes of the run apart)."""
        growing = {"manifest.jsonl"}
        for name, digest in hashes(out).items() if out.exists() else ():
            path = Path(name)
            hidden = any(part.startswith(".univg-") for part in path.parts)
            if not hidden and path.name not in growing:
                assert digest == wanted[name], name

    def test_workers_change_no_byte(self, made, tmp_path):
        export(made, tmp_path / "one", self.to)
        export(made, tmp_path / "two", self.to, workers=2)
        assert hashes(tmp_path / "two") == hashes(tmp_path / "one")

    def test_run_again_nothing_changes_and_what_was_lost_comes_back(self, made, tmp_path):
        out = tmp_path / "out"
        assert export(made, out, self.to).pairs == PAIRS
        wanted = hashes(out)
        again = export(made, out, self.to)
        assert (again.pairs, again.skipped) == (0, PAIRS)
        assert hashes(out) == wanted
        for path in list(self.place(out).rglob("*")):
            if path.suffix in {".png", ".tar", ".parquet"}:
                path.write_bytes(path.read_bytes()[:-9])
                break
        assert export(made, out, self.to).pairs > 0
        assert hashes(out) == wanted

    def test_another_set_or_another_layout_is_refused(self, made, kinds, tmp_path):
        out = tmp_path / "out"
        export(made, out, self.to)
        wanted = hashes(out)
        with pytest.raises(ResumeError, match="holds another run"):
            export(kinds["grey"], out, self.to)
        with pytest.raises(ResumeError, match="shard_size is 3 there and 4 here"):
            export(made, out, self.to, shard_size=4)
        assert hashes(out) == wanted

    def test_a_strangers_folder_is_left_alone(self, made, tmp_path):
        place = self.place(tmp_path / "out")
        place.mkdir(parents=True)
        (place / "thesis.txt").write_text("mine")
        with pytest.raises(ResumeError, match=r"thesis\.txt"):
            export(made, tmp_path / "out", self.to)
        assert [path.name for path in place.iterdir()] == ["thesis.txt"]

    def test_bad_files_are_told_together_before_anything_is_written(self, tmp_path):
        pairs = make_run(tmp_path / "pairs", 6)
        cut, gone = pairs / "images/fundus-000001-v00.png", pairs / "masks/fundus-000002-v01.png"
        cut.write_bytes(cut.read_bytes()[:-400])
        gone.unlink()
        with pytest.raises(ProblemReport) as caught:
            export(pairs, tmp_path / "out", self.to)
        assert "2 pairs" in str(caught.value) and "--skip-bad" in str(caught.value)
        told = {problem.path: problem.kind for problem in caught.value.problems}
        assert told == {cut.absolute(): "truncated", gone: "missing"}
        assert not (tmp_path / "out").exists()
        written = export(pairs, tmp_path / "out", self.to, skip_bad=True)
        assert (written.pairs, written.left_out) == (4, 2)
        assert len(self.read(tmp_path / "out")) == 4

    def test_an_empty_folder_is_one_line(self, tmp_path):
        for name in ("images", "masks"):
            (tmp_path / "pairs" / name).mkdir(parents=True)
        with pytest.raises(DataError, match="no picture"):
            export(tmp_path / "pairs", tmp_path / "out", self.to)
        (tmp_path / "pairs" / "manifest.jsonl").write_bytes(b"")
        with pytest.raises(DataError, match="no pair"):
            export(tmp_path / "pairs", tmp_path / "out", self.to)
        assert not (tmp_path / "out").exists()


class TestFolder(Suite):
    """Our own reader."""

    to = "folder"

    def read(self, out, split="train"):
        rows = {row["id"]: row["split"] for row in read_rows(out)}
        return {key: pixels for key, pixels in expected(out).items() if rows[key] == split}


class TestHf(Suite):
    """`datasets.load_dataset` on the folder."""

    to = "hf"

    def read(self, out, split="train"):
        datasets = pytest.importorskip("datasets")
        cache = out.with_name(f"cache-{time.monotonic_ns()}")
        said = io.StringIO()
        log = logging.StreamHandler(said)
        logging.getLogger("datasets").addHandler(log)
        try:
            table = datasets.load_dataset(str(out), split=split, cache_dir=str(cache))
        finally:
            logging.getLogger("datasets").removeHandler(log)
        assert not said.getvalue(), "the reader has a word to say about the card"
        return {row["id"]: _decoded(row) for row in table}


class TestImageFolder(TestHf):
    """The same reader, of single files."""

    to = "hf-imagefolder"


class TestWebDataset(Suite):
    """`webdataset.WebDataset` on the tars."""

    to = "webdataset"

    def read(self, out, split="train"):
        webdataset = pytest.importorskip("webdataset")
        lead = {"train": "pairs"}.get(split, split)
        tars = sorted(str(path) for path in out.glob(f"{lead}-*.tar"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves files open
            samples = list(webdataset.WebDataset(tars, shardshuffle=False))
            gc.collect()
        for sample in samples:
            assert json.loads(sample["json"])["id"] == sample["__key__"]
        return {
            sample["__key__"]: {
                name.removesuffix(".png"): np.asarray(Image.open(io.BytesIO(data)))
                for name, data in sample.items()
                if name.endswith(".png")
            }
            for sample in samples
        }


class TestNnunet(Suite):
    """The files as nnU-Net's reader of natural images takes them (it reads with scikit-image)."""

    to = "nnunet"
    roles = frozenset({"image", "mask"})

    def place(self, out):
        return out / "Dataset501_Vessels"

    def read(self, out, split="train"):
        from skimage import io as skio

        place = self.place(out)
        head = json.loads((place / "dataset.json").read_text())
        real = set()
        if (place / "splits_final.json").exists():
            folds = json.loads((place / "splits_final.json").read_text())
            assert len(folds) == 5
            assert all(fold["val"] and not set(fold["val"]) & set(fold["train"]) for fold in folds)
            real = {name for fold in folds for name in fold["val"]}
        cases = [path.name.removesuffix("_0000.png") for path in (place / "imagesTr").iterdir()]
        assert len(cases) == head["numTraining"]
        found = {}
        for case in cases:
            label = skio.imread(place / "labelsTr" / f"{case}.png")
            assert set(np.unique(label)) <= {0, 1} and label.ndim == 2
            image = skio.imread(place / "imagesTr" / f"{case}_0000.png")
            channels = 1 if image.ndim == 2 else image.shape[2]
            assert channels == len(head["channel_names"])
            if (case in real) == (split == "real"):
                found[case] = {"image": image, "mask": label}
        return found

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["made", "grey", "grey16", "rgb16", "mixed"])
    def test_nnunets_own_integrity_check_finds_no_fault(self, kind, made, kinds, tmp_path):
        if importlib.util.find_spec("nnunetv2") is None:
            pytest.skip("nnunetv2 is not installed")
        real = make_run(tmp_path / "shots", 3, first=500)
        folders = {"made": made, "mixed": made, **kinds}
        if kind == "rgb16":
            folders[kind] = make_plain(tmp_path / "deep", kind, fov=False)
        also = [kinds["grey"]] if kind == "mixed" else []
        real_too = [real] if kind in {"made", "mixed"} else []
        export(folders[kind], tmp_path / "out", self.to, also=also, real=real_too)
        words = [sys.executable, "-c", NNUNET_CHECK, str(self.place(tmp_path / "out"))]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        assert "verify_dataset_integrity Done" in said.stdout
        assert "rror:" not in said.stdout and "WARNING" not in said.stdout


class TestMonai(Suite):
    """`load_decathlon_datalist` where MONAI is installed; the JSON as it says otherwise."""

    to = "monai"

    def read(self, out, split="train"):
        key = {"train": "training", "real": "validation"}[split]
        found = {}
        for entry in _datalist(out / "dataset.json", key):
            label = np.asarray(Image.open(entry["label"]))
            assert set(np.unique(label)) <= {0, 1}
            pixels = {"image": np.asarray(Image.open(entry["image"])), "mask": label}
            if "fov" in entry:
                pixels["fov"] = np.asarray(Image.open(entry["fov"]))
            found[Path(entry["image"]).stem] = pixels
        return found


class TestPaper(Suite):
    """Folders side by side, and prompt.json as ControlNet's tutorial reads it."""

    to = "paper"
    roles = frozenset({"image", "mask"})

    def read(self, out, split="train"):
        place = out / "real" if split == "real" else out
        found = {}
        for line in (place / "prompt.json").read_text().splitlines():
            entry = json.loads(line)
            source, target = place / entry["source"], place / entry["target"]
            assert source.read_bytes() == (place / "masks" / source.name).read_bytes()
            assert target.read_bytes() == (place / "images" / target.name).read_bytes()
            assert entry["prompt"] in {"fundus image", "image"}
            found[target.stem] = {
                "image": np.asarray(Image.open(target)), "mask": np.asarray(Image.open(source)),
            }  # fmt: skip
        return found


def _decoded(row: dict[str, object]) -> dict[str, np.ndarray]:
    roles = [role for role in ("image", "mask", "fov") if row.get(role) is not None]
    return {role: np.asarray(row[role]) for role in roles}


def _datalist(path: Path, key: str) -> list[dict[str, str]]:
    try:
        from monai.data import load_decathlon_datalist
    except ImportError:
        entries = json.loads(path.read_text())[key]
        return [{k: str(path.parent / v) for k, v in entry.items()} for entry in entries]
    return load_decathlon_datalist(str(path), data_list_key=key)


def test_every_exporter_has_its_suite():
    suites = {Suite, *Suite.__subclasses__(), *TestHf.__subclasses__()}
    assert {suite.to for suite in suites} - {""} == set(EXPORTERS)


def test_the_names_of_the_test_folders_are_hard_enough():
    keys = [safe_key(name) for name in NAMES]
    assert len(set(keys)) == len(NAMES)
    assert not any("." in key or " " in key for key in keys)
    assert all(len(f"{key}_0000.png".encode()) < 200 for key in keys)
    assert (draw_image(draw_mask(1, 40, 40), 1, "grey16") > 255).any()


def test_the_command_line_says_where_things_are(made, tmp_path):
    process = start([made, tmp_path / "out", "--to", "paper", "--workers", 1])
    said, complained = process.communicate()
    assert process.returncode == 0, complained.decode()
    assert f"{PAIRS} pairs written" in said.decode()
    assert str(tmp_path / "out") in said.decode()
