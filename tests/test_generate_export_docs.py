"""The code in docs/export.md runs as it stands there."""

from __future__ import annotations

import gc
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from export_sets import export, make_plain, make_run

from univg.generate.export import EXPORTERS
from univg.manifest import encode_row, read_rows

PAGE = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
NEEDED = {
    "hf": "datasets", "hf-imagefolder": "datasets", "webdataset": "webdataset", "monai": "monai",
}  # fmt: skip


def section(title: str) -> str:
    """The Python code below a heading."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


@pytest.mark.parametrize("to", EXPORTERS)
def test_each_reader_opens_it_as_the_page_says(to, tmp_path, monkeypatch):
    if to in NEEDED and importlib.util.find_spec(NEEDED[to]) is None:
        pytest.skip(f"{NEEDED[to]} is not installed")
    pairs = make_run(tmp_path / "pairs", 4)
    real = make_plain(tmp_path / "shots", "rgb", fov=False)
    export(pairs, tmp_path / "out", to, real=[real])
    code = section(to).replace('"OUT', f'"{tmp_path}/out')
    assert 'out"' in code or "out/" in code
    if "datasets" in code:
        code = code.replace('split="train"', f'split="train", cache_dir="{tmp_path}/cache"')
    found: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves files open
        exec(compile(code, "docs/export.md", "exec"), found)
        gc.collect()
    last = {
        "folder": "mask", "hf": "mask", "hf-imagefolder": "mask", "webdataset": "record",
        "nnunet": "images", "monai": "label_path", "paper": "prompt",
    }  # fmt: skip
    assert found[last[to]] is not None
    if to == "nnunet":
        assert len(found["images"]) == 8 and all(path.is_file() for path in found["images"])
    if to == "paper":
        assert found["mask_path"].is_file() and found["image_path"].is_file()


def test_the_layout_of_ones_own_on_the_page(tmp_path, monkeypatch):
    module = ModuleType("my_layout")
    monkeypatch.setitem(sys.modules, "my_layout", module)
    exec(compile(section("A layout of your own"), "docs/export.md", "exec"), module.__dict__)
    export(make_run(tmp_path / "pairs", 4), tmp_path / "out", "my_layout:build")
    table = (tmp_path / "out" / "pairs.csv").read_text().splitlines()
    assert len(table) == 4
    for line in table:
        assert all((tmp_path / "out" / name).is_file() for name in line.split(","))


@pytest.mark.parametrize(
    ("stated", "asked", "licence", "name"),
    [
        (["CC BY 4.0"], "", "cc-by-4.0", None),
        (["CC BY-NC-SA 4.0"], "", "cc-by-nc-sa-4.0", None),
        (["CC0 1.0"], "", "cc0-1.0", None),
        (["research only"], "", "other", "research only"),
        (["CC BY 4.0"], "mit", "mit", None),
        (["CC BY 4.0", "research only"], "", "unknown", None),
        (["CC BY 4.0", ""], "", "unknown", None),
        ([""], "", "unknown", None),
    ],
)
def test_the_card_has_the_licence_of_the_pairs(stated, asked, licence, name, tmp_path):
    """That of `--licence`, else the one that all pairs stand under; what differs is left open."""
    pairs = make_run(tmp_path / "pairs", 4)
    rows = read_rows(pairs)
    for number, row in enumerate(rows):
        if stated[number % len(stated)]:
            row["licence"] = stated[number % len(stated)]
    (pairs / "manifest.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    export(pairs, tmp_path / "out", "hf-imagefolder", licence=asked)
    _, head, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["license"] == licence and card.get("license_name") == name
    for words in filter(None, stated):
        assert f"Of sources: {words} (" in body
    assert ("state it before you publish" in body) == (licence == "unknown")
