"""`univg data list` and `univg data show`, through the command line."""

import pytest

from univg.cli import main


def rows_of(text: str) -> dict[str, dict[str, str]]:
    titles, *lines = (line.split("\t") for line in text.splitlines())
    return {line[0]: dict(zip(titles, line, strict=True)) for line in lines}


def test_list_is_tab_separated_for_programs(capsys) -> None:
    assert main(["data", "list"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 33
    assert list(rows) == sorted(rows)
    assert rows["dias"]["modality"] == "brain"
    assert rows["dias"]["UniVG-58K"] == "441 pretraining, 60 labelled (5 shots, 55 test)"
    assert rows["chasedb1"]["licence"] == "CC BY 4.0"
    assert rows["rose"]["access"] == "request"
    assert rows["fives"]["UniVG-58K"] == ""


def test_list_filters(capsys) -> None:
    assert main(["data", "list", "--modality", "oct"]) == 0
    assert set(rows_of(capsys.readouterr().out)) == {"oct", "cavri-c"}
    assert main(["data", "list", "--task", "vessel", "--modality", "fundus"]) == 0
    vessel = set(rows_of(capsys.readouterr().out))
    assert {"drive", "hrf", "stare"} <= vessel
    assert not vessel & {"eyepacs", "refuge", "refuge-seg", "drishti-gs"}


def test_list_is_a_table_for_people(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["data", "list", "--modality", "brain"]) == 0
    out = capsys.readouterr().out
    assert "dias" in out and "┃" in out and "univg data show NAME" in out


def test_show_tells_terms_numbers_and_files(capsys) -> None:
    assert main(["data", "show", "CHASE_DB1"]) == 0
    out = capsys.readouterr().out
    for words in (
        "https://researchdata.kingston.ac.uk/96/",
        "CC BY 4.0",
        "Fraz et al.",
        "28 labelled (5 shots, 23 test)",
        "85.39 % with 5 shots, clDice 88.85 %",
        r"--group-by 'Image_(\d+)'",
        "_1stHO.png",
        "never pretraining",
    ):
        assert words in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_show_without_layout_says_so(capsys) -> None:
    assert main(["data", "show", "mm-whs"]) == 0
    out = capsys.readouterr().out
    assert "not part of it" in out and "layout not known" in out


def test_show_tells_label_classes(capsys) -> None:
    assert main(["data", "show", "refuge-seg"]) == 0
    assert "cup 0; disc 128; background 255 (mask: disc, cup)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data", "show", "drvie"], "did you mean `drive`?"),
        (["data", "show", "nothing-like-it"], "`univg data list`"),
        (["data", "show"], "Required"),
        (["data", "list", "--modality", "retina"], "retina"),
        (["data", "list", "--task", "cells"], "cells"),
    ],
)
def test_mistakes_are_one_line(words, expected, capsys) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("univg: ") and captured.err.count("\n") == 1
    assert expected in captured.err and "Traceback" not in captured.err


def test_dry_run_writes_nothing(capsys) -> None:
    assert main(["data", "show", "drive", "--dry-run"]) == 0
    assert "writes nothing" in capsys.readouterr().out
