"""The project's rule for resizing masks, under the name that this stage uses.

In and out: see `univg.resize`, where the rule stands.
"""

from __future__ import annotations

from univg.resize import resize_mask, resize_to

__all__ = ["resize_mask", "resize_to"]
