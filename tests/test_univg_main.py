"""`python -m univg` is the `univg` command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from univg import __version__


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["--version"], 0, f"univg {__version__}"), (["nothing"], 2, "univg: `nothing` is not a")],
)
def test_the_package_runs_as_the_command(words, code, said):
    found = subprocess.run(
        [sys.executable, "-m", "univg", *words], check=False, capture_output=True, text=True
    )
    assert found.returncode == code
    assert (found.stdout or found.stderr).startswith(said)
