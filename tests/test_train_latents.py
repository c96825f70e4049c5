"""The latent cache is right or asks to be filled: never stale, torn, or shaped by its history."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from univg.errors import DataError, ProblemReport, UserError
from univg.images import encode_image
from univg.masks import encode_mask
from univg.sd import embed_prompts
from univg.testing import tiny_base
from univg.train import latent_shards, latents
from univg.train.latents import (
    CacheWarning,
    LatentCache,
    PromptCache,
    _Encoder,
    identify_module,
)
from univg.train.pictures import Picture, list_pictures_of, load_picture, turn

SIZE = 16


class Count:
    """Counts progress; stops like Ctrl-C after `stop` latents."""

    def __init__(self, stop: int = 10**9) -> None:
        self.done, self.stop = 0, stop

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self.done >= self.stop:
            raise KeyboardInterrupt


@pytest.fixture
def base():
    return tiny_base()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    rng = np.random.default_rng(0)
    folder = tmp_path / "fundus"
    folder.mkdir()
    for number in range(7):
        pixels = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        (folder / f"{number}.png").write_bytes(encode_image(pixels))
    return list_pictures_of([tmp_path], "image")


def make_cache(folder: Path, base, **options) -> LatentCache:
    return LatentCache(folder / "cache", base, **{"size_px": SIZE, "fit": "stretch", **options})


def read_all(cache: LatentCache, pictures: list[Picture], turns=(0,)) -> torch.Tensor:
    return torch.stack([torch.stack(cache.get(p, k)) for p in pictures for k in turns])


def encode_plainly(base, picture: Picture, k: int, size_px: int = SIZE) -> torch.Tensor:
    pixels = torch.from_numpy(turn(load_picture(picture, size_px, "stretch"), k))
    with torch.no_grad():
        spread = base.vae.encode(pixels.permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    return torch.stack([spread.mean[0], spread.std[0]])


def test_an_entry_is_what_the_vae_gives(tmp_path, base, pictures):
    cache = make_cache(tmp_path, base)
    assert cache.count_missing(pictures, (0, 5)) == 14
    assert cache.prepare(pictures, (0, 5)) == pictures
    assert cache.count_missing(pictures, (0, 5)) == 0
    for picture in pictures:
        for k in (0, 5):
            mean, std = cache.get(picture, k)
            assert mean.shape == std.shape == (4, 2, 2) and mean.dtype == torch.float32
            wanted = encode_plainly(base, picture, k)
            torch.testing.assert_close(torch.stack([mean, std]), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(cache.get(pictures[0], 0)[0], cache.get(pictures[0], 5)[0])


def test_it_is_what_a_batch_gives_too(tmp_path, base, pictures):
    cache = make_cache(tmp_path, base)
    cache.prepare(pictures)
    pixels = np.stack([load_picture(p, SIZE, "stretch") for p in pictures])
    with torch.no_grad():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        means = base.vae.encode(batch).latent_dist.mean
    ours = torch.stack([cache.get(p)[0] for p in pictures])
    torch.testing.assert_close(ours, means, rtol=1e-5, atol=1e-5)


def test_order_batch_and_repetition_change_nothing(tmp_path, base, pictures):
    first, second = make_cache(tmp_path / "a", base), make_cache(tmp_path / "b", base)
    first.prepare(pictures, (0, 3), batch=4)
    count = Count()
    second.prepare([*reversed(pictures), *pictures], (3, 0), batch=1, progress=count)
    assert count.done == 14  # each once
    assert torch.equal(read_all(first, pictures, (0, 3)), read_all(second, pictures, (0, 3)))


def test_nothing_is_encoded_twice(tmp_path, base, pictures):
    make_cache(tmp_path, base).prepare(pictures)
    count = Count()
    again = make_cache(tmp_path, base)
    again.prepare(pictures, progress=count)
    assert count.done == 0
    again.prepare(pictures, (0, 1), progress=count)
    assert count.done == len(pictures)


def test_whatever_matters_is_in_the_key(tmp_path, base, pictures):
    other_vae = tiny_base()
    with torch.no_grad():
        next(other_vae.vae.parameters()).view(-1)[0] += 1e-6
    other = Picture(pictures[0].path, "image", "", "f" * 64)
    as_mask = Picture(pictures[0].path, "mask", "", pictures[0].sha256)
    plain = make_cache(tmp_path, base)
    keys = [
        plain.key(pictures[0], 0),
        plain.key(pictures[0], 1),
        plain.key(other, 0),
        plain.key(as_mask, 0),
        make_cache(tmp_path, base, size_px=24).key(pictures[0], 0),
        make_cache(tmp_path, base, fit="crop").key(pictures[0], 0),
        make_cache(tmp_path, base, exact=False).key(pictures[0], 0),
        make_cache(tmp_path, other_vae).key(pictures[0], 0),
    ]
    assert len(set(keys)) == len(keys)
    assert make_cache(tmp_path / "elsewhere", tiny_base()).key(pictures[0], 0) == keys[0]


def test_caches_of_two_vaes_stand_side_by_side(tmp_path, base, pictures):
    other = tiny_base(seed=1)
    for one in (base, other):
        make_cache(tmp_path, one).prepare(pictures)
    for one in (base, other):
        cache = make_cache(tmp_path, one)
        cache.prepare(pictures, progress=Count(1))  # nothing is missing
        wanted = encode_plainly(one, pictures[2], 0)
        torch.testing.assert_close(torch.stack(cache.get(pictures[2])), wanted)


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path, base, pictures):
    pictures[3].path.write_bytes(pictures[4].path.read_bytes())
    with pytest.raises(ProblemReport, match=r"3\.png: has changed since it was listed"):
        make_cache(tmp_path, base).prepare(pictures)
    fresh = list_pictures_of([tmp_path], "image")
    cache = make_cache(tmp_path, base)
    cache.prepare(fresh)
    assert torch.equal(cache.get(fresh[3])[0], cache.get(fresh[4])[0])


def damage(picture: Picture) -> Picture:
    data = picture.path.read_bytes()
    picture.path.write_bytes(data[: len(data) // 2])
    return list_pictures_of([picture.path.parent.parent], "image")[int(picture.path.stem)]


def test_all_damaged_files_are_told_at_once_and_the_good_ones_kept(tmp_path, base, pictures):
    for number in (1, 4):
        pictures[number] = damage(pictures[number])
    cache = make_cache(tmp_path, base)
    with pytest.raises(ProblemReport) as caught:
        cache.prepare(pictures)
    assert [p.path.name for p in caught.value.problems] == ["1.png", "4.png"]
    assert cache.count_missing(pictures) == 2
    with pytest.warns(CacheWarning, match=r"left out: .*truncated"):
        usable = cache.prepare(pictures, skip_bad=True)
    assert usable == [p for n, p in enumerate(pictures) if n not in (1, 4)]
    assert read_all(cache, usable).isfinite().all()


def test_nan_is_refused_and_names_the_file(tmp_path, base, pictures):
    with torch.no_grad():
        base.vae.quant_conv.bias[0] = float("nan")
    cache = make_cache(tmp_path, base)
    with pytest.raises(ProblemReport, match=r"0\.png: its latent holds NaN") as caught:
        cache.prepare(pictures, (0, 1))
    assert len(caught.value.problems) == len(pictures)
    assert cache.count_missing(pictures, (0, 1)) == 2 * len(pictures)


def test_what_16_bits_cannot_hold_is_refused(tmp_path, base, pictures):
    with torch.no_grad():
        base.vae.quant_conv.bias[0] = 1e5
    with pytest.raises(ProblemReport, match="more than 16 bits hold"):
        make_cache(tmp_path, base, exact=False).prepare(pictures)
    make_cache(tmp_path, base).prepare(pictures)


def test_16_bits_lose_what_is_stated(tmp_path, base, pictures):
    exact, half = make_cache(tmp_path, base), make_cache(tmp_path, base, exact=False)
    for cache in (exact, half):
        cache.prepare(pictures)
    wanted, ours = read_all(exact, pictures), read_all(half, pictures)
    assert ours.dtype == torch.float32 and not torch.equal(ours, wanted)
    torch.testing.assert_close(ours, wanted, rtol=1 / 2048, atol=6e-8)


def test_a_killed_run_goes_on_after_its_last_shard(tmp_path, base, pictures, monkeypatch):
    monkeypatch.setattr(latents, "SHARD_ITEMS", 2)
    cache = make_cache(tmp_path, base)
    with pytest.raises(KeyboardInterrupt):
        cache.prepare(pictures, progress=Count(5))
    kept = {path: path.stat().st_mtime_ns for path in cache.shards.folder.iterdir()}
    again = make_cache(tmp_path, base)
    assert again.count_missing(pictures) == 3
    again.prepare(pictures)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    whole = make_cache(tmp_path / "whole", base)
    whole.prepare(pictures)
    assert torch.equal(read_all(again, pictures), read_all(whole, pictures))


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_shard_is_dropped_and_made_again(tmp_path, base, pictures, monkeypatch, keep):
    monkeypatch.setattr(latents, "SHARD_ITEMS", 3)
    cache = make_cache(tmp_path, base)
    cache.prepare(pictures)
    wanted = read_all(cache, pictures)
    torn = sorted(cache.shards.folder.glob("*.safetensors"))[0]
    cache.shards.close()
    data = torn.read_bytes()
    torn.write_bytes(data[: int(len(data) * keep)])
    count = Count()
    again = make_cache(tmp_path, base)
    with pytest.warns(CacheWarning, match=f"{torn.name} damaged; dropped, and encoded again"):
        again.prepare(pictures, progress=count)
    assert 0 < count.done <= 3
    assert torch.equal(read_all(again, pictures), wanted)


def test_a_flipped_bit_is_noticed(tmp_path, base, pictures):
    cache = make_cache(tmp_path, base)
    cache.prepare(pictures)
    cache.shards.close()
    (shard,) = cache.shards.folder.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="differs from what was written"):
        read_all(make_prepared(tmp_path, base, pictures), pictures)


def make_prepared(folder: Path, base, pictures: list[Picture]) -> LatentCache:
    cache = make_cache(folder, base)
    cache.prepare(pictures)
    return cache


def test_a_cache_that_is_deleted_while_in_use_is_one_line(tmp_path, base, pictures):
    cache = make_prepared(tmp_path, base, pictures)
    (shard,) = cache.shards.folder.glob("*.safetensors")
    shard.unlink()
    with pytest.raises(DataError, match="was removed or damaged while it was in use"):
        cache.get(pictures[0])
    with pytest.raises(KeyError, match="was not prepared"):
        cache.get(pictures[0], 7)


def test_few_files_are_open_at_a_time(tmp_path, base, pictures, monkeypatch):
    monkeypatch.setattr(latents, "SHARD_ITEMS", 1)
    monkeypatch.setattr(latent_shards, "MOST_OPEN", 2)
    cache = make_prepared(tmp_path, base, pictures)
    for picture in [*pictures, *reversed(pictures)]:
        wanted = encode_plainly(base, picture, 0)
        torch.testing.assert_close(torch.stack(cache.get(picture)), wanted)
        assert len(cache.shards._open) <= 2


def run_ranks(folder: Path, pictures: list[Picture], world: int = 2) -> list:
    """Prepare with `world` threads that stand for processes, each with a base of its own."""
    barrier = threading.Barrier(world, timeout=60)
    results: list = [None] * world
    bases = [tiny_base() for _ in range(world)]

    def work(rank: int) -> None:
        count = Count()
        cache = make_cache(folder, bases[rank], rank=rank, world=world, wait=barrier.wait)
        try:
            cache.prepare(pictures, (0, 2), progress=count)
            results[rank] = (count.done, read_all(cache, pictures, (0, 2)))
        except ProblemReport as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_processes_share_the_work_and_read_the_same(tmp_path, base, pictures):
    (first, ours), (second, theirs) = run_ranks(tmp_path, pictures)
    assert first + second == 14 and min(first, second) >= 6
    alone = make_cache(tmp_path / "alone", base)
    alone.prepare(pictures, (0, 2))
    assert torch.equal(ours, theirs) and torch.equal(ours, read_all(alone, pictures, (0, 2)))


def test_what_one_process_finds_wrong_stops_all_with_the_same_report(tmp_path, pictures):
    pictures[1] = damage(pictures[1])
    told = run_ranks(tmp_path, pictures)
    assert told[0] == told[1] and "1.png: is truncated" in told[0]
    healthy = [p for p in pictures if p is not pictures[1]]
    assert all(isinstance(result, tuple) for result in run_ranks(tmp_path, healthy))


def test_where_memory_does_not_suffice_pictures_are_encoded_one_by_one(base, monkeypatch):
    pixels = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    whole, plain, tried = _Encoder(base.vae)(pixels), base.vae.encode, []

    def encode(part, most=1):
        tried.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(part)

    monkeypatch.setattr(base.vae, "encode", encode)
    encoder = _Encoder(base.vae)
    for (mean, std), (wanted, spread) in zip(encoder(pixels), whole, strict=True):
        torch.testing.assert_close(mean, wanted)
        torch.testing.assert_close(std, spread)
    encoder(pixels[:2])
    assert tried == [5, 1, 1, 1, 1, 1, 1, 1]  # it does not try in vain again
    monkeypatch.setattr(base.vae, "encode", lambda part: encode(part, most=0))
    with pytest.raises(UserError, match="smaller --size-px"):
        encoder(pixels)


def test_the_vae_is_put_back_as_it_was(tmp_path, pictures):
    base = tiny_base()
    base.vae.to(torch.bfloat16).train()
    before = {name: tensor.clone() for name, tensor in base.vae.state_dict().items()}
    make_cache(tmp_path, base).prepare(pictures)
    assert base.vae.training
    for name, tensor in base.vae.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, before[name])


def test_a_sample_is_shifted_and_scaled_as_the_vae_asks(tmp_path, base):
    base.vae.register_to_config(shift_factor=0.25, scaling_factor=0.5)
    cache = make_cache(tmp_path, base)
    mean, std, noise = torch.full((3, 4, 2, 2), 1.0), torch.full((4, 2, 2), 2.0), torch.ones(1)
    assert (cache.sample(mean, std, noise) == (1 + 2 - 0.25) * 0.5).all()


def test_masks_are_encoded_by_the_rule_for_masks(tmp_path, base):
    folder = tmp_path / "octa"
    folder.mkdir()
    mask = np.zeros((100, 100), bool)
    mask[:, 50] = True  # one pixel wide: by area alone it would vanish
    (folder / "m.png").write_bytes(encode_mask(mask))
    (picture,) = list_pictures_of([folder], "mask")
    cache = make_prepared(tmp_path, base, [picture])
    pixels = torch.full((1, 3, SIZE, SIZE), -1.0)
    pixels[:, :, :, 8] = 1.0
    with torch.no_grad():
        wanted = base.vae.encode(pixels).latent_dist.mean[0]
    torch.testing.assert_close(cache.get(picture)[0], wanted)


def test_prompts_are_embedded_once_and_include_the_empty_one(tmp_path, base):
    cache = PromptCache(tmp_path / "prompts")
    found = cache.embed(base, ["fundus image", "octa image", "fundus image"])
    assert set(found) == {"fundus image", "octa image", ""}
    with torch.no_grad():
        wanted = embed_prompts(base, ["octa image", ""])
    torch.testing.assert_close(torch.stack([found["octa image"], found[""]]), wanted)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "prompts").iterdir()}
    assert len(files) == 3
    again = cache.embed(base, ["octa image"])
    assert torch.equal(again["octa image"], found["octa image"])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "prompts").iterdir()} == files


def test_prompts_of_another_text_encoder_and_torn_files_are_made_again(tmp_path, base):
    cache = PromptCache(tmp_path / "prompts")
    first = cache.embed(base, [])[""]
    other = cache.embed(tiny_base(seed=1), [])[""]
    assert not torch.equal(first, other)
    for path in (tmp_path / "prompts").iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    assert torch.equal(cache.embed(base, [])[""], first)


def test_the_identity_is_of_every_weight_and_survives_saving(tmp_path, base):
    base.vae.save_pretrained(tmp_path / "vae")
    loaded = type(base.vae).from_pretrained(tmp_path / "vae")
    assert identify_module(loaded) == identify_module(base.vae)
    with torch.no_grad():
        list(loaded.parameters())[-1].view(-1)[-1] += 1
    assert identify_module(loaded) != identify_module(base.vae)
