"""Completion scripts of the `univg` command for bash, zsh, fish and tcsh.

In: a shell's name. Out: a script, complete in itself, that offers commands, their options and,
where there are any, the words an option takes. Commands come from the table of `univg.cli`, options
from the fields of each settings class; the shell runs no Python when it completes.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from univg import __version__
from univg.cli import COMMANDS, GROUPS, Command
from univg.errors import UserError

_POSITIONAL_MARK = get_args(tyro.conf.Positional[int])[1]
_GLOBAL_OPTIONS = ("--help", "--version", "--completion")


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command, or, with an empty `flag`, what stands without one."""

    flag: str
    takes: Literal["nothing", "word", "path"]
    words: tuple[str, ...] = ()
    many: bool = False


_COMMON = (
    Option("--config", "path"),
    Option("--print-config", "nothing"),
    Option("--dry-run", "nothing"),
    Option("--help", "nothing"),
)


def script_for(shell: str) -> str:
    """Return the completion script for `shell`."""
    if shell not in SHELLS:
        near = difflib.get_close_matches(shell, SHELLS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        asked = f"`{shell}` is no shell that completion is made for" if shell else "needs a shell"
        raise UserError(f"--completion: {asked}; {hint}valid: {', '.join(SHELLS)}")
    options = {name: read_options(name, command) for name, command in COMMANDS.items()}
    return SHELLS[shell](options).rstrip("\n")


def read_options(name: str, command: Command) -> list[Option]:
    """Return the options of the command `name`, those that every command has included."""
    try:
        module = importlib.import_module(command.module)
    except ImportError:  # a stage whose extra is not installed: it still completes by name
        return list(_COMMON)
    cls = getattr(module, command.settings_name)
    hints = get_type_hints(cls, include_extras=True)
    found = [_read_field(name, field.name, hints[field.name]) for field in dataclasses.fields(cls)]
    return [option for group in found for option in group] + list(_COMMON)


def _read_field(command: str, name: str, hint: Any) -> list[Option]:
    notes: tuple[Any, ...] = ()
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        notes += tuple(more)
    renamed = [note.name for note in notes if isinstance(getattr(note, "name", None), str)]
    flag = "--" + (renamed[0] if renamed else name).replace("_", "-")
    if hint is bool:
        no_flag = f"--no-{flag.removeprefix('--')}"
        return [Option(flag, "nothing"), Option(no_flag, "nothing")]
    if _POSITIONAL_MARK in notes:
        flag = ""
    words = _choices(command, name) or _literals(hint)
    takes: Literal["word", "path"] = "path" if Path in _leaves(hint) and not words else "word"
    return [Option(flag, takes, words, many=get_origin(hint) is tuple)]


def _choices(command: str, name: str) -> tuple[str, ...]:
    """Return what a field of that name takes, where the type alone does not say it."""
    if name == "modality":
        from univg.modalities import modality_names

        return (*modality_names(), *(["all"] if command == "sca synth" else []))
    if name == "name" and command.startswith("data "):
        return tuple(importlib.import_module("univg.data_cards.card").load_cards())
    return ()


def _leaves(hint: Any) -> list[Any]:
    """Return the types that a union, a tuple or an annotation is made of."""
    if get_origin(hint) in {Annotated, Union, types.UnionType, tuple, list}:
        parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
        return [leaf for part in parts for leaf in _leaves(part)]
    return [hint]


def _literals(hint: Any) -> tuple[str, ...]:
    leaves = [leaf for leaf in _leaves(hint) if get_origin(leaf) is Literal]
    return tuple(str(word) for leaf in leaves for word in get_args(leaf))


Options = dict[str, list[Option]]


def _flags(options: list[Option]) -> str:
    return " ".join(option.flag for option in options if option.flag)


def _firsts() -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in COMMANDS))


def _seconds(group: str) -> list[str]:
    return [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]


def _value_of(option: Option) -> str:
    """Spell what an option takes: nothing, path, word or words, then the words themselves."""
    kind = "words" if option.many and option.takes == "word" else option.takes
    return " ".join([kind, *option.words])


def _shared_tables(options: Options) -> str:
    """Return what bash and zsh share: functions that print a command's options and values."""
    lines = ["_univg_flags() {", '  case "$1" in']
    lines += [f"    '{name}') echo '{_flags(each)}' ;;" for name, each in options.items()]
    lines += ["  esac", "}", "_univg_takes() {", '  case "$1 $2" in']
    for name, each in options.items():
        for option in each:
            lines.append(f"    '{name} {option.flag}') echo '{_value_of(option)}' ;;")
    lines += ["  esac", "}", "_univg_commands() {", '  case "$1" in']
    for group in GROUPS:
        lines.append(f"    {group}) echo '{' '.join(_seconds(group))}' ;;")
    first = " ".join([*_firsts(), *_GLOBAL_OPTIONS])
    lines += [f"    '') echo '{first}' ;;", f"    --completion) echo '{' '.join(SHELLS)}' ;;"]
    # Given the words before the one to complete, print what may follow: the words, or `path`.
    return "\n".join([*lines, "  esac", "}", _OFFER])


_OFFER = """\
_univg_offer() {
  local current="$1" name flag='' takes='' far=0 word
  shift
  case "$#" in
    0) _univg_commands ''; return ;;
    1) takes="$(_univg_commands "$1")"; [ -n "$takes" ] && { echo "$takes"; return; } ;;
  esac
  name="$1"
  [ "$#" -gt 0 ] && shift
  if [ -z "$(_univg_flags "$name")" ]; then
    [ "$#" -eq 0 ] && return
    name="$name $1"
    shift
  fi
  for word in "$@"; do
    far=$((far + 1))
    case "$word" in -*) flag="$word"; far=0 ;; esac
  done
  case "$current" in -*) _univg_flags "$name"; return ;; esac
  takes="$(_univg_takes "$name" "$flag")"
  case "$takes" in
    nothing*) ;;
    words*) echo "${takes#words}"; return ;;
    word*) [ "$far" -eq 0 ] && { echo "${takes#word}"; return; } ;;
    path*) [ "$far" -eq 0 ] && { echo path; return; } ;;
  esac
  takes="$(_univg_takes "$name" '')"
  case "$takes" in
    path*) echo path ;;
    *) echo "${takes#word} $(_univg_flags "$name")" ;;
  esac
}"""


def _bash(options: Options) -> str:
    return f"""\
# bash completion of univg {__version__}. To use it:
#   univg --completion bash > ~/.local/share/bash-completion/completions/univg
{_shared_tables(options)}
_univg() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" offer
  offer="$(_univg_offer "$current" "${{COMP_WORDS[@]:1:COMP_CWORD-1}}")"
  COMPREPLY=()
  [ "$offer" = path ] && return  # no reply: the shell's own completion of file names
  COMPREPLY=($(compgen -W "$offer" -- "$current"))
}}
complete -o bashdefault -o default -F _univg univg
"""


def _zsh(options: Options) -> str:
    return f"""\
#compdef univg
# zsh completion of univg {__version__}. To use it, in a folder of $fpath:
#   univg --completion zsh > ~/.zfunc/_univg
{_shared_tables(options)}
_univg() {{
  local offer
  offer="$(_univg_offer "${{words[CURRENT]}}" "${{(@)words[2,CURRENT-1]}}")"
  if [[ "$offer" == path ]]; then
    _files
  else
    compadd -- ${{=offer}}
  fi
}}
if [[ "${{funcstack[1]}}" == _univg ]]; then
  _univg "$@"
else
  compdef _univg univg
fi
"""


def _fish(options: Options) -> str:
    lines = [
        f"# fish completion of univg {__version__}. To use it:",
        "#   univg --completion fish > ~/.config/fish/completions/univg.fish",
        "function __univg_at",
        "  set -l words (commandline -opc)",
        "  set -l last (math 1 + (count $argv))",
        '  test (count $words) -ge $last; and test "$words[2..$last]" = "$argv"',
        "end",
        "function __univg_only",
        "  set -l words (commandline -opc)",
        "  test (count $words) -eq (math 1 + (count $argv)); and __univg_at $argv",
        "end",
        "complete -c univg -f",
        "complete -c univg -n 'test (count (commandline -opc)) -eq 1' -l help",
        "complete -c univg -n 'test (count (commandline -opc)) -eq 1' -l version",
        "complete -c univg -n 'test (count (commandline -opc)) -eq 1' -l completion"
        f" -x -a '{' '.join(SHELLS)}'",
    ]
    at_first = "test (count (commandline -opc)) -eq 1"
    for first in _firsts():
        about = GROUPS.get(first) or COMMANDS[first].summary
        lines.append(f"complete -c univg -n '{at_first}' -a {first} -d {_quote(about)}")
    for name, each in options.items():
        if " " in name:
            group, second = name.split()
            about = _quote(COMMANDS[name].summary)
            lines.append(f"complete -c univg -n '__univg_only {group}' -a {second} -d {about}")
        lines += [_fish_option(name, option) for option in each]
    return "\n".join(lines)


def _fish_option(name: str, option: Option) -> str:
    words = f" -a '{' '.join(option.words)}'" if option.words else ""
    files = {"nothing": "", "word": " -x", "path": " -r -F"}[option.takes]
    if option.flag:
        long = option.flag.removeprefix("--")
        return f"complete -c univg -n '__univg_at {name}' -l {long}{files}{words}"
    return f"complete -c univg -n '__univg_at {name}'{' -F' if option.takes == 'path' else words}"


def _tcsh(options: Options) -> str:
    """Return tcsh's: it knows no context but the word before, so options are those of all."""
    every = {o.flag.removeprefix("--"): o for each in options.values() for o in each if o.flag}
    rules = [f"'p/1/({' '.join(_firsts())} {' '.join(_GLOBAL_OPTIONS)})/'"]
    rules += [f"'n/{group}/({' '.join(_seconds(group))})/'" for group in GROUPS]
    rules.append(f"'n/--completion/({' '.join(SHELLS)})/'")
    rules += [f"'n/--{n}/({' '.join(o.words)})/'" for n, o in every.items() if o.words]
    rules += [f"'n/--{n}/f/'" for n, o in every.items() if o.takes == "path"]
    rules += [f"'c/--/({' '.join(every)})/'", "'n/*/f/'"]
    return (
        f"# tcsh completion of univg {__version__}. To use it, in ~/.tcshrc:\n"
        "#   univg --completion tcsh > ~/.univg.tcsh; source ~/.univg.tcsh\n"
        f"complete univg {' '.join(rules)}\n"
    )


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Options], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "tcsh": _tcsh,
}
