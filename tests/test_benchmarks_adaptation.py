"""The tables of the adaptation's benchmark show what was measured."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    """The module, imported as running a benchmark would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("adaptation_tables")
    sys.modules.pop("adaptation_tables", None)


def of(value: float) -> dict[str, float]:
    return {"frechet": value, "energy": value / 2, "floor": 0.5, "cldice": value / 10}


def test_mean_and_spread_over_draws_stand_above_the_draws(tables):
    found = {"facts": {"base": "b"}}
    for draw, after in (("A", 2.0), ("B", 4.0)):
        row = {"sca": of(9), "rsca": of(8), "before": of(7), "after": of(after)}
        found[f"HRF {draw} masks"] = {"seconds": 100.0, **row}
    lines = tables.make_tables(found).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    head = {title: place for place, title in enumerate(rows[0])}
    assert rows[2][0] == "**HRF**, 2 draws"
    assert rows[2][head["nano before"]] == "7.00 ± 0.00"
    assert rows[2][head["Fréchet: SCA"] + 3] == "3.00 ± 1.41"
    assert [row[0] for row in rows[3:]] == ["HRF A", "HRF B"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not any("Images" in line for line in lines)


def test_images_have_their_own_columns(tables):
    row = {name: of(3) for name in ("procedural", "before", "unfinished", "grain alone", "after")}
    row |= {"real": of(6), "chance": 0.1, "refiner strength": 0.75, "seconds": 400.0}
    lines = tables.make_tables({"XCA A images": row}).splitlines()
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    titles = [cell.strip() for line in lines if line.startswith("| set") for cell in
              line.strip("|").split("|")]  # fmt: skip
    assert cells[titles.index("clDice: real")] == "0.60"
    assert cells[titles.index("refiner")] == "0.75"
    assert cells[titles.index("chance")] == "0.10"
