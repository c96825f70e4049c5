"""What a training run of a segmenter leaves in its folder, and what a resumed one must share.

In: settings, data, how it went. Out: `result.json`, `environment.json`, `best/model.safetensors`;
the identity of the run; the facts that go into the file of weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg import __version__
from univg.config import to_plain
from univg.files import sha256_of_file
from univg.loop import run_files

from .data_store import hash_pairs
from .fit import count_synthetic_steps
from .start import find_start

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

    from .fit import Fit
    from .fit_data import Data
    from .fit_task import SegmentTask

FREE = frozenset({"start_from", "synthetic", "memory_mb", "epochs", "onnx", "wanted", "loaders"})
"""Settings that change nothing that comes out, besides those of every run."""
LIBRARIES = ("torch", "accelerate", "diffusers", "opencv-python-headless", "numpy")
SHOWN_FACTS = (
    *("loss", "learning_rate", "schedule", "optimizer", "ema", "batch", "max_steps", "stop_at"),
    *("augment", "patch_px", "synthetic_share", "synthetic_until", "seed", "preset", "start_from"),
)


def describe_run(asked: Fit, data: Data, threshold: float | None) -> dict[str, Any]:
    """Return what a resumed run must share with the first."""
    start, until = find_start(asked.start_from), count_synthetic_steps(asked)
    return run_files.identify_run(
        asked,
        "segment fit",
        FREE,
        **({"start": sha256_of_file(start)} if start else {}),
        preparation=data.how.plain(),
        threshold=threshold,
        # A run that is made longer would else end its synthetic part elsewhere.
        **({} if until is None else {"synthetic_steps": until}),
        data={
            "shots": hash_pairs(data.real),
            "held_out": hash_pairs(data.held_out),
            "synthetic": hash_pairs(data.synthetic),
        },
    )


def describe_model(asked: Fit, data: Data, tile_px: int, fixed: bool) -> dict[str, Any]:
    """Return what stands in the file of weights beside the network."""
    plain = to_plain(asked)
    return {
        "preparation": data.how.plain(),
        "tile_px": tile_px,
        "tile_fixed": fixed,
        "training": {
            **{name: plain[name] for name in SHOWN_FACTS},
            "shots": [pair.stem for pair in data.real],
            "held_out": [pair.stem for pair in data.held_out],
            "synthetic_pairs": len(data.synthetic),
            "shots_px": data.shots_px,
        },
        "univg": __version__,
    }


def save_best(out: Path, task: SegmentTask) -> list[Path]:
    """Save the weights of the best validation under `OUT/best`, as the last ones are in `OUT`."""
    files = run_files.save_best(out, task)
    task.module.stale = True
    return files


def export_model(asked: Fit, model: Path) -> list[Path]:
    """Write `model` as ONNX beside it, where that is asked for."""
    if not asked.onnx:
        return []
    from .onnx_export import export_onnx
    from .weights import load_network

    network, card = load_network(model, asked.network)
    path = model.with_suffix(".onnx")
    export_onnx(network, path, threshold=card.threshold, facts=card.facts)
    return [path]


def write_result(asked: Fit, outcome: Outcome, **more: Any) -> None:
    """Write `result.json`: what came out."""
    error = run_files.best_of(outcome)
    found = {"best_dice": None if error is None else 1 - error, **more}
    run_files.write_result(asked, outcome, found)
