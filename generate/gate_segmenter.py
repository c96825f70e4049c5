"""A user's own segmenter, by name: `package.module:function`.

In: a name. Out: the function, which takes a uint8 image and returns probabilities of vessel.
"""

from __future__ import annotations

from univg.plugins import load_function

from .gate import Segmenter


def load_segmenter(name: str) -> Segmenter:
    """Return the function that `name` stands for."""
    found: Segmenter = load_function(name, "segmenter")
    return found
