"""`univg data build`: what enters, what must not, and what a reader finds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import main
from univg.manifest import encode_row, lock_folder, read_rows

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before `datasets` is imported
pytest.importorskip("pyarrow")
pytest.importorskip("datasets")


def picture(seed: int, height: int = 60, width: int = 80, grey: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8) if grey else (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two pretraining sources, one of both kinds, one downstream set, one stranger."""
    root = tmp_path / "sources"
    for i in range(4):
        save(root / "DiaRetDB1/resources/ddb1_fundusimages" / f"image{i:03d}.png", picture(i))
    for i in range(3):
        save(root / "adsd/dataset" / f"14_002_{i}_0016.bmp", picture(10 + i, 64, 64, grey=True))
    for i in range(3):
        save(root / "xacd/train/trainB" / f"{i}.png", picture(20 + i, grey=True))
    save(root / "xacd/train/trainC/0.png", picture(29, grey=True))
    for i in range(2):
        save(root / "xacd/test/images" / f"{i}.png", picture(30 + i, grey=True))
        save(root / "xacd/test/masks" / f"{i}.png", np.full((60, 80), 255 * i, np.uint8))
    for i in range(2):
        save(root / "drive/training/images" / f"{21 + i}_training.tif", picture(40 + i))
    save(root / "holiday/photo.png", picture(50))
    return root


def build(root: Path, out: Path, *words: str, code: int = 0) -> dict:
    words = ("--size", "32", "--shard-images", "4", "--workers", "2", *words)
    command = ["data", "build", "univg-58k", "--root", str(root), "--out", str(out), *words]
    assert main(command) == code
    return json.loads((out / "report.json").read_text()) if code == 0 else {}


def load(out: Path) -> list[dict]:
    import datasets

    datasets.disable_progress_bars()
    cache = str(out.parent / "cache")
    return list(datasets.load_dataset(str(out), cache_dir=cache)["train"])


def read_back(out: Path) -> list[dict]:
    import pyarrow.parquet

    files = sorted((out / "data").glob("*.parquet"))
    return [row for path in files for row in pyarrow.parquet.read_table(path).to_pylist()]


def of_source(report: dict, name: str) -> dict:
    return next(source for source in report["sources"] if source["source"] == name)


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("univg: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_datasets_reads_what_is_built(root, tmp_path) -> None:
    report = build(root, tmp_path / "out")
    rows = load(tmp_path / "out")
    assert len(rows) == report["images"] == 10
    first = rows[0]
    assert set(first) == {"image", "modality", "source", "stem", "width", "height", "sha256"}
    assert (first["source"], first["modality"], first["stem"]) == (
        "adsd",
        "coronary",
        "14_002_0_0016",
    )
    assert first["image"].size == (32, 32) == (first["width"], first["height"])
    whole = cv2.resize(picture(10, 64, 64, grey=True), (32, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(np.asarray(first["image"]), whole)
    assert {row["source"] for row in rows} == {"adsd", "diaretdb1", "xacd"}


def test_datasets_reads_the_parquet_files_alone(root, tmp_path) -> None:
    import datasets

    build(root, tmp_path / "out")
    files = [str(p) for p in sorted((tmp_path / "out/data").glob("*.parquet"))]
    cache = str(tmp_path / "cache")
    table = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)["train"]
    assert isinstance(table.features["image"], datasets.Image)
    assert table[9]["image"].mode == "L" and table[4]["image"].mode == "RGB"


def test_files_and_names(root, tmp_path) -> None:
    report = build(root, tmp_path / "out")
    names = [f"data-0000{i}-of-00003.parquet" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "out/data").iterdir()) == names
    assert [shard["name"] for shard in report["shards"]] == names
    assert [shard["rows"] for shard in report["shards"]] == [4, 4, 2]
    image = read_back(tmp_path / "out")[0]["image"]
    assert image["path"] == "adsd/dataset/14_002_0_0016.png" and image["bytes"][:4] == b"\x89PNG"


def test_report_counts_found_expected_and_missing(root, tmp_path, capsys) -> None:
    report = build(root, tmp_path / "out")
    assert report["expected"] == 57_075 and len(report["sources"]) == 14
    diaretdb1 = of_source(report, "diaretdb1")
    assert (diaretdb1["expected"], diaretdb1["found"], diaretdb1["missing"]) == (89, 4, 85)
    assert of_source(report, "xacd") | {"unrecognized": 3} == of_source(report, "xacd")
    assert of_source(report, "messidor")["missing"] == 1200
    assert report["ignored_folders"] == ["holiday"]
    out = capsys.readouterr().out
    assert "diaretdb1" in out and "left alone: holiday" in out and "10 images in 3 shards" in out


def test_downstream_images_never_enter(root, tmp_path) -> None:
    build(root, tmp_path / "out")
    rows = read_back(tmp_path / "out")
    assert not [row for row in rows if row["source"] == "drive"]
    assert sorted(r["stem"] for r in rows if r["source"] == "xacd") == ["0", "1", "2"]
    hashes = {row["sha256"] for row in rows}
    from univg.data_cards.build_shards import hash_pixels

    assert not hashes & {hash_pixels(picture(30 + i, grey=True)) for i in range(2)}


def test_a_test_image_in_disguise_is_left_out(root, tmp_path) -> None:
    # The same pixels under another name, in another format, as colour, in a pretraining source.
    grey = picture(30, grey=True)
    save(root / "adsd/dataset/14_009_1_0001.bmp", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    shutil.copy(
        root / "drive/training/images/21_training.tif",
        root / "drive/training/images/copy.tif",
    )
    save(root / "DiaRetDB1/resources/ddb1_fundusimages/image900.png", picture(40))
    report = build(root, tmp_path / "out")
    assert report["images"] == 10
    left_out = {(drop["image"].split("/")[-1], drop["why"]) for drop in report["dropped"]}
    assert left_out == {("14_009_1_0001.bmp", "test image"), ("image900.png", "test image")}
    assert of_source(report, "adsd")["test_images"] == 1


def test_a_source_under_its_other_name_keeps_its_test_images_out(root, tmp_path) -> None:
    (root / "xacd").rename(root / "XCAD")
    save(root / "DiaRetDB1/resources/ddb1_fundusimages/image901.png", picture(30, grey=True))
    report = build(root, tmp_path / "out")
    assert of_source(report, "xacd")["taken"] == 3
    assert {drop["why"] for drop in report["dropped"]} == {"test image"}


def test_a_misspelt_source_is_not_passed_over(root, tmp_path, capsys) -> None:
    (root / "xacd").rename(root / "xcads")
    build(root, tmp_path / "out", code=2)
    assert "is this the data set `xacd`" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_second_build_at_the_same_time_is_refused(root, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"):
        build(root, tmp_path / "out", code=2)
    assert "another run is writing here" in one_line(capsys)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["XCAD_v1", "xcad dataset", "xacdd", "drive-old", "hrf 2", "Octa", "eyepacs_train"]
)
def test_a_folder_named_nearly_like_a_source_is_an_error(root, tmp_path, name, capsys) -> None:
    save(root / name / "0.png", picture(30))
    build(root, tmp_path / "out", code=2)
    assert f"{root / name}: is this the data set" in one_line(capsys)


def test_folders_of_other_names_are_left_alone(root, tmp_path) -> None:
    others = ["DICOM", "fives", "images", "my pictures", "old", "results", "STARE"]
    for name in others:
        save(root / name / "0.png", picture(90))
    assert sorted(build(root, tmp_path / "out")["ignored_folders"]) == sorted(["holiday", *others])


def test_damaged_rows_and_reports_are_one_line(root, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    whole = build(root, out)
    report, manifest = out / "report.json", out / "manifest.jsonl"
    good, rows = report.read_bytes(), read_rows(out)
    for text in ("", "[]", "{}", good.decode()[:90], '{"images": 1, "shards": [{"name": "x"}]}'):
        report.write_text(text)
        build(root, out, code=2)
        assert f"{report}: was edited or damaged; delete this file" in one_line(capsys)
    report.unlink()  # as advised
    assert build(root, out) == whole and report.read_bytes() == good
    capsys.readouterr()
    for field in ("until", "rows", "shard", "inputs_sha256", "taken", "dropped", "sha256"):
        for wrong in ({}, {field: None}, {field: "x" if field not in rows[0] else [1]}):
            row = {key: value for key, value in rows[0].items() if key != field} | wrong
            manifest.write_bytes(b"".join(encode_row(r) for r in [row, *rows[1:]]))
            build(root, out, code=2)
            assert "line 1 is not the row of shard 0" in one_line(capsys)
    manifest.write_bytes(b"".join(encode_row(r) for r in [rows[0], *rows]))
    build(root, out, code=2)
    assert "line 2 is not the row of shard 1" in one_line(capsys)


def test_really_killed_builds_end_with_the_bytes_of_one_that_was_not(root, tmp_path) -> None:
    for i in range(60):
        save(root / "adsd/dataset" / f"14_100_{i}_0016.bmp", picture(300 + i, 400, 400))
    build(root, tmp_path / "whole", "--size", "256")
    out = tmp_path / "out"
    words = ["data", "build", "univg-58k", "--root", str(root), "--out", str(out)]
    words += ["--size", "256", "--shard-images", "4", "--workers", "2"]
    code = f"import sys; from univg.cli import main; sys.exit(main({words!r}))"
    rng, killed, manifest = np.random.default_rng(0), 0, out / "manifest.jsonl"
    for rows_before_kill in (0, 3, 8):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if manifest.exists() and manifest.read_bytes().count(b"\n") >= rows_before_kill:
                time.sleep(rng.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.0005)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 2
    build(root, out, "--size", "256")
    assert content(out) == content(tmp_path / "whole")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_excluded_folders_are_compared_by_pixels(root, tmp_path) -> None:
    save(tmp_path / "test-a/deep/renamed.tif", picture(2))
    save(tmp_path / "test-b/other.bmp", picture(11, 64, 64, grey=True))
    report = build(
        *(root, tmp_path / "out", "--exclude", str(tmp_path / "test-a")),
        *("--exclude", str(tmp_path / "test-b")),
    )
    assert report["images"] == 8
    stems = {row["stem"] for row in read_back(tmp_path / "out")}
    assert not stems & {"image002", "14_002_1_0016"}
    assert of_source(report, "diaretdb1")["test_images"] == 1


def test_a_splits_test_list_is_kept_out(root, tmp_path) -> None:
    (root / "adsd/split.json").write_text(json.dumps({"test": ["14_002_0_0016"], "pool": []}))
    report = build(root, tmp_path / "out")
    stems = [row["stem"] for row in read_back(tmp_path / "out") if row["source"] == "adsd"]
    assert stems == ["14_002_1_0016", "14_002_2_0016"]
    adsd = of_source(report, "adsd")
    assert (adsd["found"], adsd["taken"], adsd["test_images"]) == (3, 2, 1)


def test_duplicates_are_taken_once(root, tmp_path) -> None:
    save(root / "adsd/dataset/14_002_7_0016.bmp", picture(1))
    report = build(root, tmp_path / "out")
    assert report["images"] == 10
    (drop,) = report["dropped"]
    assert drop["why"] == "duplicate" and drop["detail"] == "adsd/14_002_7_0016"
    assert of_source(report, "diaretdb1")["duplicates"] == 1


def test_prepared_sources_are_read_by_their_manifest(root, tmp_path) -> None:
    shutil.rmtree(root / "xacd")
    folder = root / "xacd"
    rows = []
    for i, (group, mask) in enumerate(
        [("train", ""), ("test", "masks/1.png"), ("test", ""), ("", "")]
    ):
        save(folder / "images" / f"{i}.png", picture(60 + i, grey=True))
        row = {"id": str(i), "group": group, "image": f"images/{i}.png"}
        rows.append(row | ({"mask": mask} if mask else {}))
    save(folder / "images/stray.png", picture(70, grey=True))
    (folder / "manifest.jsonl").write_bytes(b"".join(encode_row(row) for row in rows))
    report = build(root, tmp_path / "out")
    assert [r["stem"] for r in read_back(tmp_path / "out") if r["source"] == "xacd"] == ["0"]
    assert of_source(report, "xacd")["found"] == 1


def test_prepare_then_build(root, tmp_path, capsys) -> None:
    prepared = tmp_path / "prepared/xacd"
    words = ["--from", str(root / "xacd"), "--out", str(prepared), "--skip-bad"]
    assert main(["data", "prepare", "xacd", *words]) == 0
    build(prepared.parent, tmp_path / "out")
    build(root, tmp_path / "out2")
    by_prepared = {r["sha256"] for r in read_back(tmp_path / "out")}
    assert by_prepared == {
        r["sha256"] for r in read_back(tmp_path / "out2") if r["source"] == "xacd"
    }
    assert len(by_prepared) == 3


def test_workers_do_not_change_the_bytes(root, tmp_path) -> None:
    build(root, tmp_path / "one", "--workers", "1")
    build(root, tmp_path / "four", "--workers", "4")
    for path in (tmp_path / "one/data").iterdir():
        assert path.read_bytes() == (tmp_path / "four/data" / path.name).read_bytes()


def test_longest_side_and_jpeg(root, tmp_path) -> None:
    build(root, tmp_path / "out", "--fit", "longest", "--format", "jpeg", "--size", "40")
    row = next(r for r in read_back(tmp_path / "out") if r["source"] == "diaretdb1")
    assert (row["width"], row["height"]) == (40, 30)
    assert row["image"]["bytes"][:3] == b"\xff\xd8\xff" and row["image"]["path"].endswith(".jpg")
    decoded = cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
    wanted = cv2.resize(picture(0), (40, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded.astype(int) - wanted).mean() < 4


def test_crop_takes_the_centre(root, tmp_path) -> None:
    build(root, tmp_path / "out", "--size", "60")
    row = next(r for r in read_back(tmp_path / "out") if r["source"] == "diaretdb1")
    decoded = cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, picture(0)[:, 10:70])


def test_second_run_verifies_and_skips(root, tmp_path, capsys) -> None:
    first = build(root, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert build(root, tmp_path / "out") == first
    assert "nothing to do" in capsys.readouterr().out
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_other_settings_or_sources_are_refused(root, tmp_path, capsys) -> None:
    build(root, tmp_path / "out")
    build(root, tmp_path / "out", "--size", "64", code=2)
    assert "size is 32 there and 64 here" in one_line(capsys)
    (root / "adsd/dataset/14_002_0_0016.bmp").write_bytes(b"BM")
    build(root, tmp_path / "out", code=2)
    assert "files that shard 0 was made of have changed" in one_line(capsys)
    save(root / "adsd/dataset/14_003_1_0001.bmp", picture(99))
    build(root, tmp_path / "out", code=2)
    assert "sources_sha256" in one_line(capsys)


def test_damage_is_found(root, tmp_path, capsys) -> None:
    report = build(root, tmp_path / "out")
    path = tmp_path / "out/data" / report["shards"][1]["name"]
    path.write_bytes(path.read_bytes()[:-7])
    build(root, tmp_path / "out", code=2)
    assert f"{path}: is missing or not what was written" in one_line(capsys)


def test_a_killed_run_goes_on_and_ends_the_same(root, tmp_path, capsys) -> None:
    save(root / "adsd/dataset/14_002_7_0016.bmp", picture(1))  # a duplicate to remember
    whole = build(root, tmp_path / "whole")
    build(root, tmp_path / "out")
    out = tmp_path / "out"
    # As if killed in the second shard: one line in the manifest, a torn one, a temporary file.
    (out / "report.json").unlink()
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(lines[0] + lines[1][:20])
    (out / "data/data-00000-of-00003.parquet").rename(out / "data/part-00000.parquet")
    kept = (out / "data/part-00000.parquet").stat().st_ino
    for number in (1, 2):
        (out / f"data/data-0000{number}-of-00003.parquet").unlink()
    (out / "data/.univg-tmp-part-00001.parquet").write_bytes(b"torn")
    assert build(root, out) == whole
    assert (out / "data/data-00000-of-00003.parquet").stat().st_ino == kept
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert len(files) == 7
    for name in files:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_between_the_last_renames(root, tmp_path) -> None:
    whole = build(root, tmp_path / "out")
    out = tmp_path / "out"
    (out / "report.json").unlink()
    (out / "data/data-00002-of-00003.parquet").rename(out / "data/part-00002.parquet")
    assert build(root, out) == whole


def test_unreadable_images_stop_or_are_listed(root, tmp_path, capsys) -> None:
    good = (root / "adsd/dataset/14_002_0_0016.bmp").read_bytes()
    (root / "adsd/dataset/14_002_0_0017.bmp").write_bytes(good[: len(good) // 2])
    (root / "adsd/dataset/14_002_0_0018.bmp").write_bytes(b"")
    build(root, tmp_path / "out", code=2)
    err = capsys.readouterr().err
    assert "14_002_0_0017.bmp" in err and "14_002_0_0018.bmp" in err and "--skip-bad" in err
    assert not (tmp_path / "out/report.json").exists()
    report = build(root, tmp_path / "out-2", "--skip-bad")
    assert report["images"] == 10 and of_source(report, "adsd")["unreadable"] == 2
    assert {drop["why"] for drop in report["dropped"]} == {"unreadable"}


def test_a_mended_file_lets_the_run_go_on(root, tmp_path, capsys) -> None:
    path = save(root / "xacd/train/trainB/1.png", picture(21, grey=True))
    good = path.read_bytes()
    path.write_bytes(good[:40])
    build(root, tmp_path / "out", code=2)
    assert "1.png" in capsys.readouterr().err
    finished = (tmp_path / "out/data/part-00000.parquet").stat().st_ino
    path.write_bytes(good)
    assert build(root, tmp_path / "out")["images"] == 10
    shard = tmp_path / "out/data/data-00000-of-00003.parquet"
    assert shard.stat().st_ino == finished


def test_masks_of_downstream_sets_need_not_be_pictures(root, tmp_path) -> None:
    save(root / "drive/training/1st_manual/21_manual1.png", picture(1))
    (root / "drive/training/1st_manual/21_manual1.gif").write_bytes(b"GIF89a broken")
    assert build(root, tmp_path / "out")["images"] == 9  # the .png there is no known mask


def test_an_unreadable_test_image_cannot_be_kept_out(root, tmp_path, capsys) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["--exclude", str(tmp_path / "test"), "--skip-bad"]
    build(root, tmp_path / "out", *words, code=2)
    err = capsys.readouterr().err
    assert "cannot be kept out" in err and "cut.png" in err


def test_dry_run_tells_and_writes_nothing(root, tmp_path, capsys) -> None:
    build_words = ["--root", str(root), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["data", "build", "univg-58k", *build_words]) == 0
    out = capsys.readouterr().out
    assert "writes at most 10 images in 1 shard to" in out
    assert "4 test images to compare with" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--root": "nowhere"}, "does not exist"),
        ({"--root": "empty"}, "holds no source of the pretraining set"),
        ({"--root": "odd"}, "of eyepacs no file has a name that the data set is known by"),
        ({"--exclude": "empty"}, "holds no picture"),
        ({"--exclude": "nowhere"}, "is not a folder"),
        ({"--out": "full"}, "no univg run has made"),
        ({"--size": "3"}, "size"),
        ({"--format": "gif"}, "gif"),
        ({"--fit": "squash"}, "squash"),
    ],
)
def test_mistakes_are_one_line(root, tmp_path, change, expected, capsys) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "full/mine.png", picture(1))
    save(tmp_path / "odd/eyepacs/mine/what.png", picture(1))
    paths = {"--root", "--out", "--exclude"}
    given = {"--root": str(root), "--out": str(tmp_path / "out")}
    given |= {k: str(tmp_path / v) if k in paths else v for k, v in change.items()}
    words = [word for pair in given.items() for word in pair]
    assert main(["data", "build", "univg-58k", *words]) == 2
    assert expected in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_unknown_set_and_twin_folders(root, tmp_path, capsys) -> None:
    words = ["--root", str(root), "--out", str(tmp_path / "out")]
    assert main(["data", "build", "univg-59k", *words]) == 2
    assert "univg-58k" in one_line(capsys)
    (root / "ADSD").mkdir()
    assert main(["data", "build", "univg-58k", *words]) == 2
    assert "the same data set" in one_line(capsys)


def test_without_pyarrow_the_pip_line_is_told(root, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    build(root, tmp_path / "out", code=2)
    assert 'pip install "univg[export]"' in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_16_bit_and_colour_stored_grey() -> None:
    from univg.data_cards.build_shards import hash_pixels, to_8_bits

    deep = np.array([[0, 1000], [2000, 4000]], np.uint16)
    assert to_8_bits(deep).tolist() == [[0, 64], [128, 255]]
    grey = picture(1, grey=True)
    assert hash_pixels(grey) == hash_pixels(np.dstack([grey] * 3))
    assert hash_pixels(grey) != hash_pixels(grey.T)
