"""The pictures of the README, made by the project: `python docs/make_pictures.py`."""

from __future__ import annotations

from pathlib import Path

from univg.files import write_atomic
from univg.images import encode_image
from univg.modalities import find_modality
from univg.report import contact_sheet
from univg.sca.synth import Synth, prepare_jobs
from univg.sca.writing import synthesize

SEED = 7
ROWS = ("fundus", "octa", "oct", "coronary", "brain")
COUNT = 6
TILE_PX = 200


def main() -> None:
    """Write masks.png beside this file."""
    groups = []
    for name in ROWS:
        job = prepare_jobs(Synth(out=Path("unused"), modality=(name,), seed=SEED))[0]
        groups.append([synthesize(job, index).pixels > 0 for index in range(COUNT)])
    titles = [find_modality(name).title for name in ROWS]
    sheet = contact_sheet(groups, titles, columns=COUNT, tile_px=TILE_PX)
    write_atomic(Path(__file__).parent / "masks.png", encode_image(sheet))


if __name__ == "__main__":
    main()
