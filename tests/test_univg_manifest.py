"""The manifest: torn lines, full disks, foreign folders and a second process at the same folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from univg.errors import DataError, ResumeError
from univg.files import DiskFullError
from univg.manifest import (
    MANIFEST_NAME,
    RUN_NAME,
    ManifestWriter,
    claim_folder,
    describe_difference,
    encode_row,
    iterate_rows,
    lock_folder,
    read_rows,
)

ROWS = [{"index": k, "id": f"é-{k}", "parameters": {"b": [1.5, 2], "a": None}} for k in range(5)]
IDENTITY = {"stage": "x", "seed": 7, "growth": {"kill_px": 10.0, "roots": ["disc"]}}


def write_rows(folder, rows) -> None:
    with ManifestWriter(folder) as manifest:
        manifest.append(rows)


def test_rows_come_back_in_order(tmp_path):
    write_rows(tmp_path, ROWS[:2])
    write_rows(tmp_path, [])
    write_rows(tmp_path, ROWS[2:])
    assert read_rows(tmp_path) == ROWS


def test_a_row_has_one_spelling():
    assert (
        encode_row({"b": 1, "a": "é"})
        == encode_row({"a": "é", "b": 1})
        == b'{"a":"\xc3\xa9","b":1}\n'
    )


def test_no_manifest_is_no_rows(tmp_path):
    assert read_rows(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 2, 10, 30])
def test_a_torn_last_line_does_not_count_and_is_cut_off(tmp_path, cut):
    write_rows(tmp_path, ROWS)
    path = tmp_path / MANIFEST_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_rows(tmp_path) == ROWS[:-1]
    write_rows(tmp_path, ROWS[-1:])
    assert path.read_bytes() == whole


def test_a_manifest_of_one_torn_line(tmp_path):
    (tmp_path / MANIFEST_NAME).write_bytes(b'{"index": 0')
    assert read_rows(tmp_path) == []
    write_rows(tmp_path, ROWS)
    assert read_rows(tmp_path) == ROWS


@pytest.mark.parametrize("line", [b"not json", b"[1, 2]", b"3", b'{"a": \xff}', b""])
def test_a_damaged_line_names_file_and_line(tmp_path, line):
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(encode_row(ROWS[0]) + line + b"\n" + encode_row(ROWS[1]))
    with pytest.raises(DataError, match="line 2") as caught:
        read_rows(tmp_path)
    assert str(path) in str(caught.value)


def test_rows_are_read_one_by_one(tmp_path):
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(encode_row(ROWS[0]) + b"damaged\n")
    rows = iterate_rows(tmp_path)
    assert next(rows) == ROWS[0]
    with pytest.raises(DataError):
        next(rows)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    write_rows(tmp_path, ROWS[:2])
    before = (tmp_path / MANIFEST_NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ManifestWriter(tmp_path) as manifest:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError):
            manifest.append(ROWS[2:])
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before


def test_an_empty_folder_is_claimed_and_claimed_again(tmp_path):
    claim_folder(tmp_path, IDENTITY)
    first = (tmp_path / RUN_NAME).read_bytes()
    claim_folder(tmp_path, {**IDENTITY, "growth": {"kill_px": 10.0, "roots": ("disc",)}})
    assert (tmp_path / RUN_NAME).read_bytes() == first
    assert json.loads(first) == IDENTITY


def test_what_a_killed_run_left_before_its_claim_does_not_count(tmp_path):
    (tmp_path / ".univg-tmp-99-run.json").touch()
    claim_folder(tmp_path, IDENTITY)


def test_another_run_is_refused_with_the_settings_that_differ(tmp_path):
    claim_folder(tmp_path, IDENTITY)
    before = (tmp_path / RUN_NAME).read_bytes()
    other = {"stage": "x", "seed": 8, "growth": {"kill_px": 9.0, "roots": ["disc"]}, "size": 3}
    with pytest.raises(ResumeError) as caught:
        claim_folder(tmp_path, other)
    text = str(caught.value)
    for part in (
        str(tmp_path),
        "seed is 7 there and 8 here",
        "growth.kill_px is 10.0 there",
        "size",
    ):
        assert part in text
    assert "stage" not in text and "roots" not in text
    assert (tmp_path / RUN_NAME).read_bytes() == before


def test_a_setting_that_the_other_run_had_and_this_one_has_not():
    assert "extra is 3 there" in describe_difference({"extra": 3}, {})


def test_many_differences_are_counted():
    text = describe_difference({str(k): 0 for k in range(9)}, {str(k): 1 for k in range(9)})
    assert "and 5 more" in text


def test_files_of_unknown_origin_are_refused_and_left(tmp_path):
    (tmp_path / "thesis.docx").write_bytes(b"years of work")
    with pytest.raises(ResumeError, match=r"thesis\.docx"):
        claim_folder(tmp_path, IDENTITY)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_damaged_claim_is_refused(tmp_path):
    (tmp_path / RUN_NAME).write_bytes(b"{")
    with pytest.raises(ResumeError, match=r"run\.json"):
        claim_folder(tmp_path, IDENTITY)
    assert (tmp_path / RUN_NAME).read_bytes() == b"{"


HOLDER = """
import sys
from pathlib import Path
from univg.manifest import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["kill", "leave"])
def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path, ending):
    claim_folder(tmp_path, IDENTITY)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ResumeError, match="another run is writing"), lock_folder(tmp_path):
            pass
        if ending == "kill":
            holder.send_signal(signal.SIGKILL)
        else:
            holder.stdin.close()
        holder.wait(timeout=20)
        with lock_folder(tmp_path):
            pass
