"""A user's own code by name, `package.module:function`, wherever a name of ours may stand.

In: the name and what it is for. Out: the function. Only what the user wrote on the command line or
in a recipe of theirs is loaded this way, never what a data or weights file names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from univg.errors import ConfigError


def load_function(name: str, what: str, known: str = "") -> Callable[..., Any]:
    """Return the function `name`; modules of the working folder count too.

    `what` is the setting that named it, `known` what else could have stood there, for messages.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        other = f"use {known}, or " if known else "write it as "
        raise ConfigError(f"{what} is {name!r}: {other}package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:  # an installed command does not look where it is called
        sys.path.append(here)
    try:
        module: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what} is {name!r}: {module_name} cannot be imported ({error})"
        ) from error
    except Exception as error:  # a user's module may fail in any way, and it is theirs to mend
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{what} is {name!r}: {module_name} fails with {reason}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"{what} is {name!r}: {module_name} has no function {function_name}")
    found: Callable[..., Any] = function
    return found
