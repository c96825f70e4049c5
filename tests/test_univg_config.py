"""Settings from YAML and the command line: precedence, and all mistakes told at once."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from annotated_types import Ge, Le

from univg.config import (
    check,
    from_plain,
    parse,
    read_settings,
    read_yaml,
    settings,
    to_plain,
    to_yaml,
)
from univg.errors import ConfigError


@settings
class Brush:
    """A part of a picture's settings."""

    width_px: Annotated[float, Ge(0)] = 2.0
    """Width of a stroke [px]."""
    tip: Literal["round", "flat"] = "round"
    """Shape of the tip."""


@settings
class Picture:
    """Settings of every kind that the real ones use."""

    out: Path
    """Where to write."""
    count: Annotated[int, Ge(1), Le(100)] = 10
    """How many."""
    share: Annotated[float, Ge(0), Le(1)] = 0.5
    """A share."""
    size: tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] = (64, 48)
    """Height and width [px]."""
    names: tuple[str, ...] = ("one",)
    """Some words."""
    real: Path | None = None
    """A folder, or none."""
    strict: bool = False
    """Refuse what is doubtful."""
    brush: Brush = field(default_factory=Brush)
    """The brush."""


def refusal(values: dict, source: str = "") -> str:
    """Return what is said about `values`."""
    with pytest.raises(ConfigError) as caught:
        from_plain(Picture, values, source)
    return str(caught.value)


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_frozen_and_keyword_only():
    picture = Picture(out=Path("a"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.count = 3
    with pytest.raises(TypeError):
        Picture(Path("a"))


def test_every_mistake_is_told_at_once():
    text = refusal({"count": 0, "share": "much", "size": [8, 20], "colour": 1, "strict": "maybe"})
    for name in ("out is missing", "count is 0", "share is 'much'", "size.0 is 8", "colour"):
        assert name in text
    assert "strict is 'maybe'" in text
    assert "\n" not in text


def test_an_unknown_name_is_answered_with_the_valid_ones():
    text = refusal({"out": "a", "cuont": 3})
    assert "cuont is not a setting" in text and "did you mean count?" in text
    for f in dataclasses.fields(Picture):
        assert f.name in text.partition("valid names:")[2]


def test_an_unknown_name_inside_a_section_is_answered_with_that_sections_names():
    text = refusal({"out": "a", "brush": {"widht_px": 3}})
    assert "brush.widht_px is not a setting" in text and "did you mean width_px?" in text
    assert "count" not in text


def test_the_source_is_named():
    assert refusal({"out": "a", "count": 0}, "here.yaml").startswith("here.yaml: ")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 101}, "less than or equal to 100"),
        ({"count": 1.5}, "count is 1.5"),
        ({"share": -0.1}, "greater than or equal to 0"),
        ({"share": None}, "share is None"),
        ({"size": [64]}, "size"),
        ({"size": [64, 64, 3]}, "size"),
        ({"names": 3}, "names is 3"),
        ({"brush": 3}, "brush is 3"),
        ({"brush": {"tip": "square"}}, "brush.tip is 'square'"),
        ({"real": 3}, "real"),
    ],
)
def test_out_of_range_and_ill_typed(values, said):
    assert said in refusal({"out": "a", **values})


def test_check_of_an_instance_made_in_python():
    assert check(Picture(out=Path("a"))) == Picture(out=Path("a"))
    with pytest.raises(ConfigError, match="count is -3"):
        check(Picture(out=Path("a"), count=-3))


def test_plain_values_are_json_and_come_back():
    picture = Picture(out=Path("a/b"), size=(17, 300), names=(), brush=Brush(tip="flat"))
    plain = json.loads(json.dumps(to_plain(picture)))
    assert from_plain(Picture, plain) == picture
    assert list(plain) == [f.name for f in dataclasses.fields(Picture)]


def test_yaml_comes_back(tmp_path):
    picture = Picture(out=Path("ä b"), real=Path("x"), strict=True)
    path = write_yaml(tmp_path, to_yaml(picture))
    assert read_settings(Picture, path) == picture


def test_precedence_of_default_yaml_and_command_line(tmp_path):
    path = write_yaml(tmp_path, "out: from_yaml\ncount: 7\nshare: 0.25\n")
    got = parse(Picture, ["--config", str(path), "--count", "9"], "x").settings
    assert (got.out, got.count, got.share) == (Path("from_yaml"), 9, 0.25)
    assert got.size == (64, 48)


def test_what_yaml_gives_need_not_stand_on_the_command_line_and_the_other_way_round(tmp_path):
    path = write_yaml(tmp_path, "count: 7\n")
    got = parse(Picture, [f"--config={path}", "--out", "there"], "x").settings
    assert (got.out, got.count) == (Path("there"), 7)
    with pytest.raises(ConfigError, match="--out"):
        parse(Picture, [f"--config={path}"], "x")


def test_sections_and_lists_of_yaml_stay_where_the_command_line_says_nothing(tmp_path):
    path = write_yaml(tmp_path, "out: a\nbrush: {width_px: 5, tip: flat}\nnames: [x, y]\n")
    got = parse(Picture, ["--config", str(path), "--size", "20", "30"], "x").settings
    assert got.brush == Brush(width_px=5, tip="flat")
    assert got.names == ("x", "y") and got.size == (20, 30)
    got = parse(Picture, ["--config", str(path), "--names", "z"], "x").settings
    assert got.names == ("z",)


def test_numbers_that_yaml_takes_for_text(tmp_path):
    path = write_yaml(tmp_path, "out: a\nshare: 1e-3\n")  # YAML 1.1 wants 1.0e-3
    assert read_settings(Picture, path).share == 0.001


def test_all_wrong_names_of_a_yaml_file_at_once(tmp_path):
    path = write_yaml(tmp_path, "cout: 7\nshare: 3\nsized: [1, 2]\n")
    with pytest.raises(ConfigError) as caught:
        parse(Picture, ["--config", str(path), "--out", "a"], "x")
    text = str(caught.value)
    assert str(path) in text
    assert "cout is not a setting" in text and "sized is not a setting" in text
    assert "share is 3" in text


def test_a_value_from_the_command_line_is_checked_too():
    with pytest.raises(ConfigError, match=r"count is 1000.*share is 4"):
        parse(Picture, ["--out", "a", "--count", "1000", "--share", "4"], "x")


@pytest.mark.parametrize(
    "words",
    [
        ["--out", "a", "--colour", "red"],
        ["--out", "a", "--count", "many"],
        ["--out", "a", "--size", "3"],
        ["--out", "a", "--config"],
        [],
    ],
)
def test_bad_words_give_one_line(words):
    with pytest.raises(ConfigError) as caught:
        parse(Picture, words, "x")
    assert "\n" not in str(caught.value)
    assert "│" not in str(caught.value)


def test_flags_that_only_show():
    got = parse(Picture, ["--out", "a", "--print-config"], "x")
    assert got.print_config and not got.dry_run
    got = parse(Picture, ["--out", "a", "--dry-run"], "x")
    assert got.dry_run and not got.print_config


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"- a\n- b\n", "not a list"),
        (b"just words\n", "not a str"),
        (b"a: [1, 2\n", "is not YAML"),
        (b"a: 1\n\tb: 2\n", "is not YAML"),
        (b"name: \xff\xfe\xe4\n", "cannot be read"),
        (b"1: a\n", "name: value"),
        (b"!!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_damaged_yaml_gives_one_line_with_the_file(tmp_path, data, said):
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_yaml_or_a_folder_in_its_place(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="directory"):
        read_yaml(tmp_path)


def test_empty_yaml_is_no_settings(tmp_path):
    assert read_yaml(write_yaml(tmp_path, "# nothing yet\n")) == {}


def test_yaml_is_written_in_the_order_of_the_fields():
    written = list(yaml.safe_load(to_yaml(Picture(out=Path("a")))))
    assert written == [f.name for f in dataclasses.fields(Picture)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("out: a\ncount: 3\ncount: 4\n", "count stands twice"),
        ("out: a\nbrush: {tip: flat, tip: round}\n", "tip stands twice"),
        ("out: a\ncount: true\n", "count is True: a number is expected"),
        ("out: a\nshare: yes\n", "share is True: a number is expected"),
        ("out: ''\n", "out is '': give a path"),
        ("out: a\nreal: ' '\n", "real is ' ': give a path"),
        ('out: "a\\0b"\n', "give a path"),
    ],
)
def test_what_yaml_lets_pass_is_refused(tmp_path, text, named):
    path = write_yaml(tmp_path, text)
    for read in (lambda: read_settings(Picture, path),
                 lambda: parse(Picture, ["--config", str(path)], "p")):  # fmt: skip
        with pytest.raises(ConfigError, match=named) as caught:
            read()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_home_folder_is_found_and_flags_may_be_true(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = write_yaml(tmp_path, "out: ~/study\nstrict: true\n")
    found = read_settings(Picture, path)
    assert found.out == tmp_path / "study" and found.strict is True


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", "a", "--real", ""]])
def test_an_empty_path_on_the_command_line_is_refused(words):
    with pytest.raises(ConfigError, match=f"{words[-2] if words[-1] == '' else '--out'} is empty"):
        parse(Picture, words, "p")


@pytest.mark.parametrize(
    "words",
    [
        ["--names", "a", "--names", "b", "c"],
        ["--names=a", "--count", "3", "--names", "b", "c", "--strict"],
        ["--count=3", "--names", "a", "b", "--share", "0.1", "--names=c"],
    ],
)
def test_an_option_of_several_values_may_be_given_again(words):
    assert parse(Picture, ["--out", "o", *words], "x").settings.names == ("a", "b", "c")


def test_of_an_option_of_one_value_the_last_counts():
    words = ["--count", "3", "--size", "32", "16", "--count", "4", "--size", "64", "48"]
    chosen = parse(Picture, ["--out", "o", *words], "x").settings
    assert (chosen.count, chosen.size) == (4, (64, 48))
