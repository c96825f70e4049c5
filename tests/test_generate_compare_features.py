"""Parts of the comparison: t-SNE, its picture, Fréchet distance and score over InceptionV3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from vessel_pictures import draw_lines, paint

from univg.config import from_plain
from univg.errors import DataError
from univg.generate.compare import Compare, run
from univg.generate.compare_chart import HEIGHT_PX, WIDTH_PX, draw_clouds
from univg.generate.compare_inception import (
    Embedded,
    embed_files,
    frechet_of_features,
    inception_score,
    prepare_image,
    score_inception,
)
from univg.generate.compare_inception_net import FEATURES, InceptionV3, load_inception
from univg.generate.compare_tsne import embed_points, project_components
from univg.images import encode_image
from univg.masks import encode_mask


def two_clouds(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, (count, 12)), rng.normal(3, 1, (count, 12))])
    return values, np.repeat([0, 1], count)


def test_tsne_separates_two_clouds_and_is_the_same_each_time():
    values, which = two_clouds()
    places = embed_points(values)
    assert places.shape == (80, 2)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (which[distances.argmin(axis=1)] == which).all()
    assert np.array_equal(places, embed_points(values.copy()))


def test_tsne_mixes_what_is_alike():
    values = np.random.default_rng(4).normal(size=(80, 12))
    places = embed_points(values)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    which = np.repeat([0, 1], 40)
    assert 0.25 < (which[distances.argmin(axis=1)] == which).mean() < 0.75


def test_tsne_keeps_neighbours_of_a_line():
    """Points along a curve in many dimensions stay in order along the picture."""
    at = np.linspace(0, 3, 60)
    values = np.stack([np.cos(at), np.sin(at), at, at**2], axis=1)
    places = embed_points(values, perplexity=5)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    across = np.linalg.norm(places[:30] - places[30:], axis=1)
    assert np.median(steps) < np.median(across) / 5


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_tsne_of_few_or_equal_points(count):
    for values in (np.ones((count, 3)), np.random.default_rng(0).normal(size=(count, 3))):
        places = embed_points(values)
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()


def test_components_are_those_of_the_covariance():
    values = np.random.default_rng(1).normal(size=(50, 4)) * (5, 2, 1, 0.5)
    found = project_components(values)
    expected = np.sort(np.linalg.eigvalsh(np.cov(values.T, bias=True)))[::-1][:2]
    assert np.allclose(found.var(axis=0), expected)


def test_a_picture_has_the_inks_of_all_clouds():
    values, which = two_clouds()
    clouds = [("one", values[which == 0, :2]), ("two", values[which == 1, :2])]
    picture = draw_clouds(clouds)
    assert picture.shape[1] == WIDTH_PX
    assert picture.shape[0] > HEIGHT_PX
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3)}
    assert {(30, 90, 160), (206, 84, 0)} <= colours
    assert np.array_equal(picture, draw_clouds(clouds))


@pytest.mark.parametrize(("first", "second"), [(30, 30), (9, 12)])
def test_frechet_equals_the_root_of_matrices(first, second):
    rng = np.random.default_rng(first)
    mix = rng.normal(size=(6, 6))
    a, b = rng.normal(size=(first, 6)) @ mix, rng.normal(0.5, 2, (second, 6))
    covariances = [np.cov(values.T) for values in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_of_features(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_of_features(a, a) == pytest.approx(0, abs=1e-9)


def test_inception_score_of_known_chances():
    assert inception_score(np.eye(4)) == pytest.approx(4)
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)


def test_scores_have_a_floor_of_halves():
    rng = np.random.default_rng(0)
    chances = np.full((12, 4), 0.25)
    real = Embedded(features=rng.normal(size=(12, 5)), chances=chances)
    far = Embedded(features=rng.normal(4, 1, (12, 5)), chances=chances)
    floor, found = score_inception(real, [far], n=6, draws=10, seed=0)
    assert floor.frechet is not None
    assert found.frechet is not None
    assert found.frechet.low > 3 * floor.frechet.high
    few = Embedded(features=real.features[:9], chances=chances[:9])
    assert score_inception(few, [], n=6, draws=10, seed=0)[0].frechet is None


def save_network(path: Path, classes: int, *, fid: bool) -> InceptionV3:
    """Save a network of random weights under torchvision's names, its spare head beside."""
    with torch.device("meta"):
        network = InceptionV3(classes, fid=fid)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                value.zero_()
            elif name.endswith(("running_var", "bn.weight")):
                value.fill_(1.0)
            elif value.ndim > 1:
                scale = (2 / value[0].numel()) ** 0.5
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
            else:
                value.zero_()
    weights = dict(network.state_dict())
    weights["AuxLogits.fc.weight"] = torch.zeros(2, 2)
    save_file(weights, path)
    return network.eval()


@pytest.mark.parametrize("fid", [True, False])
def test_weights_load_exactly_and_images_are_embedded(fid, tmp_path):
    path = tmp_path / "inception.safetensors"
    saved = save_network(path, 1008 if fid else 1000, fid=fid)
    before = torch.random.get_rng_state()
    loaded, is_fid = load_inception(path)
    assert torch.equal(before, torch.random.get_rng_state()), "loading draws nothing"
    assert is_fid is fid
    # 75 px: the least that the network takes, and sixteen times as fast.
    grey = paint(draw_lines(0, 96), 0)
    both = (grey, np.dstack([grey] * 3))
    batch = torch.from_numpy(np.stack([prepare_image(image, 75) for image in both]))
    with torch.inference_mode():
        features, logits = loaded(batch)
        expected = saved(batch)[0]
    weights = saved.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    # On one thread sums are rounded by where in memory weights lie.
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, FEATURES)
    assert logits.shape == (2, 1008 if fid else 1000)
    assert torch.allclose(features[0], features[1], atol=1e-5), "grey is colour without colour"
    assert features.std() > 0
    if fid:
        files = [tmp_path / "a.png"]
        files[0].write_bytes(encode_image(grey))
        (found,), label = embed_files([files], path)
        assert label == "FID"
        assert found.features.shape == (1, FEATURES)
        assert found.chances.sum() == pytest.approx(1)


def test_the_table_names_what_the_weights_make_it(tmp_path):
    for folder, numbers in (("real", range(4)), ("made", range(10, 13))):
        for k in numbers:
            mask = draw_lines(k, 64, count=3, width=2)
            for part, data in (
                ("images", encode_image(paint(mask, k))),
                ("masks", encode_mask(mask)),
            ):
                (tmp_path / folder / part).mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / part / f"{k}.png").write_bytes(data)
    save_network(tmp_path / "fid.safetensors", 1008, fid=True)
    plain = {"real": tmp_path / "real", "synthetic": tmp_path / "made", "out": tmp_path / "out"}
    plain |= {"inception": tmp_path / "fid.safetensors", "size": 64, "draws": 10, "workers": 1}
    found = run(from_plain(Compare, plain))
    assert found.real.inception.frechet is not None
    assert found.sets[0].inception.frechet.mean > 0
    assert (
        "| energy | × floor | FID | Inception score |" in (tmp_path / "out/compare.md").read_text()
    )


def test_names_and_shapes_are_torchvisions():
    """A sample of what torchvision 0.20 prints for inception_v3().state_dict()."""
    with torch.device("meta"):
        weights = InceptionV3(1000, fid=False).state_dict()
    known = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch_pool.conv.weight": (192, 768, 1, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch1x1.conv.weight": (320, 1280, 1, 1),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1000, 2048),
    }
    assert {name: tuple(weights[name].shape) for name in known} == known
    convolutions = [name for name in weights if name.endswith("conv.weight")]
    assert len(convolutions) == 94
    sizes = [v.numel() for n, v in weights.items() if not n.endswith("num_batches_tracked")]
    running = [v.numel() for n, v in weights.items() if ".running_" in n]
    assert sum(sizes) - sum(running) == 27_161_264 - 3_326_696  # less its spare head


def test_a_file_that_is_no_inception_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(1000, 2048), "conv.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="lacks `Conv2d_1a_3x3"):
        load_inception(path)
    save_file({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"has no `fc\.weight`"):
        load_inception(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_inception(path)
