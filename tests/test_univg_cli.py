"""The `univg` command: light to start, helpful when wrong, and no surprise in what it writes."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import statistics
import subprocess
import sys
import time
import warnings

import cv2
import numpy as np
import pytest
import yaml

from univg import __version__
from univg.cli import COMMANDS, GROUPS, main, overview

HEAVY = ("numba", "cv2", "torch", "scipy", "skimage", "pydantic", "tyro", "numpy", "PIL", "rich")
SYNTH = ["sca", "synth"]


def existing(name: str) -> bool:
    return importlib.util.find_spec(COMMANDS[name].module) is not None


READY = [name for name in COMMANDS if existing(name)]


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_help_answers_at_once():
    code = "import sys; from univg.cli import main; sys.exit(main(['--help']))"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize("words", [["--help"], ["sca"], ["--version"], ["nonsense"]])
def test_nothing_heavy_is_imported_for_little_things(words):
    code = (
        "import sys, contextlib, io\n"
        "from univg.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):"
        f" main({words!r})\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run_python(code).split() == []


@pytest.mark.parametrize("words", [["--help"], ["--print-config", "--out", "x"]])
def test_help_of_a_command_needs_no_numerics(words):
    code = (
        "import sys, contextlib, io\n"
        "from univg.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({[*SYNTH, *words]!r})\n"
        "print(*[n for n in ('numba', 'cv2', 'torch', 'scipy', 'skimage') if n in sys.modules])"
    )
    assert run_python(code).split() == []


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_every_command(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"univg {name}" in shown and command.summary in shown


@pytest.mark.parametrize("group", GROUPS)
def test_overview_of_a_group(group, capsys):
    assert main([group]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == overview(group).strip()
    for name in COMMANDS:
        assert (f"univg {name} " in shown) == (name.split()[0] == group)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, capsys):
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"univg {__version__}\n"


@pytest.mark.parametrize("name", READY)
def test_help_of_each_command_mentions_the_defaults(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    module = importlib.import_module(COMMANDS[name].module)
    fields = dataclasses.fields(getattr(module, COMMANDS[name].settings_name))
    optional = [
        f
        for f in fields
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    ]
    own = ("--config", "--print-config", "--dry-run")
    assert all(flag in shown for flag in own)
    told = shown.count("(default:") + shown.count("(repeatable)")
    assert told >= len(optional) + len(own)


@pytest.mark.parametrize("name", READY)
def test_each_command_has_what_the_table_promises(name):
    module = importlib.import_module(COMMANDS[name].module)
    assert dataclasses.is_dataclass(getattr(module, COMMANDS[name].settings_name))
    assert callable(getattr(module, COMMANDS[name].run_name))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sca", "synht"], "did you mean `univg sca synth`?"),
        (["sac"], "did you mean `univg sca`?"),
        (["data", "chek", "x"], "did you mean `univg data check`?"),
        (["qqqqqq"], "`univg --help` lists them"),
        (["--nonsense"], "`univg --help` lists them"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(words, hint, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("univg: ") and hint in shown.err
    assert shown.out == ""


def test_print_config_read_back_gives_the_same(tmp_path, capsys):
    words = ["--out", str(tmp_path / "a b"), "--count", "3", "--size", "37", "201"]
    words += ["--seed", "9", "--exponent", "3.5", "--modality", "fundus", "octa", "--workers", "1"]
    assert main([*SYNTH, *words, "--print-config"]) == 0
    first = capsys.readouterr().out
    path = tmp_path / "config.yaml"
    path.write_text(first, encoding="utf-8")
    assert main([*SYNTH, "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    values = yaml.safe_load(first)
    assert (values["size"], values["seed"], values["exponent"]) == ([37, 201], 9, 3.5)
    assert main([*SYNTH, "--config", str(path), "--seed", "10", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {**values, "seed": 10}


@pytest.mark.parametrize("flag", ["--dry-run", "--print-config"])
def test_flags_that_only_show_write_nothing(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SYNTH, "--out", "new/deep", "--count", "7", flag]) == 0
    assert list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().out
    assert "count: 7" in shown
    if flag == "--dry-run":
        assert "7 masks of 512 × 512 px" in shown


def test_dry_run_refuses_what_the_run_would_refuse(tmp_path, capsys):
    words = [*SYNTH, "--out", str(tmp_path / "o"), "--modality", "nothing", "--dry-run"]
    assert main(words) == 2
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    import univg.sca.synth

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(univg.sca.synth, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*SYNTH, "--out", str(tmp_path / "o")])


def test_ctrl_c_is_130_and_one_line(monkeypatch, tmp_path, capsys):
    import univg.sca.synth

    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(univg.sca.synth, "run", stopped)
    assert main([*SYNTH, "--out", str(tmp_path / "o")]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_too_long_is_one_line(tmp_path, capsys):
    assert main(["sca", "synth", "--out", str(tmp_path / ("x" * 300)), "--count", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("univg: ") and error.count("\n") == 1 and "longer" in error


def test_a_warning_is_one_line_without_code(tmp_path, capsys):
    mask = np.zeros((64, 64), np.uint8)
    cv2.line(mask, (4, 30), (60, 34), 255, 5, cv2.LINE_AA)
    cv2.imwrite(str(tmp_path / "grey.png"), cv2.GaussianBlur(mask, (0, 0), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["sca", "murray", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert error.startswith("univg: warning: ") and ".py:" not in error


def test_what_may_stand_first_needs_no_name(capsys):
    named = ["segment", "predict", "--model", "run", "--images", "folder", "--out", "found"]
    assert main([*named, "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert main([*named[:2], "run", "folder", "--out", "found", "--print-config"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["segment", "predict", "run", "--images", "folder", "--out", "found"]) == 2


def test_a_recipe_stands_first(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("shots: shots\nout: answer\npairs: 12\n")
    assert main(["run", str(recipe), "--seed", "3", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "pairs: 12" in shown
    assert "seed: 3" in shown
