"""Files are whole or absent, also when the disk is full or the process dies."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from univg.errors import UserError
from univg.files import (
    DiskFullError,
    make_folder,
    remove_temporaries,
    sha256_hex,
    sha256_of_file,
    sync_folder,
    write_atomic,
)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_whole_and_replaced_whole(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, code):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_rename_that_fails_leaves_no_temporary(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").touch()
    with pytest.raises(UserError, match="choose another"):
        write_atomic(tmp_path / "a", b"x")  # a folder stands there
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_atomic(tmp_path / "none" / "a", b"x")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*choose another"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"file.*choose another"):
        make_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            write_atomic(tmp_path / "a", b"x")
        with pytest.raises(UserError, match="cannot be written"):
            make_folder(tmp_path / "b")
    finally:
        tmp_path.chmod(0o700)


def test_only_temporaries_are_removed(tmp_path):
    for name in (".univg-tmp-12-a.png", "a.png", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".univg-tmp-12-b.png").touch()
    assert remove_temporaries(tmp_path) == 1
    assert names(tmp_path) == [".hidden", "a.png", "below"]
    assert names(tmp_path / "below") == [".univg-tmp-12-b.png"]


def test_folders_are_made_with_their_parents_and_again(tmp_path):
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == folder
    assert make_folder(folder) == folder
    sync_folder(folder)


def test_hashes(tmp_path):
    data = os.urandom(300_000)
    write_atomic(tmp_path / "a", data)
    wanted = hashlib.sha256(data).hexdigest()
    assert sha256_hex(data) == sha256_of_file(tmp_path / "a") == wanted


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    """A process that does nothing but replace a file is killed; the file is one of its versions."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from univg.files import write_atomic\n"
        "path = Path(sys.argv[1])\n"
        "for k in range(10**9):\n"
        "    write_atomic(path, bytes([k % 256]) * 200_000)\n"
    )
    path = tmp_path / "a.bin"
    for delay in (0.001, 0.013, 0.029):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = path.read_bytes()
        assert len(data) == 200_000 and len(set(data)) == 1
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["a.bin"]
