"""`univg segment predict`: any size and depth, tiles without seams, resumed, bad files told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from vessel_pictures import draw_lines, paint

from univg.cli import main
from univg.errors import ConfigError, DataError, ProblemReport, ResumeError, UserError
from univg.images import encode_image, read_image
from univg.manifest import MANIFEST_NAME, read_rows
from univg.masks import encode_mask, read_mask
from univg.segment import predict
from univg.segment.data import Preparation
from univg.segment.networks import build_network
from univg.segment.predict import MODEL_VARIABLE, Predict, as_function, segment_image
from univg.segment.predict_folder import PredictMaker, list_images
from univg.segment.predict_tiles import list_starts, predict_probability, weigh_tile
from univg.segment.predictor import Predictor, load_predictor
from univg.segment.weights import save_network

COLOUR = Preparation(channels="rgb", longest_px=0, fov="auto")
SHAPES = {"odd": (61, 83), "tiny": (5, 7), "large": (150, 97), "square": (64, 64)}


def write_model(path: Path, channels: str = "grey", **facts: object) -> Path:
    """Write a network that nobody trained, its logits spread round 0."""
    how = Preparation(channels=channels, longest_px=0, fov="auto")  # type: ignore[arg-type]
    options = {"channels": 4, "depth": 3, "norm": "batch"}  # the same in a tile as in the whole
    network = build_network("unet-small", how.count, seed=3, **options)
    with torch.no_grad():
        images = torch.randn(4, how.count, 64, 64, generator=torch.Generator().manual_seed(0))
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        network(images)
        logits = network.eval()(images)
        gain = 2.0 / float(logits.std())
        head = network.body.head
        head.weight *= gain
        head.bias.copy_(gain * (head.bias - logits.mean()))
    known = {"preparation": how.plain(), "tile_px": 64, "tile_fixed": False}
    return save_network(network, path, threshold=0.45, facts={**known, **facts})


def write_images(folder: Path) -> Path:
    """Write images of several sizes, depths and channels."""
    (folder / "images").mkdir(parents=True)
    for k, (name, shape) in enumerate(SHAPES.items()):
        image = paint(draw_lines(k, 160), k)[: shape[0], : shape[1]]
        if name == "odd":
            image = np.stack([image, image // 2, image // 3], axis=2)
        if name == "large":
            image = image.astype(np.uint16) * 200
        (folder / "images" / f"{name}.png").write_bytes(encode_image(image))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("predict")
    write_model(place / "model.safetensors")
    write_images(place / "set")
    return place


def settings_for(place: Path, out: Path, **changed: object) -> Predict:
    given = {"model": place / "model.safetensors", "images": place / "set", "out": out}
    return Predict(**{**given, **changed})


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".png", ".jsonl"}
    }


def test_masks_probabilities_and_overlays_of_any_image(place, tmp_path, capsys):
    predict.run(settings_for(place, tmp_path / "out"))
    told = capsys.readouterr().out
    assert "1 of 4 images have colour; grey is taken" in told and "4 images written" in told
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert set(rows) == set(SHAPES)
    for name, shape in SHAPES.items():
        mask = read_mask(tmp_path / "out" / "masks" / f"{name}.png", strict=True)
        probability = read_image(tmp_path / "out" / "probabilities" / f"{name}.png")
        overlay = read_image(tmp_path / "out" / "overlays" / f"{name}.png")
        assert mask.shape == shape == probability.shape and overlay.shape == (*shape, 3)
        assert probability.dtype == np.uint16
        assert np.array_equal(mask, probability / 65535 >= 0.45 - 1e-5) or (
            np.abs(probability / 65535 - 0.45)[mask != (probability / 65535 >= 0.45)].max() < 1e-4
        )
        assert rows[name]["threshold"] == 0.45 and rows[name]["height"] == shape[0]


def test_the_depth_of_an_image_does_not_matter(place):
    segment = as_function(place / "model.safetensors")
    image = paint(draw_lines(1, 96), 1)
    deep = segment(image.astype(np.uint16) * 257)
    assert np.abs(segment(image) - deep).max() < 1e-4
    assert np.abs(segment(np.repeat(image[:, :, None], 3, axis=2)) - segment(image)).max() < 1e-4


def test_tiles_equal_the_whole_away_from_borders(place):
    predictor = load_predictor(place / "model.safetensors")
    image = predictor.prepare(paint(draw_lines(2, 256), 2)).whole()
    whole = predict_probability(image, predictor.logits_of, tile_px=256)
    tiled = predict_probability(image, predictor.logits_of, tile_px=128)
    assert whole.shape == tiled.shape == (256, 256)
    away = np.abs(whole - tiled)[24:-24, 24:-24]
    assert away.max() < 0.02 and away.mean() < 1e-3 and np.ptp(whole) > 0.5


def test_a_batch_of_tiles_equals_single_ones_and_flips_are_a_mean(place):
    predictor = load_predictor(place / "model.safetensors")
    image = predictor.prepare(paint(draw_lines(2, 150), 2)).whole()
    options = {"tile_px": 64, "overlap": 0.25}
    one = predict_probability(image, predictor.logits_of, **options)
    many = predict_probability(image, predictor.logits_of, batch=5, **options)
    assert np.abs(one - many).max() < 1e-5
    flipped = predict_probability(image, predictor.logits_of, flips=True, **options)
    mirror = predict_probability(
        np.ascontiguousarray(image[:, :, ::-1]), predictor.logits_of, flips=True, **options
    )
    assert np.abs(flipped - one).max() > 1e-4
    # Tiles hang over the other border of the mirror image, so it is alike but not equal there.
    assert np.abs(flipped - mirror[:, ::-1])[:96, :96].mean() < 5e-3


@pytest.mark.parametrize("length", [1, 31, 64, 65, 100, 257, 999])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_tiles_cover_a_side(length, overlap):
    starts = list_starts(length, 64, overlap)
    covered = np.zeros(max(length, starts[-1] + 64), bool)
    for start in starts:
        assert start % 32 == 0
        covered[start : start + 64] = True
    assert covered[:length].all() and starts[-1] < max(length, 1)
    assert weigh_tile(64).min() > 0


def test_the_scale_of_training_is_the_scale_of_prediction(tmp_path):
    how = Preparation(channels="grey", longest_px=48, fov="whole")
    model = write_model(tmp_path / "m.safetensors", preparation=how.plain())
    predictor = load_predictor(model)
    image = paint(draw_lines(2, 96), 2)
    assert predictor.run(predictor.prepare(image)).shape == (48, 48)
    assert predictor.predict(image).probability.shape == (96, 96)


def test_nothing_is_found_outside_the_field_of_view(place, tmp_path):
    folder = write_images(tmp_path / "set")
    (folder / "fov").mkdir()
    view = np.zeros(SHAPES["square"], bool)
    view[:, :20] = True
    (folder / "fov" / "square.png").write_bytes(encode_mask(view))
    predict.run(settings_for(place, tmp_path / "out", images=folder, threshold=0.01))
    mask = read_mask(tmp_path / "out" / "masks" / "square.png")
    assert mask[:, :20].any() and not mask[:, 20:].any()
    whole = settings_for(place, tmp_path / "whole", images=folder, threshold=0.01, fov="whole")
    predict.run(whole)
    assert read_mask(tmp_path / "whole" / "masks" / "square.png")[:, 20:].any()


@pytest.mark.parametrize("fov", ["whole", "found"])
def test_fields_of_view_that_are_not_used_stop_nothing(place, tmp_path, fov):
    folder = write_images(tmp_path / "set")
    (folder / "fov").mkdir()
    (folder / "fov" / "square.png").write_bytes(b"no picture at all")
    with pytest.raises(ProblemReport, match=r"square\.png"):
        predict.run(settings_for(place, tmp_path / "auto", images=folder))
    done = predict.run(settings_for(place, tmp_path / fov, images=folder, fov=fov))
    assert done.made == 4 and done.bad == 0


def test_fields_of_view_lie_beside_images_also_if_these_are_named(place, tmp_path):
    folder = write_images(tmp_path / "set")
    for path in (folder / "images").iterdir():
        view = np.zeros(read_image(path).shape[:2], np.bool_)
        view[:, : view.shape[1] // 2] = True
        (folder / "fov").mkdir(exist_ok=True)
        (folder / "fov" / f"{path.stem}.png").write_bytes(encode_mask(view))
    found = []
    for name, images in (("a", folder), ("b", folder / "images")):
        predict.run(settings_for(place, tmp_path / name, images=images, fov="given"))
        found.append(files_of(tmp_path / name))
    assert found[0] == found[1]


@pytest.mark.parametrize("wrong", ["model", "out", "fov"])
def test_a_plan_refuses_what_a_run_would(place, tmp_path, wrong):
    folder = write_images(tmp_path / "set")
    changed = {
        "model": {"model": tmp_path / "none.safetensors"},
        "out": {"images": folder / "images", "out": folder / "images"},
        "fov": {"fov": "given"},
    }[wrong]
    asked = Predict(**{"model": place / "model.safetensors", "images": folder,
                       "out": tmp_path / "out", **changed})  # fmt: skip
    told = []
    for attempt in (predict.plan, predict.run):
        with pytest.raises(UserError) as refused:
            attempt(asked)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "images" in predict.plan(settings_for(place, tmp_path / "out", images=folder))


def test_what_a_manifest_names_is_looked_at_and_nothing_else(place, tmp_path):
    folder = write_images(tmp_path / "set")
    (folder / "elsewhere").mkdir()
    (folder / "images" / "odd.png").rename(folder / "elsewhere" / "odd.png")
    (folder / "images" / "broken.png").write_bytes(b"no picture at all")
    view = np.zeros(SHAPES["odd"], bool)
    view[:, :20] = True
    (folder / "elsewhere" / "view.png").write_bytes(encode_mask(view))
    rows = [{"image": "elsewhere/odd.png", "mask": "elsewhere/view.png",
             "fov": "elsewhere/view.png"}, {"image": "images/tiny.png"}]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    predict.run(settings_for(place, tmp_path / "out", images=folder, threshold=0.01))
    masks = tmp_path / "out" / "masks"
    assert {path.stem for path in masks.iterdir()} == {"odd", "tiny"}
    assert not read_mask(masks / "odd.png")[:, 20:].any()


def test_images_far_from_the_size_of_the_shots_are_told(tmp_path, capsys):
    how = Preparation(channels="grey", longest_px=48, fov="whole")
    model = write_model(tmp_path / "m.safetensors", preparation=how.plain(),
                        training={"shots_px": 64})  # fmt: skip
    folder = write_images(tmp_path / "set")
    predict.run(Predict(model=model, images=folder, out=tmp_path / "out"))
    told = capsys.readouterr().out
    assert "2 of 4 images are far from the size of the shots, 64 px (first: large.png, 150" in told


def spoil(folder: Path) -> None:
    (folder / "images" / "cut.png").write_bytes(
        (folder / "images" / "square.png").read_bytes()[:200]
    )
    (folder / "images" / "words.jpg").write_bytes(b"no picture at all")
    cv2.imwrite(str(folder / "images" / "odd.bmp"), np.zeros((4, 4), np.uint8))


def test_bad_images_are_told_together_or_left_out_and_counted(place, tmp_path, capsys):
    folder = write_images(tmp_path / "set")
    spoil(folder)
    with pytest.raises(ProblemReport) as report:
        predict.run(settings_for(place, tmp_path / "out", images=folder))
    assert {p.path.name for p in report.value.problems} == {"cut.png", "words.jpg", "odd.png"}
    assert "3 of 7 images cannot be used" in str(report.value)
    assert not (tmp_path / "out").exists()
    done = predict.run(settings_for(place, tmp_path / "out", images=folder, skip_bad=True))
    told = capsys.readouterr().out
    assert done.made == 4 and done.bad == 3 and "3 of 7 images could not be used" in told
    assert "words.jpg" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"images": Path("nowhere")}, "does not exist"),
        ({"model": Path("nowhere.safetensors")}, "no such file"),
        ({"model": Path(__file__)}, "not a .safetensors"),
        ({"tile_px": 100}, "multiple of 32"),
        ({"fov": "given"}, "no field of view"),
    ],
)
def test_mistakes_are_told(place, tmp_path, changed, told):
    with pytest.raises((DataError, ConfigError), match=told):
        predict.run(settings_for(place, tmp_path / "out", **changed))
    assert not list(tmp_path.glob("out/masks/*"))


def test_weights_of_something_else_are_refused(tmp_path):
    network = build_network("unet-small", 1, channels=4, depth=3)
    with pytest.raises(DataError, match="how its images are prepared"):
        load_predictor(save_network(network, tmp_path / "m.safetensors"))
    with pytest.raises(DataError, match="channels"):
        load_predictor(write_model(tmp_path / "n.safetensors", preparation=COLOUR.plain()))


class Killed(Exception):
    """Stands for a power cut."""


def test_killed_and_resumed_it_equals_a_run_in_one_go(place, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for k in range(11):
        image = encode_image(paint(draw_lines(k, 64), k))
        (folder / "images" / f"{k:02d}.png").write_bytes(image)
    predict.run(settings_for(place, tmp_path / "whole", images=folder))
    asked = settings_for(place, tmp_path / "parts", images=folder)
    plain = Predictor.run
    seen = []

    def die(self, prepared):
        seen.append(prepared)
        if len(seen) == 10:
            raise Killed
        return plain(self, prepared)

    monkeypatch.setattr(Predictor, "run", die)
    with pytest.raises(Killed):
        predict.run(asked)
    monkeypatch.undo()
    assert len(read_rows(asked.out)) < 11
    (asked.out / "masks" / "03.png").unlink(missing_ok=True)
    with (asked.out / MANIFEST_NAME).open("ab") as stream:
        stream.write(b'{"torn')
    predict.run(dataclasses.replace(asked, batch=7))
    assert files_of(asked.out) == files_of(tmp_path / "whole")
    with pytest.raises(ResumeError, match="another run"):
        predict.run(dataclasses.replace(asked, threshold=0.3))


def test_any_order_of_work_gives_the_same_bytes(place):
    predictor = load_predictor(place / "model.safetensors")
    maker = PredictMaker(predictor, list_images(place / "set").items, {})
    together = maker.make([0, 1, 2, 3])
    alone = [maker.make([k])[0] for k in (3, 2, 1, 0)][::-1]
    assert together == alone


def test_a_model_as_a_segmenter_of_the_gate(place, tmp_path, monkeypatch):
    image = paint(draw_lines(4, 64), 4)
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=MODEL_VARIABLE):
        segment_image(image)
    monkeypatch.setenv(MODEL_VARIABLE, str(place / "model.safetensors"))
    found = segment_image(image)
    assert found.shape == image.shape and 0 <= found.min() <= found.max() <= 1
    assert np.array_equal(found, as_function(place / "model.safetensors")(image))


def test_a_folder_of_pairs_and_a_run_folder_as_model(place, tmp_path, capsys):
    words = ["segment", "predict", "--model", str(place), "--images", str(place / "set"),
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    assert "4 images" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["stage"] == "segment predict"


def test_onnx_finds_the_same(place, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from univg.segment.onnx_export import export_onnx
    from univg.segment.weights import load_network

    network, card = load_network(place / "model.safetensors")
    model = tmp_path / "model.onnx"
    export_onnx(network, model, threshold=card.threshold, facts=card.facts)
    image = paint(draw_lines(5, 150), 5)[:, :90]
    plain, exported = (load_predictor(m) for m in (place / "model.safetensors", model))
    assert exported.threshold == plain.threshold and exported.how == plain.how
    found = [predictor.predict(image).probability for predictor in (plain, exported)]
    assert np.abs(found[0] - found[1]).max() < 1e-4
    with pytest.raises(ConfigError, match="ONNX"):
        load_predictor(model, device="cuda")
