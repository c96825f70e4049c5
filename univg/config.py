"""One dataclass for each thing that can be run, read from YAML and from the command line.

In: a settings class (made with `@settings`), a YAML file, command-line words. Out: a checked
instance, or one `ConfigError` that names every unknown, ill-typed or out-of-range field at once.
Parsing is tyro's, checking is pydantic's; this module only joins them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from univg.errors import ConfigError

T = TypeVar("T")

_MISSING_KINDS = {"missing", "missing_argument", "missing_keyword_only_argument"}
_ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(name="config", help="YAML file with settings; the command line overrides it."),
]
_PrintConfig = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(name="print-config", help="Print the resolved settings as YAML and stop."),
]
_DryRun = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(name="dry-run", help="Print the settings and the plan, write nothing, stop."),
]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass whose fields are checked and never invented."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


@dataclass(frozen=True)
class Invocation:
    """What a command line asked for: the settings, and whether to run, plan or only print them."""

    settings: Any
    print_config: bool
    dry_run: bool


def to_plain(instance: Any) -> dict[str, Any]:
    """Return a settings instance as plain YAML and JSON values."""
    plain: dict[str, Any] = TypeAdapter(type(instance)).dump_python(instance, mode="json")
    return plain


def to_yaml(instance: Any) -> str:
    """Return a settings instance as YAML, in the order of its fields."""
    return yaml.safe_dump(to_plain(instance), sort_keys=False, allow_unicode=True)


def check(instance: T, source: str = "") -> T:
    """Return `instance` with every field checked, or tell all that is wrong with it."""
    values = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}  # type: ignore[arg-type]
    return from_plain(type(instance), values, source)


def from_plain(cls: type[T], values: Mapping[str, Any], source: str = "") -> T:
    """Build a `cls` from plain values; all that is wrong is told at once."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(error.errors(), cls, source)) from error


class _Once(yaml.SafeLoader):
    """Reads plain values, and refuses a name that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in dict.fromkeys(names) if key != "<<" and names.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a missing or damaged file gives one clear line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read as YAML ({reason})") from error
    try:
        values = yaml.load(text, Loader=_Once)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not YAML: {where}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: must hold `name: value` lines, not a {type(values).__name__}")
    return values


def read_settings(cls: type[T], path: Path) -> T:
    """Read a complete `cls` from a YAML file."""
    return from_plain(cls, _prepare(cls, read_yaml(path), str(path)), str(path))


def parse(cls: type[Any], words: Sequence[str], prog: str) -> Invocation:
    """Read the command-line `words` into a `cls`, over the YAML file that `--config` names."""
    config_path = _find_config(words)
    _refuse_empty(cls, words)
    words = _gather(cls, words)
    defaults = _partial(cls, read_yaml(config_path), str(config_path)) if config_path else None
    line = dataclasses.make_dataclass(
        cls.__name__,
        [
            ("settings", _flat(cls), _nested_default(defaults)),
            ("config", _ConfigFile, None),
            ("print_config", _PrintConfig, False),
            ("dry_run", _DryRun, False),
        ],
        kw_only=True,
    )
    line.__doc__ = cls.__doc__
    parsed = _run_tyro(line, words, prog)
    return Invocation(check(parsed.settings), parsed.print_config, parsed.dry_run)


def _flat(cls: Any) -> Any:
    """Its options stand on the command line under their own names."""
    return Annotated[cls, tyro.conf.arg(name="")]


def _nested_default(defaults: Any) -> Any:
    return dataclasses.field() if defaults is None else dataclasses.field(default=defaults)


def _find_config(words: Sequence[str]) -> Path | None:
    for position, word in enumerate(words):
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
        if word == "--config":
            if position + 1 == len(words):
                raise ConfigError("--config: needs the path of a YAML file")
            return Path(words[position + 1])
    return None


def _partial(cls: type[Any], values: dict[str, Any], source: str) -> Any:
    """Build a `cls` in which what `values` leaves out is the default, or asked for by tyro."""
    adapter = TypeAdapter(cls)
    values = _prepare(cls, values, source)
    try:
        given = adapter.validate_python(values)
    except ValidationError as error:
        wrong = [p for p in error.errors() if p["type"] not in _MISSING_KINDS]
        if wrong:
            raise ConfigError(_explain(wrong, cls, source)) from error
    else:
        return given
    missing = {
        f.name: tyro.MISSING
        for f in dataclasses.fields(cls)
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    }
    typed = {
        f.name: TypeAdapter(_field_type(cls, f.name)).validate_python(values[f.name])
        for f in dataclasses.fields(cls)
        if f.name in values
    }
    return cls(**typed, **missing)


def _prepare(cls: type[Any], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what a file says, `~` resolved; what the types would let pass is refused."""
    types, prepared, wrong = get_type_hints(cls, include_extras=True), dict(values), []
    for name, value in values.items():
        kind = types.get(name)
        if isinstance(value, bool) and _holds(kind, int, float) and not _holds(kind, bool):
            wrong.append(f"{name} is {value}: a number is expected")
        if isinstance(value, str) and _holds(kind, Path):
            if not value.strip() or "\0" in value:
                wrong.append(f"{name} is {value!r}: give a path, or leave it out")
            prepared[name] = os.path.expanduser(value)  # noqa: PTH111 - a Path of "" would be "."
    if wrong:
        raise ConfigError(f"{source}: {'; '.join(wrong)}")
    return prepared


def _gather(cls: type[Any], words: Sequence[str]) -> list[str]:
    """Join what an option of several values is given again: `--x a --x b` is `--x a b`.

    The parser would keep the last one alone, and say nothing.
    """
    types = get_type_hints(cls, include_extras=True)
    groups: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    for word in words:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            groups[-1].append(word)
        elif not _is_open_ended(types.get(name)):
            groups.append([word])
        elif name in first:
            groups.append(first[name])
            groups[-1].extend([value] if equals else [])
        else:
            first[name] = [option, *([value] if equals else [])]
            groups.append(first[name])
    once = {id(group): group for group in groups}
    return [word for group in once.values() for word in group]


def _is_open_ended(annotation: Any) -> bool:
    """Whether an annotation is a tuple of any number of values, or may be one."""
    inner = get_args(annotation)
    if get_origin(annotation) is tuple:
        return inner[-1:] == (Ellipsis,)
    return any(_is_open_ended(each) for each in inner)


def _refuse_empty(cls: type[Any], words: Sequence[str]) -> None:
    """Refuse an empty path, as of a shell variable that is not set: it would mean this folder."""
    types = get_type_hints(cls, include_extras=True)
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        is_given = "=" in word if word.startswith("--") else True
        name = option.removeprefix("--").replace("-", "_")
        if is_given and not value and option.startswith("--") and _holds(types.get(name), Path):
            raise ConfigError(f"{option} is empty: give a path")


def _holds(annotation: Any, *kinds: type[Any]) -> bool:
    """Whether one of `kinds` is, or is part of, an annotation."""
    return annotation in kinds or any(_holds(inner, *kinds) for inner in get_args(annotation))


def _field_type(cls: type[Any], name: str) -> Any:
    return get_type_hints(cls, include_extras=True)[name]


def _run_tyro(line: type[Any], words: Sequence[str], prog: str) -> Any:
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(line, args=list(words), prog=prog)
    except SystemExit as stop:
        if stop.code in {0, None}:
            raise
        raise ConfigError(_flatten_box(shown.getvalue())) from None


def _flatten_box(text: str) -> str:
    """Turn tyro's boxed report into one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = (re.sub(r"[\u2500-\u257f]+|-{3,}", " ", line).strip() for line in plain.splitlines())
    line = " ".join(" ".join(line.split()) for line in lines if line)
    return re.sub(r"^(\w+ \w+) (?=\1\b)", "", line, flags=re.IGNORECASE)  # the title says it too


def _explain(problems: Sequence[Any], cls: type[Any], source: str) -> str:
    lead = f"{source}: " if source else ""
    return lead + "; ".join(_explain_one(dict(problem), cls) for problem in problems)


def _explain_one(problem: dict[str, Any], cls: type[Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        valid = _valid_names(cls, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{name} is not a setting ({hint}valid names: {', '.join(valid)})"
    if problem["type"] in _MISSING_KINDS:
        return f"{name} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    shown = repr(str(value) if isinstance(value, Path) else value)
    return f"{name} is {shown}: {message[:1].lower()}{message[1:]}"


def _valid_names(cls: type[Any], location: Sequence[Any]) -> list[str]:
    """Return the field names of the dataclass at `location` inside `cls`."""
    current: Any = cls
    for part in location:
        if isinstance(part, int):
            continue
        current = _dataclass_in(_field_type(current, str(part)))
        if current is None:
            return []
    return [f.name for f in dataclasses.fields(current)]


def _dataclass_in(annotation: Any) -> Any:
    if dataclasses.is_dataclass(annotation):
        return annotation
    for inner in get_args(annotation):
        found = _dataclass_in(inner)
        if found is not None:
            return found
    return None
