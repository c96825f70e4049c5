"""The `univg` command: a table of subcommands, named by string and imported when called.

In: command-line words. Out: an exit code: 0 done, 2 a user's mistake (one clear line on stderr),
130 stopped by Ctrl-C. Anything else is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg import __version__
from univg.errors import UserError


@dataclass(frozen=True)
class Command:
    """A subcommand: where its settings class lives, and one line of help.

    The module `module` holds the settings class `settings_name`, the function `run_name` that
    takes it and, where something is written, `plan(settings) -> str` for `--dry-run`.
    """

    module: str
    settings_name: str
    summary: str
    run_name: str = "run"
    leading: tuple[str, ...] = ()
    """Options whose values may stand first, without their names."""


CARDS = "univg.data_cards"
COMMANDS: dict[str, Command] = {
    "sca synth": Command("univg.sca.synth", "Synth", "synthesize vessel masks of a modality"),
    "sca fit": Command("univg.sca.fit", "Fit", "find the card of a modality from a few real masks"),
    "sca score": Command("univg.sca.score", "Score", "how far synthetic masks are from real ones"),
    "sca show": Command("univg.sca.show", "Show", "contact sheet, real masks beside synthetic"),
    "sca murray": Command("univg.sca.murray", "Murray", "compliance of masks with Murray's law"),
    "data list": Command(f"{CARDS}.commands", "List", "the data sets that have a card", "run_list"),
    "data show": Command(
        f"{CARDS}.commands", "Show", "one card: numbers, terms, source", "run_show"
    ),
    "data prepare": Command(f"{CARDS}.prepare", "Prepare", "a provider's files to images/, masks/"),
    "data check": Command(f"{CARDS}.check", "Check", "find what is wrong with a folder of pairs"),
    "data split": Command(f"{CARDS}.split", "Split", "draw shots and test lists"),
    "data build": Command(f"{CARDS}.build", "Build", "build the unlabelled pretraining set"),
    "train base": Command("univg.train.base", "TrainBase", "a small Stable Diffusion from nothing"),
    "train masks": Command("univg.train.masks", "TrainMasks", "LoRA on many synthesized masks"),
    "train adapt-masks": Command(
        "univg.train.adapt_masks", "AdaptMasks", "LoHa on a few real masks"
    ),
    "train images": Command("univg.train.images", "TrainImages", "UNet on unlabelled images"),
    "train adapt-images": Command(
        "univg.train.adapt_images", "AdaptImages", "ControlNet on a few real pairs"
    ),
    "generate masks": Command(
        "univg.generate.masks", "Masks", "vessel masks by a trained engine, or grown"
    ),
    "generate images": Command(
        "univg.generate.images", "Images", "an image for each mask: labelled pairs"
    ),
    "generate check": Command(
        "univg.generate.gate_command", "Check", "measure pairs, find copies, keep the good ones"
    ),
    "generate pairs": Command(
        "univg.generate.pairs", "Pairs", "masks, then an image for each, in one go"
    ),
    "generate compare": Command(
        "univg.generate.compare", "Compare", "how near sets of pairs are to a real one, how varied"
    ),
    "generate one": Command(
        "univg.generate.one", "One", "make one item of a run again, and compare"
    ),
    "generate merge": Command("univg.generate.merge", "Merge", "join the shards of a run"),
    "export": Command("univg.generate.export", "Export", "pairs as the next tool reads them"),
    "segment fit": Command(
        "univg.segment.fit", "Fit", "train a segmenter on shots and synthetic pairs"
    ),
    "segment predict": Command(
        "univg.segment.predict",
        "Predict",
        "vessel masks of the images in a folder",
        leading=("--model", "--images"),
    ),
    "segment evaluate": Command(
        "univg.segment.evaluate", "Evaluate", "predicted masks against true ones: tables, a page"
    ),
    "adapter convert": Command(
        "univg.train.adapter_commands", "Convert", "a LoRA file in another layout", "run_convert"
    ),
    "adapter merge": Command(
        "univg.train.adapter_commands", "Merge", "a base with adapters baked in", "run_merge"
    ),
    "adapter info": Command(
        "univg.train.adapter_commands", "Info", "what an adapter file holds", "run_info"
    ),
    "run": Command(
        "univg.recipe",
        "Recipe",
        "five shots to pairs and a segmenter, in one go",
        leading=("--config",),
    ),
    "demo": Command("univg.demo", "Demo", "the recipe on made-up shots, its answer, as one page"),
}

GROUPS = {
    "sca": "masks by space colonization",
    "data": "data sets: cards, preparation, checks, splits",
    "adapter": "LoRA and LoHa files",
    "generate": "image-mask pairs",
    "segment": "segmenters: fit, predict, evaluate",
    "train": "engines: the base, LoRA, LoHa, UNet, ControlNet",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line `words` (default: those of the process); return the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    # Before numpy is loaded: our matrices are small, and processes share the cores already.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _speak_plainly()
    try:
        return _dispatch(words)
    except UserError as error:
        return _refuse(str(error), 2)
    except KeyboardInterrupt as error:
        said = str(error) or "stopped; what is written is safe, run the same command again"
        return _refuse(said, 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        from univg.files import explain_os_error

        plain = explain_os_error(error, Path(error.filename))
        reason = str(plain) if plain is not error else f"{error.filename}: {error.strerror}"
        if isinstance(error, PermissionError):  # where it comes from, nobody knows what was tried
            reason = f"{error.filename}: {error.strerror}; check who may read it and write to it"
        return _refuse(reason, 2)


def _refuse(message: str, code: int) -> int:
    print(f"univg: {message}", file=sys.stderr)  # noqa: T201
    return code


def _speak_plainly() -> None:
    """One line a warning, and no crash where the terminal knows fewer letters than we use."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"univg: warning: {message}", file=sys.stderr)  # noqa: T201


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())  # noqa: T201
        return 0
    if words[0] in {"-V", "--version"}:
        print(f"univg {__version__}")  # noqa: T201
        return 0
    if words[0] == "--completion":
        from univg.completion import script_for

        print(script_for(words[1] if len(words) > 1 else ""))  # noqa: T201
        return 0
    name, rest = _split_name(words)
    if name in GROUPS:
        print(overview(name))  # noqa: T201
        return 0
    return run_command(name, rest)


def _split_name(words: list[str]) -> tuple[str, list[str]]:
    first = words[0]
    if first in COMMANDS:
        return first, words[1:]
    if first in GROUPS:
        if len(words) == 1 or words[1] in {"-h", "--help"}:
            return first, []
        two = f"{first} {words[1]}"
        if two in COMMANDS:
            return two, words[2:]
        raise UserError(_unknown(two, [n for n in COMMANDS if n.startswith(f"{first} ")]))
    raise UserError(_unknown(first, [*GROUPS, *COMMANDS]))


def _unknown(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean `univg {near[0]}`? " if near else ""
    return f"`{name}` is not a command; {hint}`univg --help` lists them"


def run_command(name: str, words: list[str]) -> int:
    """Import the command `name`, read its settings from `words` and run it."""
    from univg.config import parse, to_yaml

    command = COMMANDS[name]
    module: Any = importlib.import_module(command.module)
    settings_class = getattr(module, command.settings_name)
    wanted = parse(settings_class, name_leading(command, words), prog=f"univg {name}")
    if wanted.print_config:
        print(to_yaml(wanted.settings), end="")  # noqa: T201
        return 0
    if wanted.dry_run:
        plan = getattr(module, "plan", None)
        print(to_yaml(wanted.settings), end="")  # noqa: T201
        print(plan(wanted.settings) if plan else "Reads only; writes nothing.")  # noqa: T201
        return 0
    getattr(module, command.run_name)(wanted.settings)
    return 0


def name_leading(command: Command, words: Sequence[str]) -> list[str]:
    """Return `words` with the names of options whose values stand first."""
    words, named = list(words), []
    for option in command.leading:
        if not words or words[0].startswith("-"):
            break
        named += [option, words.pop(0)]
    return [*named, *words]


def overview(group: str = "") -> str:
    """Return the list of commands, all or those of one group."""
    lines = ["usage: univg COMMAND [OPTIONS]", ""]
    if not group:
        lines += ["Five annotated vessel images in, a labelled synthetic data set out.", ""]
    last = ""
    for name, command in COMMANDS.items():
        head = name.split()[0]
        if group and head != group:
            continue
        if head != last and head in GROUPS:
            lines += ["", f"{head}: {GROUPS[head]}"]
        last = head
        lines.append(f"  univg {name:<18} {command.summary}")
    lines += [
        "",
        "univg COMMAND --help         options, units, defaults",
        "univg COMMAND --config FILE  settings from YAML; the command line overrides them",
        "univg COMMAND --print-config the resolved settings as YAML",
        "univg COMMAND --dry-run      the plan; nothing is written",
        "univg --completion SHELL     a completion script for bash, zsh, fish or tcsh",
    ]
    return "\n".join(lines)
