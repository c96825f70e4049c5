"""`univg export` around its formats: options, splits, names, disk space, push, the plan."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import yaml
from export_sets import export, hashes, make_plain, make_run, start
from PIL import Image

from univg.cli import main
from univg.config import from_plain
from univg.errors import ConfigError, DataError, ProblemReport, UserError
from univg.files import DiskFullError
from univg.generate.export import Export, plan
from univg.generate.export_folders import Folder
from univg.generate.export_hf import push_folder
from univg.generate.export_index import safe_key
from univg.images import read_image
from univg.manifest import encode_row, read_rows
from univg.pairs import check_pairs, open_pairs


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_run(tmp_path / "pairs", 12)


def test_a_split_keeps_the_images_of_one_mask_together(pairs, tmp_path):
    export(pairs, tmp_path / "out", "folder", validation=0.34, seed=4)
    sides: dict[str, set[str]] = {}
    for row in read_rows(tmp_path / "out"):
        sides.setdefault(row["source"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    held = [source for source, splits in sides.items() if splits == {"validation"}]
    assert len(held) == 2  # of six masks with two images each
    export(pairs, tmp_path / "same", "folder", validation=0.34, seed=4)
    assert hashes(tmp_path / "same") == hashes(tmp_path / "out")
    drawn = set()
    for seed in range(4):
        out = tmp_path / f"seed{seed}"
        export(pairs, out, "folder", validation=0.34, seed=seed)
        drawn.add(frozenset(r["source"] for r in read_rows(out) if r["split"] == "validation"))
    assert len(drawn) > 1


def test_one_mask_cannot_be_split(tmp_path):
    pairs = make_run(tmp_path / "pairs", 2)
    with pytest.raises(DataError, match="must not stand on both sides"):
        export(pairs, tmp_path / "out", "hf", validation=0.5)
    assert not (tmp_path / "out").exists()


def test_several_folders_make_one_set_and_equal_names_get_a_prefix(pairs, tmp_path):
    more = make_run(tmp_path / "more", 4, first=50)
    export(pairs, tmp_path / "out", "folder", also=[more])
    names = [pair.stem for pair in open_pairs(tmp_path / "out", verify=True).pairs]
    assert len(names) == 16 and len(set(names)) == 16
    assert names[12:] == [f"more-fundus-{k:06d}-v{v:02d}" for k in range(2) for v in range(2)]
    assert not check_pairs(tmp_path / "out")
    with pytest.raises(DataError, match="given twice"):
        export(pairs, tmp_path / "twice", "folder", also=[pairs])


def test_names_that_differ_in_case_only_do_not_collide(tmp_path):
    pairs = make_plain(tmp_path / "pairs", fov=False)
    for name in ("images", "masks"):
        shutil.copy(pairs / name / "plain.png", pairs / name / "other.png")
    rows = [
        {"id": name, "image": f"images/{file}.png", "mask": f"masks/{file}.png"}
        for name, file in (("A b", "plain"), ("a_b", "other"), ("a.b", "plain"))
    ]
    (pairs / "manifest.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    export(pairs, tmp_path / "out", "folder")
    found = read_rows(tmp_path / "out")
    assert [row["id"] for row in found] == ["A_b", "pairs-a_b", "pairs-2-a_b"]
    assert [row["original_id"] for row in found] == ["A b", "a_b", "a.b"]


def test_a_pair_that_a_manifest_names_twice_is_told(pairs, tmp_path):
    manifest = pairs / "manifest.jsonl"
    rows = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join([*rows, rows[0]]))
    with pytest.raises(ProblemReport, match="one of two pairs called 'fundus-000000-v00'"):
        export(pairs, tmp_path / "out", "folder")
    assert export(pairs, tmp_path / "out", "folder", skip_bad=True).pairs == 12


def test_damaged_notes_are_made_again(pairs, tmp_path, monkeypatch):
    """A power cut may leave the list of pairs in any state."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:  # stopped after checking, before writing
        patch.setattr(Folder, "begin", _stop)
        with pytest.raises(KeyboardInterrupt):
            export(pairs, out, "folder")
    (notes,) = (out / ".univg-export").glob("index-*.db")
    for damage in (b"no database at all" * 300, notes.read_bytes()[:5000] + bytes(9000)):
        notes.write_bytes(damage)
        with contextlib.suppress(DataError):
            export(pairs, out, "folder")
        export(pairs, out, "folder")
    assert not check_pairs(out)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "key"),
    [("a.b c", "a_b_c"), ("血管-1", "血管-1"), ("__x__y", "x__y"), ("...", "pair"), ("-v", "v")],
)
def test_keys(name, key):
    assert safe_key(name) == key


def test_long_names_stay_apart():
    one, two = safe_key("x" * 300 + "1"), safe_key("x" * 300 + "2")
    assert one != two and len(one) <= 160
    assert len(safe_key("血" * 200).encode()) <= 160


def test_the_exported_folder_is_a_folder_of_pairs_with_its_provenance(pairs, tmp_path):
    export(pairs, tmp_path / "out", "folder")
    assert not check_pairs(tmp_path / "out", strict=True)
    for row, old in zip(read_rows(tmp_path / "out"), read_rows(pairs), strict=True):
        kept = {"id", "engine", "seed", "source", "modality", "sha256"}
        assert {key: row[key] for key in kept} == {key: old[key] for key in kept}
        assert row["origin"] == "synthetic"


def test_an_export_of_an_export(pairs, tmp_path):
    export(pairs, tmp_path / "webp", "folder", image_format="webp")
    export(tmp_path / "webp", tmp_path / "out", "folder")
    for pair in open_pairs(tmp_path / "out").pairs:
        original = np.asarray(Image.open(pairs / "images" / f"{pair.stem}.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(pair.image)), original)


def test_a_card_says_what_is_in_it(pairs, tmp_path):
    real = make_run(tmp_path / "shots", 3, first=90)
    words = {"real": [real], "validation": 0.3, "licence": "cc-by-4.0"}
    export(pairs, tmp_path / "out", "hf", **words)
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert {"synthetic", "fundus"} <= set(head["tags"])
    assert head["size_categories"] == ["n<1K"]
    counts = {split["name"]: split["num_examples"] for split in head["dataset_info"]["splits"]}
    assert sum(counts.values()) == 15 and counts["real"] == 3
    for word in ("How it was made", "Licences", "Use and limits", "procedural"):
        assert word in text


def test_folds_of_nnunet_validate_on_real_cases_only(pairs, tmp_path):
    for count in (1, 3, 7):
        real = make_run(tmp_path / f"shots{count}", count, first=90)
        export(pairs, tmp_path / f"out{count}", "nnunet", real=[real], dataset_name="Eye")
        place = tmp_path / f"out{count}" / "Dataset501_Eye"
        folds = json.loads((place / "splits_final.json").read_text())
        assert len(folds) == 5
        for fold in folds:
            assert fold["val"] and all(name.startswith("real-") for name in fold["val"])
            assert not set(fold["val"]) & set(fold["train"])
            assert len(fold["val"]) + len(fold["train"]) == 12 + count
        assert len({name for fold in folds for name in fold["val"]}) == count


def test_nnunet_gets_the_same_channels_everywhere(pairs, tmp_path):
    grey = make_plain(tmp_path / "grey", fov=False)
    export(pairs, tmp_path / "out", "nnunet", also=[grey])
    place = tmp_path / "out" / "Dataset501_Vessels"
    names = json.loads((place / "dataset.json").read_text())["channel_names"]
    assert names == {"0": "R", "1": "G", "2": "B"}
    shapes = {read_image(path).shape[2:] for path in (place / "imagesTr").iterdir()}
    assert shapes == {(3,)}


def test_nnunet_gets_colours_of_16_bits_in_a_file_a_channel(tmp_path):
    deep = make_plain(tmp_path / "deep", "rgb16", fov=False)
    export(deep, tmp_path / "out", "nnunet")
    place = tmp_path / "out" / "Dataset501_Vessels" / "imagesTr"
    stored = np.dstack([np.asarray(Image.open(place / f"plain_{k:04d}.png")) for k in range(3)])
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, read_image(deep / "images" / "plain.png"))


def test_fields_of_view_of_some_pairs(pairs, tmp_path):
    some = make_plain(tmp_path / "some")
    with pytest.raises(DataError, match="4 of 16 pairs have a field of view"):
        export(pairs, tmp_path / "out", "hf-imagefolder", also=[some])
    export(pairs, tmp_path / "hf", "hf", also=[some])
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted((tmp_path / "hf" / "data").iterdir())
    views = [row for file in files for row in parquet.read_table(file)["fov"].to_pylist()]
    assert [view is not None for view in views] == [False] * 12 + [True] * 4


def test_tars_carry_no_times_and_no_owners(pairs, tmp_path):
    export(pairs, tmp_path / "out", "webdataset", shard_size=5)
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in tars] == [f"pairs-{k:06d}.tar" for k in range(3)]
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_a_full_disk_is_foreseen(pairs, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
        with pytest.raises(UserError, match=r"12 pairs need about .* MB and 0\.0 MB are free"):
            export(pairs, tmp_path / "out", "webdataset")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_ends_with_a_line_and_can_be_gone_on_from(pairs, tmp_path):
    """A limit on the size of files acts as a full disk does."""
    export(pairs, tmp_path / "whole", "webdataset", shard_size=4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        with pytest.raises(DiskFullError, match="run the same command again"):
            export(pairs, tmp_path / "out", "webdataset", shard_size=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").rglob("*.univg-tmp*"))
    export(pairs, tmp_path / "out", "webdataset", shard_size=4)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_a_disk_too_full_for_the_list_of_pairs_ends_with_a_line(pairs, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(UserError, match="disk"):
            export(pairs, tmp_path / "out", "folder")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    export(pairs, tmp_path / "out", "folder")
    assert len(open_pairs(tmp_path / "out").pairs) == 12


def test_a_pair_that_changes_between_two_runs_is_noticed(pairs, tmp_path):
    process = start([pairs, tmp_path / "out", "--to", "folder", "--workers", 1])
    assert process.wait() == 0
    process.communicate()
    rows = read_rows(pairs)
    first = pairs / rows[0]["image"]
    first.write_bytes((pairs / rows[1]["image"]).read_bytes())
    with pytest.raises(DataError, match="differs from what manifest"):
        export(pairs, tmp_path / "out", "folder")


def test_the_plan_writes_nothing(pairs, tmp_path):
    said = plan(from_plain(Export, {"pairs": pairs, "out": tmp_path / "out", "to": "hf"}))
    assert "12 pairs (12 train)" in said and "1 shards" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "webdatset"], "did you mean webdataset"),
        (["--to", "nnunet", "--image-format", "webp"], "nnunet reads png only"),
        (["--to", "monai", "--image-format", "webp"], "monai reads png and jpeg only"),
        (["--to", "folder", "--push", "me/set"], "only --to hf"),
        (["--to", "no.such.module:build"], "cannot be imported"),
        (["--to", "os:getcwd"], "TypeError"),
        (["--to", "builtins:repr"], "returned a str, no Exporter"),
        (["--to", "nnunet", "--dataset-name", "a b"], "dataset_name"),
        (["--to", "monai", "--real", ".", "--validation", "0.2"], "leave one of the two out"),
    ],
)
def test_mistakes_are_one_line(words, said, pairs, tmp_path, capsys):
    assert main(["export", str(pairs), str(tmp_path / "out"), *words]) == 2
    complained = capsys.readouterr().err
    assert said in complained and complained.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_out_inside_of_pairs_is_refused(pairs):
    with pytest.raises(DataError, match="lies in the folder of pairs"):
        export(pairs, pairs / "out", "folder")
    with pytest.raises(DataError, match="does not exist"):
        export(pairs / "nowhere", pairs.parent / "out", "folder")


def build_own(settings: Export) -> Folder:
    """An exporter of a user's own."""
    from univg.generate.export_pictures import Encoding

    return Folder(encoding=Encoding(), licence=settings.licence)


def test_an_exporter_of_ones_own(pairs, tmp_path):
    export(pairs, tmp_path / "out", "test_generate_export_runs:build_own")
    assert len(open_pairs(tmp_path / "out").pairs) == 12
    with pytest.raises(ConfigError):
        export(pairs, tmp_path / "other", "test_generate_export_runs:nothing")


def test_push_without_a_network_is_one_line(pairs, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    export(pairs, tmp_path / "out", "hf")
    with pytest.raises(UserError, match="is complete") as caught:
        push_folder(tmp_path / "out", "somebody/vessels")
    assert "\n" not in str(caught.value)
