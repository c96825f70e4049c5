"""Reports: masks that stay visible when shrunk, contact sheets, and pages that stand alone."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from univg.errors import DataError
from univg.report import Page, contact_sheet, data_uri, shrink_mask

VOID = {"meta", "img", "br", "link", "input"}


class Outline(HTMLParser):
    """Collects what the tests ask about, and whether the tags are well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def assert_stands_alone(text: str) -> Outline:
    """Assert that a page is well formed, asks for nothing from elsewhere, and can be navigated."""
    outline = Outline(text)
    assert not outline.open
    assert not outline.all("script") and not outline.all("link") and not outline.all("iframe")
    assert outline.all("html")[0]["lang"] == "en"
    assert all(str(a["src"]).startswith("data:image/png;base64,") for a in outline.all("img"))
    assert all("alt" in a for a in outline.all("img"))
    assert not re.search(r"url\(|@import|https?:", text)
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {str(a["href"])[1:] for a in outline.all("a")} <= set(ids)
    named = {str(a["aria-labelledby"]) for _, a in outline.tags if "aria-labelledby" in a}
    assert named <= set(ids)
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(outline.all("main")) == len(outline.all("nav")) == len(outline.all("header")) == 1
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(a.get("scope") in {"row", "col"} for a in outline.all("th"))
    return outline


def lines(size: int, width: int) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    cv2.line(canvas, (0, size // 3), (size - 1, size // 2), 1, width)
    return canvas.astype(np.bool_)


@pytest.fixture
def page() -> Page:
    page = Page("A & B <i>", kicker="k", lead="Lead with `code` in it.", footer="The end.")
    first = page.section("First", "A paragraph.", "")
    first.key_figures([("12", "things"), ("3.5", "others")])
    first.subheading("Under it", "More.")
    first.table(
        "Numbers <b>", ["Name", "x"], [["a", "1"], ["b", "2"]], note="n", shades=[[0.0], [1.0]]
    )
    masks = [shrink_mask(lines(64, 3), 32)] * 3
    first.pictures(masks, 'three "masks"', "Three.")
    first.pictures(masks[:1], "one", "One.")
    page.section("Second").commands(["univg demo --count 10", "a < b"])
    return page


def test_a_page_stands_alone(page):
    outline = assert_stands_alone(page.html())
    assert len(outline.all("section")) == 2
    assert len(outline.all("img")) == 4
    assert [a["href"] for a in outline.all("a")] == ["#main", "#section-1", "#section-2"]


def test_text_is_escaped_and_only_backticks_mean_something(page):
    text = page.html()
    assert "<title>A &amp; B &lt;i&gt;</title>" in text
    assert "Numbers &lt;b&gt;" in text and "a &lt; b" in text
    assert 'aria-label="three &quot;masks&quot;"' in text
    assert "<code>code</code>" in text
    hostile = Page("t", lead="`<script>alert(1)</script>` <img src=x>")
    assert_stands_alone(hostile.html())


def test_tables_and_figures_are_numbered_and_scroll_regions_can_be_reached(page):
    outline = assert_stands_alone(page.html())
    words = "".join(outline.words)
    assert all(name in words for name in ("Table 1.", "Figure 1.", "Figure 2."))
    regions = [a for a in outline.all("div") if a.get("class") == "scroll"]
    assert len(regions) == 2
    assert all(a["role"] == "region" and a["tabindex"] == "0" for a in regions)
    assert all("aria-label" in a or "aria-labelledby" in a for a in regions)


def test_cases_keep_what_belongs_together_side_by_side():
    page = Page("t")
    section = page.section("s")
    images = [np.full((4, 4), value, np.uint8) for value in range(6)]
    cases = list(zip(images[:3], images[3:], strict=True))
    section.comparison(["Mask", "`a` <b>"], cases, "x", "c")
    text = page.html()
    outline = assert_stands_alone(text)
    (grid,) = [a for a in outline.all("div") if a.get("class") == "cases"]
    assert grid["style"] == "--kinds:2;--cases:3" and grid["role"] == "img"
    wanted = [data_uri(image) for case in cases for image in case]
    assert [a["src"] for a in outline.all("img")] == wanted
    assert "<span><code>a</code> &lt;b&gt;</span>" in text and "Figure 1." in text


@pytest.mark.parametrize("cases", [[], [[np.zeros((4, 4), np.uint8)]]])
def test_cases_that_do_not_fit_their_labels_are_refused(cases):
    with pytest.raises(DataError, match="do not fit 2 labels"):
        Page("t").section("s").comparison(["a", "b"], cases, "x", "c")


def test_a_page_is_written_whole_and_the_same_each_time(page, tmp_path):
    path = tmp_path / "new" / "index.html"
    page.write(path)
    first = path.read_bytes()
    page.write(path)
    assert path.read_bytes() == first == page.html().encode()
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_a_page_serves_narrow_and_dark_screens(page):
    text = page.html()
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "prefers-color-scheme: dark" in text and "max-width: 40rem" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(page, scheme):
    style = re.search(r"<style>(.*)</style>", page.html(), re.S).group(1)
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    colours = {}
    for block in blocks[: 1 if scheme == "light" else 2]:
        colours.update(re.findall(r"--([\w-]+): #([0-9a-f]{6})", block))
    red, green, blue = re.findall(r"--wash: (\d+) (\d+) (\d+)", style)[scheme == "dark"]
    wash = np.array([int(red), int(green), int(blue)])
    paper = np.array([int(colours["paper"][k : k + 2], 16) for k in (0, 2, 4)])
    darkest = "".join(f"{round(v):02x}" for v in 0.42 * wash + 0.58 * paper)
    for front in ("ink", "soft", "accent"):
        assert contrast(colours[front], colours["paper"]) >= 4.5
    assert contrast(colours["ink"], darkest) >= 4.5


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_thin_vessels_stay_visible_when_shrunk():
    mask = lines(512, 1)
    small = shrink_mask(mask, 128)
    assert small.shape == (128, 128) and small.dtype == np.uint8
    assert (small.max(axis=0) >= 80).all(), "every column the line crosses still shows it"


@pytest.mark.parametrize(
    ("shape", "wanted"), [((300, 600), (64, 128)), ((600, 300), (128, 64)), ((16, 16), (128, 128))]
)
def test_shrinking_keeps_proportions(shape, wanted):
    mask = np.ones(shape, np.bool_)
    small = shrink_mask(mask, 128)
    assert small.shape == wanted
    assert (small == 255).all()
    assert not shrink_mask(~mask, 128).any()


def test_a_contact_sheet_holds_every_mask_under_its_label():
    masks = [lines(256, 3)] * 7
    sheet = contact_sheet([masks, masks[:2]], ["Real", "Synthetic"], columns=4, tile_px=64)
    assert sheet.dtype == np.uint8 and sheet.ndim == 2
    black = (sheet == 0).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(black, cv2.MORPH_CLOSE, np.ones((9, 9)))
    )
    tiles = [s for s in stats[1:] if s[cv2.CC_STAT_AREA] > 2000]
    assert len(tiles) >= 2  # closing joins neighbours; each group stays on its own
    assert sheet[:40].max() > 200, "the label is drawn"
    beside = contact_sheet(
        [masks, masks[:2]], ["Real", "Synthetic"], columns=2, tile_px=64, beside=True
    )
    assert beside.shape[1] > 4 * 64


def test_masks_of_any_shape_fit_their_tile():
    tall, wide = np.ones((200, 50), np.bool_), np.ones((50, 200), np.bool_)
    sheet = contact_sheet([[tall, wide]], ["x"], tile_px=100, gap_px=10)
    # Label 19 px and padding 20 px above; tiles at 20 and 130.
    top = sheet.shape[0] - 20 - 100
    first, second = sheet[top:-20, 20:120], sheet[top:-20, 130:230]
    assert (first[:, 38:62] == 255).all() and not first[:, :36].any()
    assert (second[38:62] == 255).all() and not second[:36].any()


def test_a_long_label_is_cut_and_not_drawn_beyond_its_group():
    short = contact_sheet([[lines(64, 3)]], ["x" * 500], tile_px=64)
    assert short.shape[1] == 64 + 4 * 6


@pytest.mark.parametrize(("groups", "labels"), [([], []), ([[]], ["a"]), ([[np.eye(8) > 0]], [])])
def test_a_sheet_without_masks_or_labels_is_refused(groups, labels):
    with pytest.raises(DataError, match="make no sheet"):
        contact_sheet(groups, labels)


def test_a_mask_of_the_wrong_shape_is_refused():
    with pytest.raises(DataError, match="height x width"):
        shrink_mask(np.ones((4, 4, 3), np.bool_), 8)


def test_pictures_go_into_the_page_unchanged():
    import base64

    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    data = base64.b64decode(data_uri(image).partition(",")[2])
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) == image).all()
