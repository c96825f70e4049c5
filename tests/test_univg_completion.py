"""Completion scripts, asked through the shells themselves where they are installed."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import subprocess

import pytest

from univg.cli import COMMANDS, Command, main
from univg.completion import SHELLS, read_options, script_for
from univg.errors import UserError
from univg.modalities import modality_names

ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_univg
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(script_for(shell) + "\n", encoding="utf-8")
    return folder


def complete_bash(scripts, line: str) -> list[str]:
    """Return what bash offers at the end of `line`; a line that ends in a space: the next word."""
    words = line.split(" ")
    command = ["bash", "--norc", "-u", "-c", ASK_BASH, "bash", str(scripts / "bash"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("univg sca syn", ["synth"]),
        ("univg s", ["sca", "segment"]),
        ("univg sca ", ["synth", "fit", "score", "show", "murray"]),
        ("univg sca synth --mod", ["--modality"]),
        ("univg sca synth --modality cor", ["coronary"]),
        ("univg sca synth --modality octa b", ["brain"]),
        ("univg sca synth --modality octa --sto", []),
        ("univg sca synth --count ", []),
        ("univg sca synth --dry", ["--dry-run"]),
        ("univg demo --ou", ["--out"]),
        ("univg --completion z", ["zsh"]),
        ("univg --comp", ["--completion"]),
        ("univg nonsense x", []),
    ],
)
def test_bash_completes(scripts, line, offered):
    assert complete_bash(scripts, line) == offered


def test_bash_offers_every_modality_and_after_a_value_the_options(scripts):
    offered = complete_bash(scripts, "univg sca synth --modality ")
    assert offered == [*modality_names(), "all"]
    assert "--seed" in complete_bash(scripts, "univg sca synth --count 3 ")


def test_bash_leaves_paths_to_the_shell(scripts):
    assert complete_bash(scripts, "univg sca synth --out ") == []
    assert complete_bash(scripts, "univg sca murray ") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_in_every_script(scripts, shell):
    text = (scripts / shell).read_text(encoding="utf-8")
    assert all(word in text for name in COMMANDS for word in name.split())
    assert all(name in text for name in modality_names())


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_reads_the_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = str(scripts / shell)
    command = {
        "bash": ["bash", "-n", path],
        "zsh": ["zsh", "-n", path],
        "fish": ["fish", "-n", path],
        "tcsh": ["tcsh", "-f", "-c", f"source {path}"],
    }[shell]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(scripts):
    ask = f"source {scripts / 'fish'}; complete -C 'univg sca synth --modality oc'"
    done = subprocess.run(["fish", "-N", "-c", ask], capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == ["oct", "octa"]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_settings_class(name):
    command = COMMANDS[name]
    settings = getattr(importlib.import_module(command.module), command.settings_name)
    options = read_options(name, command)
    flags = {option.flag for option in options}
    assert {"--config", "--print-config", "--dry-run", "--help"} <= flags
    assert len(options) >= len(dataclasses.fields(settings)) + 4


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_itself_knows_each_option(name, capsys):
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    for option in read_options(name, COMMANDS[name]):
        assert option.flag in shown


def test_a_stage_that_is_not_installed_completes_by_what_all_share():
    options = read_options("x", Command("univg.no_such_stage", "X", "nothing"))
    assert [o.flag for o in options] == ["--config", "--print-config", "--dry-run", "--help"]


@pytest.mark.parametrize("shell", ["", "bsh", "powershell"])
def test_another_shell_is_refused_with_the_valid_names(shell, capsys):
    with pytest.raises(UserError, match="bash, zsh, fish, tcsh"):
        script_for(shell)
    assert main(["--completion", shell]) == 2
    assert "Traceback" not in capsys.readouterr().err
