"""Data cards: the paper's numbers, real layouts, and patterns that cannot confuse roles."""

import re
from pathlib import Path

import pytest
import yaml

from univg.data_cards.archives import Source, SourceFile
from univg.data_cards.card import CARD_FOLDER, find_card, load_cards, name_key
from univg.data_cards.layouts import arrange, compile_pattern
from univg.errors import ConfigError, DataError

PAPER = {card.name: card.univg58k for card in load_cards().values() if card.univg58k}
CARDS = list(load_cards().values())
OTHERS = {
    *("iostar", "stare", "fives", "cavri-c", "drishti-gs", "rim-one", "refuge-seg", "les-av"),
    *("mnist-m", "mscmr", "acdc", "mm-whs"),
}


def test_univg58k_adds_up_to_the_paper() -> None:
    assert len(PAPER) == 21
    assert sum(row.pretraining for row in PAPER.values()) == 57_075
    assert sum(row.downstream for row in PAPER.values()) == 1_614
    assert 57_075 + 1_614 == 58_689
    assert sum(row.shots for row in PAPER.values()) == 55
    assert sum(row.test for row in PAPER.values()) == 1_559
    assert sum(row.downstream > 0 for row in PAPER.values()) == 11


@pytest.mark.parametrize(
    ("modality", "images"),
    [("fundus", 42_259), ("coronary", 12_946), ("brain", 441), ("octa", 829), ("oct", 600)],
)
def test_pretraining_of_each_modality(modality: str, images: int) -> None:
    counts = [
        PAPER[c.name].pretraining for c in CARDS if c.name in PAPER and c.modality == modality
    ]
    assert sum(counts) == images


def test_rows_of_the_table_are_consistent() -> None:
    for name, row in PAPER.items():
        assert row.shots + row.test == row.downstream, name
        assert (row.dsc is not None) == (row.downstream > 0), name
        assert row.pretraining + row.downstream > 0, name
    scores = [row.dsc for row in PAPER.values() if row.dsc is not None]
    assert round(sum(scores) / len(scores), 2) == 79.34
    assert PAPER["chasedb1"].cldice == 88.85
    assert PAPER["sbcd"].cldice == 73.13


def test_the_other_sets_have_cards_outside_univg58k() -> None:
    assert {c.name for c in CARDS} - set(PAPER) == OTHERS


def test_discrepancies_of_the_paper_are_noted() -> None:
    assert "35,126" in find_card("eyepacs").notes
    assert "142" in find_card("aria").notes
    assert "512x512" in find_card("arcade").notes


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_card_is_complete(card) -> None:
    assert (CARD_FOLDER / f"{card.name}.yaml").exists()
    assert re.match(r"(open|registration|request|private)\b", card.access)
    assert card.licence and card.citation and card.labels
    assert card.url.startswith("http") or card.access == "private"
    assert all(re.fullmatch(r"\d+x\d+", size) for size in card.resolution_px)
    if card.patient:
        assert re.compile(card.patient).groups == 1
    if not card.layout:
        assert "does not read it" in " ".join(card.notes.split())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_groups_say_what_their_images_are_for(card) -> None:
    names = [group.name for group in card.layout]
    assert len(set(names)) == len(names)
    for group in card.layout:
        assert group.masks or group.unlabelled_ok
        assert set(group.vessel) <= set(group.labels or {})
        assert not (group.pretraining and group.masks)
        assert not group.pretraining or PAPER[card.name].pretraining
    if card.name in PAPER and card.layout:
        row = PAPER[card.name]
        assert any(g.pretraining for g in card.layout) == (row.pretraining > 0)
        assert any(g.masks for g in card.layout) == (row.downstream > 0)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_no_label_file_looks_like_an_image(card) -> None:
    images = [compile_pattern(p) for group in card.layout for p in group.images]
    for group in card.layout:
        for pattern in (*group.masks, *group.fov):
            example = _example(pattern)
            assert compile_pattern(pattern).fullmatch(example)
            assert not any(image.fullmatch(example) for image in images), (pattern, example)


def _example(pattern: str) -> str:
    """A path that the pattern is made for."""
    text = re.sub(r"\[(.)[^\]]*\]", r"\1", pattern.removeprefix("**/"))
    return text.replace("**/", "a/b/").replace("*", "7").replace("?", "7")


REAL_NAMES = [
    ("drive", "DRIVE/training/images/21_training.tif", "DRIVE/training/1st_manual/21_manual1.gif"),
    ("chasedb1", "Image_01L.jpg", "Image_01L_1stHO.png"),
    ("hrf", "images/01_dr.JPG", "manual1/01_dr.tif"),
    ("stare", "stare-images/im0001.ppm", "labels-ah/im0001.ah.ppm"),
    ("fives", "train/Original/1_A.png", "train/Ground truth/1_A.png"),
    ("dias", "DIAS/training/images/image_s0_i3.png", "DIAS/training/labels/label_s0.png"),
    ("xacd", "XCAD/test/images/000854.png", "XCAD/test/masks/000854.png"),
    (
        "octa500",
        "OCTA_6mm_part8/OCTA_6mm/Projection Maps/OCTA(ILM_OPL)/10001.bmp",
        "Label/GT_LargeVessel/10001.bmp",
    ),
    (
        "aria",
        "aria_a_markups/aria_a_markups/aria_a_12_15.tif",
        "aria_a_markup_vessel/aria_a_markup_vessel/aria_a_12_15_BDP.tif",
    ),
    ("iostar", "image/STAR 01_OSC.jpg", "GT/STAR 01_OSC_GT.tif"),
    ("les-av", "LES-AV/images/14.png", "LES-AV/vessel-segmentations/14.png"),
]


@pytest.mark.parametrize(("name", "image", "mask"), REAL_NAMES)
def test_names_as_providers_write_them(name: str, image: str, mask: str) -> None:
    def groups_of(role: str, path: str) -> list[str]:
        return [
            group.name
            for group in find_card(name).layout
            if any(compile_pattern(p).fullmatch(path) for p in getattr(group, role))
        ]

    assert groups_of("images", image) == groups_of("masks", mask)[:1]
    assert len(groups_of("images", image)) == 1
    assert groups_of("masks", image) == []
    assert groups_of("images", mask) == []


@pytest.mark.parametrize(("name", "image", "mask"), REAL_NAMES)
def test_image_and_mask_become_one_pair(name: str, image: str, mask: str) -> None:
    files = [SourceFile(path, Path(path), path) for path in (image, mask)]
    source = Source(Path("provider"), files, [image, mask])
    layout = arrange(find_card(name), find_card(name).layout, source)
    assert layout.problems == []
    (item,) = layout.items
    assert (item.image.name, item.mask and item.mask.name) == (image, mask)


@pytest.mark.parametrize("spelling", ["octa500", "OCTA-500", "Octa_500", "octa 500"])
def test_spelling_of_names_does_not_matter(spelling: str) -> None:
    assert find_card(spelling).name == "octa500"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("XCAD", "xacd"), ("CHASE_DB1", "chasedb1"), ("chase", "chasedb1"), ("MS-CMRSeg", "mscmr"),
     ("Drishti-GS1", "drishti-gs"), ("refuge", "refuge"), ("oct", "oct")],
)  # fmt: skip
def test_other_names_find_the_card(spelling: str, name: str) -> None:
    assert find_card(spelling).name == name


def test_no_two_cards_share_a_name() -> None:
    keys = [key for card in CARDS for key in {name_key(n) for n in (card.name, *card.aliases)}]
    assert len(set(keys)) == len(keys)


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="did you mean `chasedb1`"):
        find_card("chasedb")


def test_every_mistake_in_a_card_is_told(tmp_path) -> None:
    from univg.config import read_settings
    from univg.data_cards.card import DataCard

    content = yaml.safe_load((CARD_FOLDER / "drive.yaml").read_text()) | {
        "modality": "retina",
        "images": -1,
        "licens": "x",
    }
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        read_settings(DataCard, path)
    message = str(caught.value)
    assert (
        "wrong.yaml" in message
        and "retina" in message
        and "images is -1" in message.replace("'", "")
    )
    assert "did you mean licence" in message
