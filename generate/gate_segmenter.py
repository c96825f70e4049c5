"""A user's own segmenter, by name: `package.module:function`.

In: a name. Out: the function, which takes a uint8 image and returns probabilities of vessel.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from univg.errors import ConfigError

from .gate import Segmenter


def load_segmenter(name: str) -> Segmenter:
    """Return the function that `name` stands for; modules of the working folder count too."""
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"segmenter is {name!r}: write it as package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:  # an installed command does not look where it is called
        sys.path.append(here)
    try:
        module: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"segmenter is {name!r}: {module_name} cannot be imported ({error})"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"segmenter is {name!r}: {module_name} has no function {function_name}")
    found: Segmenter = function
    return found
