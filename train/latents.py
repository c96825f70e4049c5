"""What the VAE and the text encoder make of the training data, computed once and kept on disk.

In: pictures, a base. Out: the mean and spread of each picture's latent, and the embedding of each
prompt. A key names the file's bytes, how it was brought to size and turned, and the weights that
encoded it, so an entry is right or not found. Stored in full precision, an entry is bit for bit
what the VAE gave; on a CPU each picture is encoded alone, so neither batch, order, interruption
nor number of processes changes a bit. On other devices batches are used, and may move last bits.
With `exact=False` 16 bits are stored: half the space (at 512 px 32 kB a latent instead of 64 kB
for each of mean and spread), each value within 1/2048 of itself, or within 6e-8 where it is tiny.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from univg.errors import DataError, Problem, ProblemReport, UserError
from univg.files import make_folder, sha256_hex, sha256_of_file, write_atomic
from univg.images import PictureError
from univg.loop.memory import is_out_of_memory, release
from univg.progress import Progress
from univg.resize import Fit

from .latent_shards import Moments, ShardFolder
from .pictures import Picture, load_picture, turn

if TYPE_CHECKING:
    from univg.sd import Base

VERSION = 1  # raise with every change that changes what is stored under a key
SHARD_ITEMS = 256
FLUSH_EVERY_S = 60.0
"""What a killed run loses at most, where encoding is slow."""
LOAD_AHEAD = 32
LOADERS = 4
_NO_INFLUENCE = {"scaling_factor", "shift_factor"}  # applied when sampling, not when encoding


class CacheWarning(UserWarning):
    """The cache had to be mended, or pictures were left out."""


class LatentCache:
    """Means and spreads of latents, for one base, size and fit.

    With several processes, each encodes its share; `wait` is the barrier that they all pass.
    """

    def __init__(
        self,
        folder: Path,
        base: Base,
        *,
        size_px: int,
        fit: Fit,
        exact: bool = True,
        rank: int = 0,
        world: int = 1,
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        self.base, self.size_px, self.fit = base, size_px, fit
        self.rank, self.world, self.wait = rank, world, wait
        self.dtype = torch.float32 if exact else torch.float16
        vae: Any = base.vae
        config = vae.config
        self.scaling = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.space = sha256_hex(
            f"univg latents {VERSION}\n{identify_module(base.vae)}\n{size_px} {fit}\n{self.dtype}"
            .encode()
        )  # fmt: skip
        self.shards = ShardFolder(folder / f"latents-{self.space[:16]}", self.space)

    def key(self, picture: Picture, k: int) -> str:
        """Return the name under which `picture` in position `k` is kept."""
        return sha256_hex(f"{self.space} {picture.kind} {picture.sha256} {k}".encode())

    def prepare(
        self,
        pictures: Sequence[Picture],
        turns: Sequence[int] = (0,),
        batch: int = 8,
        progress: Progress | None = None,
        skip_bad: bool = False,
    ) -> list[Picture]:
        """Encode what is missing; return the pictures that can be used, in order.

        `batch` is for devices other than the CPU. What `progress` counts are latents, in this
        process: of `count_missing`, a share of `world`.
        All files that cannot be decoded or encoded are told in one report, in every process; with
        `skip_bad` they are left out instead. What was encoded is kept either way.
        """
        damaged = self._scan()
        if damaged:
            names = ", ".join(path.name for path in damaged)
            detail = f"{names} damaged; dropped, and encoded again"
            warnings.warn(f"{self.shards.folder}: {detail}", CacheWarning, stacklevel=2)
        work = self._find_missing(pictures, turns)
        problems = self._encode_all(work[self.rank :: self.world], batch, progress)
        problems = self._share(problems)
        self.shards.scan()
        if problems and not skip_bad:
            count = f"{len(problems)} of {len(pictures)} pictures"
            raise ProblemReport(problems, f"{count} cannot be encoded; mend or remove them")
        if problems and self.rank == 0:
            for problem in problems:
                warnings.warn(f"left out: {problem.line()}", CacheWarning, stacklevel=2)
        usable = [p for p in pictures if all(self.key(p, k) in self.shards for k in turns)]
        if not usable:
            raise DataError("no picture is left to train on; all were left out as damaged")
        return usable

    def count_missing(self, pictures: Sequence[Picture], turns: Sequence[int] = (0,)) -> int:
        """Return how many latents `prepare` would encode, in all processes together."""
        self.shards.scan()
        return sum(len(ks) for _, ks in self._find_missing(pictures, turns))

    def get(self, picture: Picture, k: int = 0) -> Moments:
        """Return (mean, std) of `picture` in position `k`: float32 (C, h, w), not scaled."""
        key = self.key(picture, k)
        if key not in self.shards:
            raise KeyError(f"{picture.path}, position {k}: was not prepared")
        mean, std = self.shards.read(key)
        return mean.float(), std.float()

    def sample(self, mean: torch.Tensor, std: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the latent that the UNet sees: drawn, shifted and scaled as the VAE's config."""
        return (mean + std * noise - self.shift) * self.scaling

    def _scan(self) -> list[Path]:
        if self.rank == 0:
            self.shards.remove_leftovers()
            for old in self.shards.folder.glob("problems-*.json"):
                old.unlink(missing_ok=True)
        damaged = self.shards.scan()
        self.wait()  # nobody writes before all have looked: their shares would not fit together
        return damaged

    def _find_missing(
        self, pictures: Sequence[Picture], turns: Sequence[int]
    ) -> list[tuple[Picture, list[int]]]:
        """Return what is missing, each file once however often it is listed."""
        asked: set[str] = set()
        work = []
        for picture in pictures:
            missing = []
            for k in turns:
                key = self.key(picture, k)
                if key not in self.shards and key not in asked:
                    asked.add(key)
                    missing.append(k)
            if missing:
                work.append((picture, missing))
        return work

    def _encode_all(
        self, work: Sequence[tuple[Picture, list[int]]], batch: int, progress: Progress | None
    ) -> list[Problem]:
        """Encode and write `work` shard by shard; return what is wrong with its files."""
        problems: list[Problem] = []
        done: dict[str, Moments] = {}
        bad: set[Path] = set()
        last = time.monotonic()
        with _ready_to_encode(self.base.vae) as encode:
            step = batch if encode.batched else 1
            for chunk in _chunk(self._load(work, problems), step):
                moments = encode(torch.stack([pixels for _, _, pixels in chunk]))
                for (picture, k, _), (mean, std) in zip(chunk, moments, strict=True):
                    problem = self._judge(picture, mean, std)
                    if problem is None:
                        stored = mean.to(self.dtype), std.to(self.dtype)
                        done[self.key(picture, k)] = stored
                    elif picture.path not in bad:
                        bad.add(picture.path)
                        problems.append(problem)
                if progress is not None:
                    progress.advance(len(chunk))
                if len(done) >= SHARD_ITEMS or time.monotonic() - last > FLUSH_EVERY_S:
                    last = self._flush(done)
        self._flush(done)
        return problems

    def _flush(self, done: dict[str, Moments]) -> float:
        if done:
            self.shards.write(done)
            done.clear()
        return time.monotonic()

    def _load(
        self, work: Sequence[tuple[Picture, list[int]]], problems: list[Problem]
    ) -> Iterator[tuple[Picture, int, torch.Tensor]]:
        """Yield the pixels (3, S, S), -1 to 1, of each picture in each position asked for."""
        with ThreadPoolExecutor(LOADERS) as pool:
            for start in range(0, len(work), LOAD_AHEAD):
                part = work[start : start + LOAD_AHEAD]
                for (picture, turns), loaded in zip(part, pool.map(self._read, part), strict=True):
                    if isinstance(loaded, Problem):
                        problems.append(loaded)
                        continue
                    for k in turns:
                        pixels = torch.from_numpy(turn(loaded, k).copy()).permute(2, 0, 1)
                        yield picture, k, pixels.float() / 127.5 - 1

    def _read(self, item: tuple[Picture, list[int]]) -> Any:
        picture = item[0]
        try:
            if sha256_of_file(picture.path) != picture.sha256:
                return _problem(picture, "changed", "has changed since it was listed", "run again")
            return load_picture(picture, self.size_px, self.fit)
        except PictureError as error:
            return error.problem
        except OSError as error:
            return _problem(picture, "unreadable", f"cannot be read ({error.strerror})", "check it")

    def _judge(self, picture: Picture, mean: torch.Tensor, std: torch.Tensor) -> Problem | None:
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
            detail = "its latent holds NaN or infinity"
            return _problem(picture, "nan", detail, "is the VAE damaged, or made for fp16 only?")
        largest = max(float(mean.abs().max()), float(std.max()))
        if largest > torch.finfo(self.dtype).max:
            detail = f"its latent reaches {largest:g}, more than 16 bits hold"
            return _problem(picture, "range", detail, "store latents in full precision")
        return None

    def _share(self, problems: list[Problem]) -> list[Problem]:
        """Return the problems of all processes: one that stopped alone would be waited for."""
        if self.world == 1:
            return problems
        folder = make_folder(self.shards.folder)
        if problems:
            told = [[str(p.path), p.kind, p.detail, p.remedy] for p in problems]
            write_atomic(folder / f"problems-{self.rank}.json", json.dumps(told).encode())
        self.wait()
        every = [
            Problem(path=Path(path), kind=kind, detail=detail, remedy=remedy)
            for file in sorted(folder.glob("problems-*.json"))
            for path, kind, detail, remedy in json.loads(file.read_text(encoding="utf-8"))
        ]
        self.wait()  # the next `prepare` deletes these files
        return sorted(every, key=lambda problem: str(problem.path))


class PromptCache:
    """Embeddings of prompts, keyed by their tokens and by the weights of the text encoder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def embed(self, base: Base, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return float32 (77, D) for each of `prompts` and for "", which stands for no prompt."""
        from univg.sd import embed_prompts

        identity = identify_module(base.text_encoder)
        found = {}
        for prompt in dict.fromkeys([*prompts, ""]):
            tokens = _tokenize(base, prompt)
            key = sha256_hex(f"univg prompts {VERSION}\n{identity}\n{tokens}".encode())
            path = make_folder(self.folder) / f"prompt-{key[:32]}.safetensors"
            known = _recall_embedding(path)
            if known is None:
                with torch.no_grad():
                    # One at a time, so that no prompt depends on its neighbours in a batch.
                    known = embed_prompts(base, [prompt])[0].float().cpu().contiguous()
                if not torch.isfinite(known).all():
                    raise DataError(f"prompt {prompt!r}: its embedding is NaN; is the base whole?")
                write_atomic(path, save({"embedding": known}, metadata={"prompt": prompt}))
            found[prompt] = known
        return found


def _tokenize(base: Base, prompt: str) -> list[int]:
    """Return the tokens of `prompt`, filled up or cut to what the text encoder takes."""
    from univg.sd import quiet

    most = base.tokenizer.model_max_length
    with quiet():  # the tokenizer's own remark is about indices
        count = len(base.tokenizer(prompt).input_ids)
    if count > most:
        detail = f"is {count} tokens long, and only {most} count; say it in fewer words"
        warnings.warn(f"the prompt {prompt[:60]!r}… {detail}", CacheWarning, stacklevel=3)
    tokens: list[int] = base.tokenizer(
        prompt, padding="max_length", max_length=most, truncation=True
    ).input_ids
    return tokens


def _recall_embedding(path: Path) -> torch.Tensor | None:
    try:
        return load(path.read_bytes())["embedding"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def identify_module(module: Any) -> str:
    """Return a SHA-256 of the configuration and of every weight of `module`."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    plain = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in _NO_INFLUENCE and "version" not in name
    }
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


class _Encoder:
    """Pixels (N, 3, S, S) to N pairs of mean and spread, on the CPU in float32."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.device = next(vae.parameters()).device
        self.batched = self.device.type != "cpu"
        self.most = sys.maxsize  # pictures at once; one by one after memory did not suffice

    def __call__(self, pixels: torch.Tensor) -> list[Moments]:
        moments: list[Moments] = []
        while len(moments) < len(pixels):
            part = pixels[len(moments) :][: self.most]
            try:
                moments += self._encode(part)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise UserError(
                        "out of memory as a single picture is encoded; take a smaller --size-px"
                    ) from error
            # After the except block: while it lasts, the error holds on to what was encoded.
            release()
            self.most = 1
        return moments

    def _encode(self, pixels: torch.Tensor) -> list[Moments]:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            spread = self.vae.encode(pixels.to(self.device)).latent_dist
        means, stds = spread.mean.float().cpu(), spread.std.float().cpu()
        return [(mean.clone(), std.clone()) for mean, std in zip(means, stds, strict=True)]


@contextlib.contextmanager
def _ready_to_encode(vae: Any) -> Iterator[_Encoder]:
    """Hand out an encoder in evaluation mode and full precision; the VAE is put back after.

    In half precision, Stable Diffusion's VAE is known to overflow.
    """
    training, dtype = vae.training, next(vae.parameters()).dtype
    vae.eval()
    if dtype != torch.float32:
        vae.float()
    try:
        yield _Encoder(vae)
    finally:
        if dtype != torch.float32:
            vae.to(dtype)
        vae.train(training)


def _chunk(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _problem(picture: Picture, kind: str, detail: str, remedy: str) -> Problem:
    return Problem(path=picture.path, kind=kind, detail=detail, remedy=remedy)
