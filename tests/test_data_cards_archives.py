"""Archives are opened without trust: what is asked for comes out, nothing gets outside."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from univg.data_cards import archives
from univg.data_cards.archives import Source, open_source
from univg.errors import DataError

CONTENT = {
    "set/images/a.png": b"image a",
    "set/images/b.png": b"image b",
    "set/readme.txt": b"text",
}


def zip_bytes(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def unpack(path: Path, scratch: Path, limit_gib: float = 1, **more: bool) -> Source:
    scratch.mkdir(exist_ok=True)
    return open_source(path, scratch, lambda name: name.endswith(".png"), limit_gib, **more)


def contents(source: Source) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in source.files}


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": zip_bytes,
    "x.tar": tar_bytes,
    "x.tar.gz": lambda files: tar_bytes(files, "w:gz"),
    "x.tgz": lambda files: tar_bytes(files, "w:gz"),
    "x.tar.bz2": lambda files: tar_bytes(files, "w:bz2"),
    "x.tar.xz": lambda files: tar_bytes(files, "w:xz"),
}
WANTED = {name: data for name, data in CONTENT.items() if name.endswith(".png")}


@pytest.mark.parametrize("name", KINDS)
def test_wanted_members_come_out_and_all_names_are_known(tmp_path: Path, name: str) -> None:
    source = unpack(put(tmp_path / name, KINDS[name](CONTENT)), tmp_path / "s")
    assert contents(source) == WANTED
    assert sorted(source.names) == sorted(CONTENT)
    assert len(list((tmp_path / "s").iterdir())) == 2
    assert source.files[0].shown == f"{tmp_path / name}!set/images/a.png"


@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("outer", ["x.zip", "x.tar.gz", "folder"])
def test_archives_in_archives_stand_for_folders(tmp_path: Path, inner: str, outer: str) -> None:
    packed = KINDS[inner]({"images/a.png": b"a", "n.tif": b"n"})
    name = inner.replace("x", "training", 1)
    if outer == "folder":
        place = put(tmp_path / "f" / "deep" / name, packed).parents[1]
    else:
        place = put(tmp_path / outer, KINDS[outer]({f"deep/{name}": packed}))
    source = unpack(place, tmp_path / "s")
    assert contents(source) == {"deep/training/images/a.png": b"a"}
    listed = unpack(place, tmp_path / "s2", list_only=True)
    assert [f.name for f in listed.files] == [f.name for f in source.files]
    assert listed.names == source.names


def test_an_archive_that_is_unpacked_beside_itself_is_not_opened(tmp_path: Path) -> None:
    put(tmp_path / "f" / "training.zip", zip_bytes({"a.png": b"packed"}))
    put(tmp_path / "f" / "training" / "a.png", b"loose")
    assert contents(unpack(tmp_path / "f", tmp_path / "s")) == {"training/a.png": b"loose"}


def test_single_compressed_pictures_are_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(b"picture")
    put(tmp_path / "f" / "a.png.gz", packed)
    put(tmp_path / "f" / "more.tar", tar_bytes({"b.png.gz": packed}))
    source = unpack(tmp_path / "f", tmp_path / "s")
    assert contents(source) == {"a.png": b"picture", "more/b.png": b"picture"}
    alone = unpack(tmp_path / "f" / "a.png.gz", tmp_path / "s2")
    assert contents(alone) == {"a.png": b"picture"}


def test_files_of_a_folder_stay_where_they_are(tmp_path: Path) -> None:
    put(tmp_path / "f" / "x" / "a.png", b"a")
    put(tmp_path / "f" / "__MACOSX" / "a.png", b"resource")
    source = unpack(tmp_path / "f", tmp_path / "s")
    assert [f.path for f in source.files] == [tmp_path / "f" / "x" / "a.png"]
    assert not list((tmp_path / "s").iterdir())


EVIL = ["../evil.png", "/abs/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", ["x.zip", "x.tar"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "x.tar" and "\\" in name:
        pytest.skip("a backslash is an ordinary letter in a tar")
    archive = put(tmp_path / kind, KINDS[kind]({"good.png": b"g", name: b"evil"}))
    with pytest.raises(DataError, match="leads outside the archive"):
        unpack(archive, tmp_path / "s")
    assert not list(tmp_path.rglob("evil.png"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match="link or device"):
        unpack(tmp_path / "x.tar", tmp_path / "s")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link or device"):
        unpack(tmp_path / "x.zip", tmp_path / "s")


@pytest.mark.parametrize("name", KINDS)
def test_bombs_are_stopped_by_what_they_declare(tmp_path: Path, name: str) -> None:
    archive = put(tmp_path / name, KINDS[name]({"a.png": bytes(3_000_000)}))
    with pytest.raises(DataError, match=r"more than 0\.000977 GiB; .* raise --limit-gib"):
        unpack(archive, tmp_path / "s", limit_gib=1 / 1024)
    assert not list((tmp_path / "s").iterdir())


def test_bombs_are_stopped_by_what_comes_out(tmp_path: Path) -> None:
    # A .gz declares nothing: only counting helps.
    put(tmp_path / "f" / "a.png.gz", gzip.compress(bytes(9_000_000)))
    with pytest.raises(DataError, match="raise --limit-gib"):
        unpack(tmp_path / "f", tmp_path / "s", limit_gib=1 / 1024)
    assert sum(p.stat().st_size for p in (tmp_path / "s").iterdir()) <= 2**20


def test_a_zip_that_lies_about_its_size_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.png": bytes(3_000_000)}))
    place = data.index(b"PK\x01\x02")
    data[place + 24 : place + 28] = (100).to_bytes(4, "little")
    with pytest.raises(DataError, match="truncated or damaged"):
        unpack(put(tmp_path / "x.zip", bytes(data)), tmp_path / "s", limit_gib=1 / 1024)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 5)
    archive = put(tmp_path / "x.zip", zip_bytes({f"{i}.png": b"x" for i in range(6)}))
    with pytest.raises(DataError, match="more than 5 files"):
        unpack(archive, tmp_path / "s")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_truncated_archives_are_told(tmp_path: Path, name: str, share: float) -> None:
    noise = {f"{i}.png": bytes((i * j * 7919 >> 3) % 251 for j in range(30_000)) for i in range(8)}
    data = KINDS[name](noise)
    cut = put(tmp_path / name, data[: int(len(data) * share)])
    with pytest.raises(DataError, match="truncated or damaged"):
        unpack(cut, tmp_path / "s")


def test_a_damaged_member_is_told(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.png": bytes(range(256)) * 40}))
    data[60] ^= 0xFF
    with pytest.raises(DataError, match="truncated or damaged"):
        unpack(put(tmp_path / "x.zip", bytes(data)), tmp_path / "s")


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.png": b"secret"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="is encrypted"):
        unpack(put(tmp_path / "x.zip", bytes(data)), tmp_path / "s")


@pytest.mark.parametrize(
    ("start", "text"),
    [(b"Rar!\x1a\x07", "RAR archive"), (b"7z\xbc\xaf\x27\x1c", "7z archive"), (b"", "0 bytes")],
)
def test_other_archives_are_named(tmp_path: Path, start: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text):
        unpack(put(tmp_path / "x.bin", start), tmp_path / "s")


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_a_compressed_file_that_only_is_called_tar_is_told(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(DataError, match="truncated or damaged tar"):
        unpack(put(tmp_path / "x.tar.gz", compress(b"no tar" * 500)), tmp_path / "s")
