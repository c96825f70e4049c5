"""Everything a user can get wrong: one clear line, exit code 2, and nothing lost.

Each case prepares a folder and a command line. After the command, what was there before must be
there still, byte for byte, and no output must have been begun.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from univg.cli import COMMANDS, main
from univg.config import to_plain
from univg.modalities import find_modality

Case = Callable[[Path], list[object]]
QUICK = ["--size", "64", "64", "--count", "2", "--workers", "1"]
FITTING = ["--size", "64", "--rounds", "0", "--masks", "4", "--candidates", "4", "--workers", "1"]


def synth(*words: object) -> list[object]:
    return ["sca", "synth", *QUICK, *words]


def fit(*words: object, real: str = "real") -> list[object]:
    return ["sca", "fit", "--real", real, *FITTING, *words]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every file below `folder` with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three masks."""
    out = tmp_path_factory.mktemp("finished") / "run"
    words = ["--size", "64", "64", "--count", "3", "--workers", "1", "--seed", "7"]
    assert main(["sca", "synth", "--out", str(out), *words]) == 0
    return out


@pytest.fixture
def place(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a finished run `run`, its masks alone in `real`, and odds and ends."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(finished / "masks", tmp_path / "real")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("notes\n")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_refusal(place: Path, words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    before = snapshot(place)
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    assert code == 2
    assert shown.err.startswith("univg: ")
    assert "Traceback" not in shown.err and "│" not in shown.err
    after = snapshot(place)
    changed = [name for name in before | after if before.get(name, 0) != after.get(name, 0)]
    assert not changed
    return shown.err


# Command lines that are wrong in themselves.

LINES: dict[str, tuple[list[object], str]] = {
    "unknown command": (["sca", "synthesize"], "univg sca synth"),
    "unknown group": (["scaa", "synth"], "not a command"),
    "option before command": (["--out", "x", "sca"], "not a command"),
    "no out": (["sca", "synth"], "--out"),
    "unknown option": (synth("--out", "new", "--colour", "red"), "--colour"),
    "misspelt option": (synth("--out", "new", "--cuont", "3"), "--cuont"),
    "stray word": (synth("--out", "new", "--seed", "3", "stray"), "stray"),
    "option without value": (synth("--out", "new", "--seed"), "seed"),
    "word for a number": (synth("--out", "new", "--count", "many"), "--count"),
    "fraction for a count": (synth("--out", "new", "--count", "2.5"), "--count"),
    "count zero": (synth("--out", "new", "--count", "0"), "count is 0"),
    "count negative": (synth("--out", "new", "--count", "-3"), "count is -3"),
    "count huge": (synth("--out", "new", "--count", "999999999999"), "count is 999999999999"),
    "first negative": (synth("--out", "new", "--first", "-1"), "first is -1"),
    "seed negative": (synth("--out", "new", "--seed", "-1"), "seed is -1"),
    "seed huge": (synth("--out", "new", "--seed", str(2**63)), "seed is"),
    "size tiny": (synth("--out", "new", "--size", "3", "64"), "size.0 is 3"),
    "size huge": (synth("--out", "new", "--size", "64", "99999"), "size.1 is 99999"),
    "size of one number": (["sca", "synth", "--out", "new", "--size", "64"], "--size"),
    "workers zero": (synth("--out", "new", "--workers", "0"), "workers is 0"),
    "workers huge": (synth("--out", "new", "--workers", "100000"), "workers is 100000"),
    "exponent zero": (synth("--out", "new", "--exponent", "0"), "exponent is 0.0"),
    "exponent not a number": (synth("--out", "new", "--exponent", "nan"), "exponent is nan"),
    "strength without real": (synth("--out", "new", "--strength", "0.5"), "--real"),
    "strength above one": (
        synth("--out", "new", "--real", "real", "--strength", "1.5"),
        "strength",
    ),
    "strength not a number": (
        synth("--out", "new", "--real", "real", "--strength", "nan"),
        "strength is nan",
    ),
    "unknown modality": (synth("--out", "new", "--modality", "fundis"), "did you mean fundus?"),
    "modality in capitals": (synth("--out", "new", "--modality", "FUNDUS"), "fundus"),
    "modality twice": (synth("--out", "new", "--modality", "fundus", "fundus"), "once only"),
    "no modality": (synth("--out", "new", "--modality"), "modality"),
    "unknown layer": (synth("--out", "new", "--layers", "bones"), "bones"),
    "card missing": (synth("--out", "new", "--modality", "none.yaml"), "none.yaml"),
    "card is a folder": (synth("--out", "new", "--modality", "dir.yaml"), "dir.yaml"),
    "config without value": (synth("--out", "new", "--config"), "--config"),
    "config missing": (synth("--out", "new", "--config", "none.yaml"), "none.yaml"),
    "config is a folder": (synth("--out", "new", "--config", "empty"), "empty"),
    "out is a file": (synth("--out", "file.txt"), "file.txt"),
    "out below a file": (synth("--out", "file.txt/below"), "file.txt"),
    "out holds other files": (synth("--out", "foreign"), "thesis.txt"),
    "out is the folder of real masks": (synth("--out", "real", "--real", "real"), "real"),
    "out is another run": (synth("--out", "run", "--seed", "8"), "seed is 7 there and 8 here"),
    "real missing": (synth("--out", "new", "--real", "none"), "none: does not exist"),
    "real is a file": (synth("--out", "new", "--real", "file.txt"), "file.txt"),
    "real empty": (synth("--out", "new", "--real", "empty"), "empty"),
    "real without pictures": (synth("--out", "new", "--real", "foreign"), "no picture"),
    "murray of nothing": (["sca", "murray"], "PATH"),
    "murray missing": (["sca", "murray", "none"], "none: does not exist"),
    "murray of a file": (["sca", "murray", "file.txt"], "file.txt"),
    "murray empty": (["sca", "murray", "empty"], "empty"),
    "murray exponent": (["sca", "murray", "real", "--exponent", "0"], "exponent"),
    "murray exponent negative": (["sca", "murray", "real", "--exponent", "-2"], "exponent"),
    "murray csv below a file": (
        ["sca", "murray", "real", "--csv", "file.txt/x.csv"],
        "file.txt",
    ),
    "score one folder": (["sca", "score", "--real", "real"], "--synth"),
    "score missing": (["sca", "score", "--real", "real", "--synth", "none"], "none"),
    "score empty": (["sca", "score", "--real", "empty", "--synth", "real"], "empty"),
    "score size": (
        ["sca", "score", "--real", "real", "--synth", "run", "--size", "0"],
        "size is 0",
    ),
    "score draws": (["sca", "score", "--real", "real", "--synth", "run", "--draws", "-1"], "draws"),
    "score n": (["sca", "score", "--real", "real", "--synth", "run", "--n", "0"], "n is 0"),
    "show missing": (["sca", "show", "--synth", "none"], "none"),
    "show empty": (["sca", "show", "--synth", "empty"], "empty"),
    "show count": (["sca", "show", "--synth", "run", "--count", "0"], "count is 0"),
    "show below a file": (["sca", "show", "--synth", "run", "--out", "file.txt/x"], "file.txt"),
    "fit missing": (["sca", "fit", "--real", "none", "--out", "card.yaml"], "none"),
    "fit without out": (["sca", "fit", "--real", "real"], "--out"),
    "fit unknown modality": (
        ["sca", "fit", "--real", "real", "--out", "card.yaml", "--like", "fundis"],
        "fundus",
    ),
    "fit empty": (["sca", "fit", "--real", "empty", "--out", "card.yaml"], "empty"),
    "fit out is no card": (fit("--out", "card.json"), "NAME.yaml"),
    "fit out without a name": (fit("--out", ".yaml"), "NAME.yaml"),
    "fit out is a folder": (fit("--out", "dir.yaml"), "dir.yaml: is a folder"),
    "fit out is a folder to overwrite": (
        fit("--out", "dir.yaml", "--overwrite"),
        "dir.yaml: is a folder",
    ),
    "fit out below a file": (fit("--out", "file.txt/card.yaml"), "file.txt"),
    "fit out is no name for a card": (fit("--out", "(mine).yaml"), "(mine)"),
    "fit out is too long a name": (fit("--out", f"{'n' * 61}.yaml"), "60"),
    "fit out is a card that is there": (fit("--out", "old.yaml"), "--overwrite"),
    "fit real is a file": (fit("--out", "card.yaml", real="file.txt"), "file.txt"),
    "fit real without pictures": (fit("--out", "card.yaml", real="foreign"), "no picture"),
    "fit to a card that is missing": (
        fit("--out", "card.yaml", "--like", "none.yaml"),
        "none.yaml",
    ),
    "fit rounds negative": (fit("--out", "card.yaml", "--rounds", "-1"), "rounds is -1"),
    "fit rounds many": (fit("--out", "card.yaml", "--rounds", "201"), "rounds is 201"),
    "fit candidates": (fit("--out", "card.yaml", "--candidates", "1"), "candidates is 1"),
    "fit masks": (fit("--out", "card.yaml", "--masks", "3"), "masks is 3"),
    "fit size": (fit("--out", "card.yaml", "--size", "8"), "size is 8"),
    "fit seed": (fit("--out", "card.yaml", "--seed", "-1"), "seed is -1"),
    "fit workers": (fit("--out", "card.yaml", "--workers", "0"), "workers is 0"),
    "fit roots": (fit("--out", "card.yaml", "--roots", "centre"), "--roots"),
    "fit unknown option": (fit("--out", "card.yaml", "--strength", "1"), "--strength"),
    "show is no PNG": (["sca", "show", "--synth", "run", "--out", "sheet.jpg"], ".png"),
    "show out is a folder": (["sca", "show", "--synth", "run", "--out", "dir.png"], "dir.png"),
    "show out is a mask": (
        ["sca", "show", "--synth", "real", "--out", "real/fundus-000000.png"],
        "is one of the masks",
    ),
    "show real missing": (["sca", "show", "--synth", "run", "--real", "none"], "none"),
    "show real empty": (["sca", "show", "--synth", "run", "--real", "empty"], "empty"),
    "show of a file": (["sca", "show", "--synth", "file.txt"], "file.txt"),
    "show many": (["sca", "show", "--synth", "run", "--count", "401"], "count is 401"),
    "show seed": (["sca", "show", "--synth", "run", "--seed", "-1"], "seed is -1"),
    "show tile": (["sca", "show", "--synth", "run", "--tile-px", "8"], "tile_px is 8"),
    "data show unknown": (["data", "show", "drve"], "drive"),
    "data list unknown modality": (["data", "list", "--modality", "xray"], "xray"),
    "data check missing": (["data", "check", "none"], "none: does not exist"),
    "data check of a file": (["data", "check", "file.txt"], "file.txt"),
    "data check empty": (["data", "check", "empty"], "empty"),
    "data check of masks without images": (["data", "check", "real"], "images"),
    "data prepare unknown": (
        ["data", "prepare", "drve", "--from", "real", "--out", "new"],
        "drive",
    ),
    "data prepare missing": (
        ["data", "prepare", "drive", "--from", "none", "--out", "new"],
        "none",
    ),
    "data prepare from a text file": (
        ["data", "prepare", "drive", "--from", "file.txt", "--out", "new"],
        "file.txt",
    ),
    "data prepare from another layout": (
        ["data", "prepare", "drive", "--from", "foreign", "--out", "new"],
        "foreign",
    ),
    "data split missing": (["data", "split", "none"], "none"),
    "data split shots": (["data", "split", "real", "--shots", "0"], "shots is 0"),
    "data build unknown": (
        ["data", "build", "univg-59k", "--root", "real", "--out", "new"],
        "univg-58k",
    ),
    "data build missing": (
        ["data", "build", "univg-58k", "--root", "none", "--out", "new"],
        "none",
    ),
}


def exists(words: list[object]) -> bool:
    """Whether the command of `words` has its module yet; wrong commands count as there."""
    name = " ".join(str(word) for word in words[:2])
    return name not in COMMANDS or importlib.util.find_spec(COMMANDS[name].module) is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [pytest.param(*case, id=name) for name, case in LINES.items() if exists(case[0])],
)
def test_a_wrong_command_line(words, said, place, capsys):
    (place / "dir.yaml").mkdir()
    (place / "dir.png").mkdir()
    (place / "old.yaml").write_text("years: of work\n")
    assert said in check_refusal(place, words, capsys)


# Configuration files and cards.


def config(data: bytes) -> Case:
    def prepare(place: Path) -> list[object]:
        (place / "config.yaml").write_bytes(data)
        return synth("--out", "new", "--config", "config.yaml")

    return prepare


def card(change: Callable[[dict], object] | bytes) -> Case:
    def prepare(place: Path) -> list[object]:
        values = to_plain(find_modality("fundus"))
        if isinstance(change, bytes):
            (place / "card.yaml").write_bytes(change)
        else:
            change(values)
            (place / "card.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return synth("--out", "new", "--modality", "card.yaml")

    return prepare


def putting(path: str, value: object) -> Callable[[dict], object]:
    """Return a change that puts `value` at the dotted `path`."""

    def change(values: dict) -> None:
        *way, last = path.split(".")
        for key in way:
            values = values[int(key)] if isinstance(values, list) else values.setdefault(key, {})
        values[last] = value

    return change


YAML: dict[str, tuple[Case, str]] = {
    "config is a list": (config(b"- out\n- count\n"), "not a list"),
    "config is a sentence": (config(b"make masks\n"), "not a str"),
    "config is damaged": (config(b"count: [1, 2\nseed: }\n"), "is not YAML"),
    "config with tabs": (config(b"count: 2\n\tseed: 3\n"), "is not YAML"),
    "config in Latin-1": (config("out: Gefä".encode("latin-1") + b"\xff\n"), "config.yaml"),
    "config in UTF-16": (config("count: 2\n".encode("utf-16")), "config.yaml"),
    "config is binary": (config(bytes(range(256))), "config.yaml"),
    "config with an unknown name": (config(b"cuont: 3\n"), "did you mean count?"),
    "config with wrong types": (config(b"count: many\nsize: 64\n"), "count is 'many'"),
    "config out of range": (config(b"strength: 2\n"), "strength is 2"),
    "config that would run code": (config(b"out: !!python/name:os.system\n"), "is not YAML"),
    "config names a number": (config(b"3: 4\n"), "config.yaml"),
    "card is empty": (card(b""), "name is missing"),
    "card is a list": (card(b"- fundus\n"), "not a list"),
    "card in Latin-1": (card("name: Äther\n".encode("latin-1")), "card.yaml"),
    "card without a title": (card(lambda c: c.pop("title")), "title is missing"),
    "card without growth": (card(lambda c: c.pop("sca")), "sca is missing"),
    "card with an unknown name": (card(putting("colour", "red")), "colour is not a setting"),
    "card with an unknown name inside": (card(putting("sca.stagez", [])), "did you mean stages?"),
    "card with an unknown name deep inside": (
        card(putting("sca.widths.exponnent", 2)),
        "did you mean exponent?",
    ),
    "card with an unknown point": (card(putting("sca.roots", ["nose"])), "`nose`"),
    "card with a reversed range": (
        card(putting("sca.widths.exponent", [3, 2])),
        "the low end is above the high",
    ),
    "card with a negative length": (card(putting("sca.course.stub_px", -4)), "sca"),
    "card with a share above one": (card(putting("sca.mirror", 2)), "mirror is 2"),
    "card with a range of three": (card(putting("sca.widths.exponent", [1, 2, 3])), "exponent"),
    "card with a word for a number": (card(putting("sca.max_nodes", "lots")), "max_nodes"),
    "card with an unknown kind of guide": (
        card(putting("sca.guides", [{"kind": "spiral"}])),
        "guides.0.kind",
    ),
    "card with a reversed count": (
        card(putting("sca.guides", [{"kind": "fan", "origin": "disc", "count": [4, 2]}])),
        "count",
    ),
    "card with nothing to grow from": (
        card(lambda c: c["sca"].update(guides=[], roots=[])),
        "card",
    ),
    "card whose name is a path": (card(putting("name", "../../elsewhere")), "name"),
    "card whose name is empty": (card(putting("name", "")), "name"),
    "card with a point not a number": (
        card(putting("sca.points.disc.at", [float("nan"), 0.5])),
        "nan",
    ),
    "card with an endless length": (card(putting("sca.course.stub_px", float("inf"))), "inf"),
}


@pytest.mark.parametrize(
    ("prepare", "said"), [pytest.param(*case, id=name) for name, case in YAML.items()]
)
def test_a_wrong_yaml_file(prepare, said, place, capsys):
    assert said in check_refusal(place, prepare(place), capsys)


# Real masks that cannot be followed.


def one_mask(name: str, write: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Put a bad file `name` beside the good masks of `real`."""

    def prepare(place: Path) -> Path:
        write(place / "real" / name)
        return place / "real"

    return prepare


def cut(path: Path) -> None:
    good = next(path.parent.glob("fundus-*.png")).read_bytes()
    path.write_bytes(good[: len(good) // 2])


def flip_bytes(path: Path) -> None:
    good = bytearray(next(path.parent.glob("fundus-*.png")).read_bytes())
    good[60:90] = bytes(30)
    path.write_bytes(good)


def paint(value: int, shape: tuple[int, ...] = (64, 64)) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), np.full(shape, value, np.uint8))


BAD_MASKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut": ("bad.png", cut),
    "damaged": ("bad.png", flip_bytes),
    "text": ("bad.png", lambda path: path.write_text("no picture")),
    "of no bytes": ("bad.png", lambda path: path.touch()),
    "all black": ("bad.png", paint(0)),
    "all white": ("bad.png", paint(255)),
    "one black pixel": ("bad.png", paint(0, (1, 1))),
    "text as tif": ("bad.tif", lambda path: path.write_text("II*\0 but no more")),
}


@pytest.mark.parametrize(
    ("name", "write"), [pytest.param(*case, id=name) for name, case in BAD_MASKS.items()]
)
@pytest.mark.parametrize("command", ["synth", "fit"])
def test_a_bad_real_mask_is_named(name, write, command, place, capsys):
    one_mask(name, write)(place)
    if command == "synth":
        words = synth("--out", "new", "--real", "real")
    else:
        words = ["sca", "fit", "--real", "real", "--out", "card.yaml"]
    said = check_refusal(place, words, capsys)
    assert name in said


def test_all_bad_masks_are_named_in_one_report(place, capsys):
    for number, (name, write) in enumerate(BAD_MASKS.values()):
        if name == "bad.png":
            write(place / "real" / f"bad-{number}.png")
    said = check_refusal(place, synth("--out", "new", "--real", "real"), capsys)
    assert said.count("bad-") == 7


@pytest.mark.parametrize("command", ["murray", "score"])
@pytest.mark.parametrize("kind", ["cut", "text", "of no bytes"])
def test_a_bad_mask_is_named_when_measured(command, kind, place, capsys):
    name, write = BAD_MASKS[kind]
    write(place / "real" / name)
    words: list[object] = ["sca", "murray", "real"]
    if command == "score":
        words = ["sca", "score", "--real", "real", "--synth", "run", "--out", "scores.json"]
    assert name in check_refusal(place, words, capsys)


def test_a_link_to_a_mask_that_is_gone_is_named(place, capsys):
    (place / "real" / "bad.png").symlink_to("nowhere.png")
    said = check_refusal(place, synth("--out", "new", "--real", "real"), capsys)
    assert "bad.png" in said


def test_a_grey_mask_is_refused_where_asked(place, capsys):
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    cv2.imwrite(str(place / "real" / "ramp.png"), ramp)
    words = synth("--out", "new", "--real", "real", "--strict")
    assert "ramp.png" in check_refusal(place, words, capsys)


def test_masks_with_nothing_to_follow(place, capsys):
    speck = np.zeros((64, 64), np.uint8)
    speck[30, 30] = 255
    only = place / "specks"
    only.mkdir()
    cv2.imwrite(str(only / "speck.png"), speck)
    said = check_refusal(place, synth("--out", "new", "--real", "specks"), capsys)
    assert "no vessel long enough" in said


@pytest.mark.parametrize("only", ["one", "specks"])
def test_masks_too_few_or_too_empty_to_fit(only, place, capsys):
    (place / only).mkdir()
    if only == "one":
        shutil.copy(next((place / "real").iterdir()), place / only)
    else:
        speck = np.zeros((64, 64), np.uint8)
        speck[30, 30] = 255
        for name in "ab":
            cv2.imwrite(str(place / only / f"{name}.png"), speck)
    said = check_refusal(place, fit("--out", "card.yaml", real=only), capsys)
    assert only in said


def test_a_grey_mask_is_refused_for_fitting_where_asked(place, capsys):
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    cv2.imwrite(str(place / "real" / "ramp.png"), ramp)
    said = check_refusal(place, fit("--out", "card.yaml", "--strict"), capsys)
    assert "ramp.png" in said


# Output folders that somebody has touched.


def edit_manifest(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        lines = (run / "manifest.jsonl").read_text().splitlines()
        (run / "manifest.jsonl").write_text("\n".join(change(lines)) + "\n")

    return edit


def edit_row(**values: object) -> Callable[[Path], None]:
    return edit_manifest(lambda lines: [json.dumps(json.loads(lines[0]) | values), *lines[1:]])


def without(name: str) -> Callable[[Path], None]:
    def edit(lines: list[str]) -> list[str]:
        row = json.loads(lines[0])
        row.pop(name)
        return [json.dumps(row), *lines[1:]]

    return edit_manifest(edit)


EDITS: dict[str, Callable[[Path], None]] = {
    "bad JSON": edit_manifest(lambda lines: [lines[0][:-4], *lines[1:]]),
    "an empty line": edit_manifest(lambda lines: [lines[0], "", *lines[1:]]),
    "a list": edit_manifest(lambda lines: ["[1, 2]", *lines]),
    "a row twice": edit_manifest(lambda lines: [lines[0], *lines]),
    "an index that is a word": edit_row(index="first"),
    "no index": without("index"),
    "no mask": without("mask"),
    "no hash": without("sha256"),
    "a mask outside the folder": edit_row(mask="../../elsewhere.png"),
    "a mask that is a number": edit_row(mask=3),
    "another hash": edit_row(sha256="0" * 64),
    "binary": lambda run: (run / "manifest.jsonl").write_bytes(b"\xff\x00\xfe\n" * 3) and None,
    "run.json is damaged": lambda run: (run / "run.json").write_text("{") and None,
    "run.json is a list": lambda run: (run / "run.json").write_text("[]") and None,
    "run.json is empty": lambda run: (run / "run.json").write_text("") and None,
    "run.json is gone": lambda run: (run / "run.json").unlink(),
    "another version": lambda run: (run / "run.json").write_text(
        (run / "run.json").read_text().replace('"version": "', '"version": "9.')
    ) and None,
}  # fmt: skip


@pytest.mark.parametrize("edit", [pytest.param(e, id=name) for name, e in EDITS.items()])
def test_a_run_folder_that_was_edited(edit, place, capsys):
    edit(place / "run")
    words = ["sca", "synth", "--size", 64, 64, "--count", 3, "--workers", 1, "--seed", 7]
    check_refusal(place, [*words, "--out", "run"], capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anything")
@pytest.mark.parametrize("kind", ["real", "mask", "out", "config"])
def test_what_may_not_be_read_or_written(kind, place, capsys):
    locked = {
        "real": place / "real",
        "mask": next((place / "real").iterdir()),
        "out": place / "empty",
        "config": place / "file.txt",
    }[kind]
    words = {
        "real": synth("--out", "new", "--real", "real"),
        "mask": synth("--out", "new", "--real", "real"),
        "out": synth("--out", "empty"),
        "config": synth("--out", "new", "--config", "file.txt"),
    }[kind]
    mode = locked.stat().st_mode
    locked.chmod(0o000 if kind != "out" else 0o500)
    try:
        code = main([str(word) for word in words])
        said = capsys.readouterr().err
    finally:
        locked.chmod(mode)
    assert code == 2 and said.startswith("univg: ") and locked.name in said


def test_masks_of_odd_sizes_are_no_mistake(place):
    """What looks odd and is right must not be refused: other sizes, colours, one good mask."""
    odd = place / "odd"
    odd.mkdir()
    for number, shape in enumerate([(97, 31), (40, 200), (128, 128)]):
        mask = np.zeros(shape, np.uint8)
        cv2.line(mask, (0, shape[0] // 2), (shape[1], shape[0] // 3), 1 + 254 * (number % 2), 3)
        cv2.imwrite(str(odd / f"{number}.png"), mask)
    assert main([str(word) for word in synth("--out", "new", "--real", "odd")]) == 0
    assert len(list((place / "new" / "masks").iterdir())) == 2


def test_there_are_many_cases():
    assert len(LINES) + len(YAML) + len(BAD_MASKS) + len(EDITS) > 100
