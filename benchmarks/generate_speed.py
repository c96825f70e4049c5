"""How fast pairs are made without a GPU: `python benchmarks/generate_speed.py`.

For the engines composite and procedural, and diffusion with the embedded base: masks on disk to
written pairs with their manifest, in all worker processes, with the share of time of each part.
Masks are grown, shots are procedural: no data needed. Composite is measured with colour and with
grey shots.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_speed import describe_machine, shown_command

RUNS: dict[str, dict[str, Any]] = {
    "composite, colour": {"image_engine": "composite", "modality": "fundus"},
    "composite, grey": {"image_engine": "composite", "modality": "octa"},
    "procedural, colour": {"image_engine": "procedural", "modality": "fundus"},
    "procedural, grey": {"image_engine": "procedural", "modality": "octa"},
    "diffusion, nano": {"image_engine": "diffusion", "modality": "fundus"},
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--nano-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", nargs="+", default=list(RUNS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(words)
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        for name in asked.runs:
            rows[name] = measure(name, asked, Path(place))
            print(f"| {name} | {rows[name]['size_px']} | {rows[name]['pairs_per_s']} |", flush=True)
    figures = {
        "command": shown_command(Path(__file__).stem, words),
        "machine": describe_machine("cpu"),
        "workers": asked.workers,
        "runs": rows,
    }
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def measure(name: str, asked: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Return the rate of one run and where its time went."""
    from univg.executors import Pipeline, Processes
    from univg.generate.images import Images, config_of, indices_of, prepare_maker
    from univg.generate.images import run as run_images
    from univg.run_folder import fill_folder
    from univg.sca.synth import Synth
    from univg.sca.synth import run as synthesize

    asked_run = RUNS[name]
    is_drawn = asked_run["image_engine"] == "diffusion"
    side = asked.nano_size if is_drawn else asked.size
    count = asked.count // 2 if is_drawn else asked.count
    modality = asked_run["modality"]
    masks = place / f"masks-{modality}-{side}"
    synthesize(Synth(out=masks, modality=(modality,), count=asked.count, size=(side, side), seed=1))
    settings: dict[str, Any] = {"masks": masks, "out": place / name, "count": count, **asked_run}
    if asked_run["image_engine"] == "composite":
        settings["shots"] = place / f"shots-{modality}"
        run_images(Images(masks=masks, out=settings["shots"], modality=modality, count=5))
    images = Images(workers=asked.workers, **settings)
    maker = prepare_maker(images)
    executor = Pipeline() if maker.block > 1 else Processes(asked.workers)
    wanted = indices_of(images, maker.source)
    filled = fill_folder(maker, images.out, wanted, executor, config=config_of(images))
    return {
        "size_px": side,
        "pairs": filled.made,
        "wall_s": round(filled.wall_s, 2),
        "pairs_per_s": round(filled.made / filled.wall_s, 2),
        "seconds": {part: round(seconds, 2) for part, seconds in filled.seconds.items()},
    }


if __name__ == "__main__":
    main()
