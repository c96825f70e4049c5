"""`python -m univg`: the `univg` command where no such command is on the path.

In: command-line words. Out: an exit code.
"""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
