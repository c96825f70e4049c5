"""The language of `--keep`: what it says yes and no to, and that it runs nothing."""

from __future__ import annotations

import pytest

from univg.errors import ConfigError
from univg.generate.keep import parse_keep

KINDS = {"agreement": "number", "density": "number", "copied": "flag", "duplicate": "flag"}
GOOD = {"agreement": 0.7, "density": 0.1, "copied": False, "duplicate": True}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", True),
        ("   ", True),
        ("agreement > 0.6", True),
        ("agreement>0.7", False),
        ("agreement >= 0.7 and density < 0.2 and not copied", True),
        ("copied", False),
        ("not duplicate", False),
        ("copied or duplicate", True),
        ("not (copied or duplicate)", False),
        ("0.05 < density <= 0.1", True),
        ("0.05 < density < 0.1", False),
        ("density > -1", True),
        ("density > -.5 and 1e-3 < agreement", True),
        ("copied == False", True),
        ("agreement != density", True),
        ("True", True),
        ("agreement > 0.6  # the detector's\n and density < 0.2", True),
    ],
)
def test_what_is_kept(text, kept):
    assert parse_keep(text, KINDS).accepts(GOOD) is kept


def test_conditions_that_fail_are_named_as_they_were_written():
    keep = parse_keep("agreement>0.6 and (density < 0.05 or copied)  and not duplicate", KINDS)
    assert keep.conditions == ("agreement>0.6", "density < 0.05 or copied", "not duplicate")
    assert keep.failed(GOOD) == ["density < 0.05 or copied", "not duplicate"]
    assert keep.names == ("agreement", "copied", "density", "duplicate")
    assert parse_keep("copied or duplicate", KINDS).conditions == ("copied or duplicate",)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("agreement > 0.6", False),
        ("agreement < 0.6", False),
        ("not agreement > 0.6", False),
        ("agreement > 0.6 or density < 0.2", True),
        ("not (agreement > 0.6 and density > 0.2)", True),
    ],
)
def test_what_was_not_measured_meets_no_condition(text, kept):
    scores = {**GOOD, "agreement": None}
    assert parse_keep(text, KINDS).accepts(scores) is kept
    del scores["agreement"]
    assert parse_keep(text, KINDS).accepts(scores) is kept


HOSTILE = [
    "__import__('os').system('touch owned')",
    "open('owned', 'w')",
    "agreement.__class__",
    "(lambda: 1)() > 0",
    "[x for x in (1,)] > 0",
    "agreement ** 9999999 > 1",
    "agreement + 1 > 1",
    "agreement in (1, 2)",
    "agreement is None",
    "'a' < 'b'",
    "f'{agreement}' == 1",
    "1j > 0",
    "(x := 1) > 0",
    "density if copied else agreement",
    "-agreement > 0",
    "--1 < density",
    "-True < density",
    "copied & duplicate",
    "~copied",
    "copied, duplicate",
    "exec",
    "None",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_else_is_understood(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        parse_keep(text, KINDS)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("keep is ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agrement > 0.6", "did you mean agreement? ; measures: agreement, density"),
        ("speed > 1", "'speed' is no measure"),
        ("agreement = 0.6", "write == for equal"),
        ("agreement > 0.6 &&", "it may hold comparisons"),
        ("agreement", "compare it, as in"),
        ("not agreement", "compare it, as in `agreement > 0.5`"),
        ("agreement and copied", "compare it, as in"),
        ("copied > 0.5", "write `copied` or `not copied`"),
        ("copied == 1", "write `copied` or `not copied`"),
        ("agreement > 0.6 and", "cannot be read"),
        ("agreement > 0.6and copied", "cannot be read"),
        ("agreement > " + "(" * 300 + "1" + ")" * 300, "cannot be read"),
        ("copied\0", "cannot be read"),
        ("not " * 240 + "x", "'x' is no measure"),
        ("copied or " * 200 + "copied", "at most 1000 are read"),
    ],
)
def test_mistakes_are_explained(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_keep(text, KINDS)
    assert said.replace("? ;", "?;") in str(caught.value).replace("? ;", "?;")


def test_deep_expressions_are_answered():
    assert parse_keep("not " * 240 + "copied", KINDS).accepts(GOOD) is False
    assert parse_keep("not " * 241 + "copied", KINDS).accepts(GOOD) is True
