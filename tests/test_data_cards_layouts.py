"""Each provider's own layout comes out as pairs without loss, loose or packed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from provider_trees import (
    HEIGHT,
    MAKERS,
    PACKERS,
    WIDTH,
    content,
    disc,
    make_drive,
    make_fives,
    make_octa500,
    pack_nested,
    prepare,
)

from univg.files import sha256_of_file
from univg.manifest import read_rows
from univg.masks import read_mask
from univg.pairs import check_pairs, open_pairs


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", MAKERS)
def test_each_provider_comes_out_without_loss(tmp_path: Path, name: str, packer: str) -> None:
    wanted = MAKERS[name](tmp_path / "from")
    source = PACKERS[packer](tmp_path / "from")
    assert prepare(name, "--from", source, "--out", tmp_path / "out") == 0
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert rows.keys() == wanted.keys()
    for stem, (image, mask) in wanted.items():
        stored = Image.open(tmp_path / "out" / "images" / f"{stem}.png")
        assert np.array_equal(np.asarray(stored), image) and stored.format == "PNG"
        assert ("mask" in rows[stem]) == (mask is not None)
        if mask is not None:
            assert np.array_equal(read_mask(tmp_path / "out" / "masks" / f"{stem}.png"), mask)
        assert rows[stem]["size"] == [WIDTH, HEIGHT]
        for role, digest in rows[stem]["sha256"].items():
            assert sha256_of_file(tmp_path / "out" / rows[stem][role]) == digest
        if name in {"drive", "hrf"}:
            assert np.array_equal(read_mask(tmp_path / "out" / rows[stem]["fov"]), disc())
    assert check_pairs(tmp_path / "out") == []
    kinds = {"images", "masks", "manifest.jsonl", "run.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} - {"fov"} == kinds


def test_where_it_was_packed_does_not_matter(tmp_path: Path) -> None:
    make_drive(tmp_path / "from")
    outcomes = []
    for packer in ("folder", "zip", "tar.gz"):
        out = tmp_path / f"out-{packer}"
        assert prepare("drive", "--from", PACKERS[packer](tmp_path / "from"), "--out", out) == 0
        outcomes.append(content(out))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_the_rows_name_their_sources(tmp_path: Path) -> None:
    make_drive(tmp_path / "from")
    prepare("drive", "--from", tmp_path / "from", "--out", tmp_path / "out")
    row = next(r for r in read_rows(tmp_path / "out") if r["id"] == "21")
    assert row["group"] == "training" and row["univg"]
    assert row["source"] == {
        "image": "training/images/21_training.tif",
        "mask": "training/1st_manual/21_manual1.gif",
        "fov": "training/mask/21_training_mask.gif",
    }
    found = open_pairs(tmp_path / "out")
    assert [p.stem for p in found.pairs] == ["21", "22"]
    assert [p.name for p in found.unlabelled] == ["01.png", "02.png"]


def test_a_group_alone_keeps_its_names(tmp_path: Path) -> None:
    make_fives(tmp_path / "from")
    out = tmp_path / "out"
    assert prepare("fives", "--from", tmp_path / "from", "--out", out, "--group", "TEST") == 0
    assert [row["id"] for row in read_rows(out)] == ["test_1_A", "test_2_D"]


def test_label_classes_can_be_chosen(tmp_path: Path) -> None:
    make_octa500(tmp_path / "from")
    words = ("octa500", "--from", tmp_path / "from", "--out", tmp_path / "out")
    assert prepare(*words, "--labels", "faz", "vessel") == 0
    mask = read_mask(tmp_path / "out" / "masks" / "10001.png")
    assert np.array_equal(mask[30:36, 30:36], np.ones((6, 6), bool))


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_drive(tmp_path / "from")
    nested = pack_nested(tmp_path / "from", tmp_path / "n.zip")
    for source in (tmp_path / "from", nested):
        assert prepare("drive", "--from", source, "--out", tmp_path / "out", "--dry-run") == 0
        text = capsys.readouterr().out
        assert "training: 2 images, 2 masks, 2 fields of view" in text
        assert "test: 2 images, 0 masks, 2 fields of view" in text
    assert not (tmp_path / "out").exists()
