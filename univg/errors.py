"""The errors a user can cause, and how a list of them is shown.

In: what was wrong, the value, the file, what to do. Out: exceptions whose text is one clear line
(or one line for each problem). The command line prints the text and leaves with exit code 2;
anything that is not a `UserError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message says what, where, and what to do."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A file or folder that cannot be used as it is."""


class ResumeError(UserError):
    """The output folder holds something that this run must not touch."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with one file.

    `kind` is a short stable word ("truncated", "empty", "size"), `detail` the rule and the value
    that breaks it, `remedy` what to do.
    """

    path: Path
    kind: str
    detail: str
    remedy: str = ""

    def line(self) -> str:
        """`path: detail (remedy)` on one line."""
        text = f"{self.path}: {self.detail}"
        return f"{text} ({self.remedy})" if self.remedy else text


class ProblemReport(DataError):
    """Several problems, found in one pass and told in one report."""

    def __init__(self, problems: Iterable[Problem], headline: str = "") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        self.headline = headline or f"{count} problem{'s' if count != 1 else ''} found"
        super().__init__("\n".join([self.headline, *(f"  {p.line()}" for p in self.problems)]))
