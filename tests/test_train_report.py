"""The page of an adaptation: drawn pictures, copies, the course of training."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from training_shots import QUICK, write_shots

from univg.images import read_image
from univg.loop.curves import draw_curves, smooth
from univg.masks import read_mask
from univg.testing import tiny_base
from univg.train import adapt_images, adapt_masks, masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import AdaptMasks
from univg.train.masks import TrainMasks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    tiny_base(place / "base")
    write_shots(place / "shots")
    return place


class Reader(HTMLParser):
    """Collects what a page says and how many pictures it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.pictures = 0
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.pictures += tag == "img"

    def handle_data(self, data):
        self.words.append(data)


def shots_of(place) -> dict[str, object]:
    more = {"report_samples": 4, "preview_every": 3, "validate_every": 2}
    return {**QUICK, **more, "base": str(place / "base"), "shots": place / "shots"}


def test_an_adapted_image_engine_shows_when_control_sets_in(place, tmp_path):
    adapt_images.run(AdaptImages(out=tmp_path, **shots_of(place)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row for row in rows if "cldice" in row}
    assert list(measured) == [0, 3, 6]
    assert all(
        0 <= row["cldice"] <= 1 and 0 <= row["cldice_chance"] <= 1 for row in measured.values()
    )
    page = Reader((tmp_path / "report.html").read_text())
    for words in ("clDice of the vessels", "Training loss", "Validation loss", "Copies of shots"):
        assert words in page.text
    assert "Preview at step 6" in page.text and page.pictures > 15
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0 <= result["agreement"]["cldice"] <= 1 and 0 <= result["agreement"]["shots"] <= 1
    assert result["copying"]["count"] == 4
    assert read_image(tmp_path / "drawn/images/000003.png").shape == (64, 64, 3)
    assert read_mask(tmp_path / "drawn/masks/000003.png").shape == (64, 64)


def test_an_adapted_mask_engine_reports_its_copies(place, tmp_path):
    adapt_masks.run(AdaptMasks(out=tmp_path, **shots_of(place)))
    assert len(list((tmp_path / "drawn" / "masks").glob("*.png"))) == 4
    page = Reader((tmp_path / "report.html").read_text())
    assert "Drawn at strength 0.7" in page.text and "Copies of shots" in page.text
    assert "clDice" not in page.text
    assert json.loads((tmp_path / "result.json").read_text())["copying"]["count"] == 4


def test_a_pretrained_engine_shows_what_it_draws(place, tmp_path):
    options = {k: v for k, v in shots_of(place).items() if k != "shots"}
    masks.run(TrainMasks(out=tmp_path, data=(place / "shots",), **options))
    page = Reader((tmp_path / "report.html").read_text())
    assert "mask of vessels" in page.text and "Training loss" in page.text
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 4


def test_curves_stand_within_their_frame_and_in_their_order():
    rising = [(k, k / 10) for k in range(11)]
    sheet = draw_curves([("up", rising), ("down", [(k, 1 - v) for k, v in rising])])
    blue = np.argwhere((sheet[..., 2] > 120) & (sheet[..., 0] < 90))
    inside = blue[blue[:, 0] > 30]  # below the legend
    left, right = inside[inside[:, 1] < 90, 0].mean(), inside[inside[:, 1] > 680, 0].mean()
    assert left > right + 150
    assert sheet.shape == (260, 720, 3) and (sheet[:, :4] == 255).all()


@pytest.mark.parametrize("points", [[(5, 1.0)], [(0, 2.0), (9, 2.0)]])
def test_curves_of_one_point_or_one_value_are_drawn(points):
    assert (draw_curves([("flat", points)]) < 200).any()


def test_smoothing_is_the_mean_of_what_came_last():
    points = [(k, float(k % 2)) for k in range(80)]
    found = smooth(points)
    assert [step for step, _ in found] == list(range(80))
    assert found[0][1] == 0 and all(value == 0.5 for _, value in found[3:])
    assert smooth([(0, 1.0), (1, 3.0)]) == [(0, 1.0), (1, 3.0)]


def test_no_points_no_curve():
    with pytest.raises(ValueError, match="no points"):
        draw_curves([])
