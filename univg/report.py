"""Reports: masks shrunk so that they can be seen, contact sheets, and one self-contained page.

In: masks, numbers, plain text. Out: uint8 images (H, W), and an HTML page in a single file: its
style and pictures are inside, it asks for nothing from elsewhere, needs no script, and reads on a
desk, on a phone, in the dark and with a screen reader. All text is escaped; `code` between
backticks is the only markup.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from univg.errors import DataError
from univg.files import make_folder, write_atomic
from univg.images import ImageArray, encode_image
from univg.masks import BoolMask

GreyImage = npt.NDArray[np.uint8]

STYLE_PATH = Path(__file__).parent / "assets" / "report.css"
SHEET_GREY = 30
LABEL_GREY = 235
_LEVELS = 17  # 16 steps of 17 from 0 to 255: the eye sees no more, and the PNG is half as large


def shrink_mask(mask: BoolMask, longest_px: int) -> GreyImage:
    """Return `mask` (H, W) in grey, its longest side `longest_px`, thin vessels still visible.

    The share of a pixel that is vessel, by its square root: a line of one pixel, shrunk four
    times, keeps half of the brightness instead of a quarter.
    """
    if mask.ndim != 2 or not mask.size:
        raise DataError(f"a mask is bool of height x width, not of shape {mask.shape}")
    scale = longest_px / max(mask.shape)
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=how)
    steps = np.round(np.sqrt(np.clip(share, 0, 1)) * 255 / _LEVELS)
    return np.asarray(steps * _LEVELS, np.uint8)


def contact_sheet(
    groups: Sequence[Sequence[BoolMask]],
    labels: Sequence[str],
    *,
    columns: int = 6,
    tile_px: int = 192,
    gap_px: int = 6,
    beside: bool = False,
) -> GreyImage:
    """Return one image (H, W) of labelled groups of masks, below each other or `beside`.

    Each group has a label over a grid of `columns`; masks of any shape are fitted into squares of
    `tile_px`, centred on black.
    """
    if len(groups) != len(labels) or not groups or not all(groups):
        raise DataError(f"{len(groups)} groups of masks and {len(labels)} labels make no sheet")
    blocks = [
        _draw_group(group, label, min(columns, max(map(len, groups))), tile_px, gap_px)
        for group, label in zip(groups, labels, strict=True)
    ]
    between = 2 * gap_px
    if beside:
        height = max(block.shape[0] for block in blocks)
        sizes = [((0, height - block.shape[0]), (0, between)) for block in blocks]
    else:
        sizes = [((0, between), (0, 0)) for block in blocks]
    padded = [
        np.pad(block, size, constant_values=SHEET_GREY)
        for block, size in zip(blocks, sizes, strict=True)
    ]
    sheet = np.concatenate(padded, axis=1 if beside else 0)
    kept = sheet[:, :-between] if beside else sheet[:-between]
    return np.pad(kept, 2 * gap_px, constant_values=SHEET_GREY)


def _draw_group(
    group: Sequence[BoolMask], label: str, columns: int, tile_px: int, gap_px: int
) -> GreyImage:
    """Return one group: its label above its tiles."""
    pitch = tile_px + gap_px
    lines = math.ceil(len(group) / columns)
    grid = np.full((lines * pitch - gap_px, columns * pitch - gap_px), SHEET_GREY, np.uint8)
    for k, mask in enumerate(group):
        top, left = k // columns * pitch, k % columns * pitch
        grid[top : top + tile_px, left : left + tile_px] = _fit_tile(mask, tile_px)
    strip = _draw_label(label, grid.shape[1], max(12, tile_px // 10))
    return np.concatenate([strip, grid])


def _fit_tile(mask: BoolMask, tile_px: int) -> GreyImage:
    tile = np.zeros((tile_px, tile_px), np.uint8)
    small = shrink_mask(mask, tile_px)
    top, left = ((tile_px - side) // 2 for side in small.shape)
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def _draw_label(label: str, width: int, size_px: int) -> GreyImage:
    """Return a strip of `width` with the label in it, cut with an ellipsis where it is too long."""
    font = ImageFont.load_default(size_px)
    shown = label
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = shown[:-2] + "…"
    strip = Image.new("L", (width, round(1.6 * size_px)), SHEET_GREY)
    ImageDraw.Draw(strip).text((0, 0.75 * size_px), shown, fill=LABEL_GREY, font=font, anchor="lm")
    return np.asarray(strip)


class Page:
    """A report, put together section by section and written as one file."""

    def __init__(self, title: str, *, kicker: str = "", lead: str = "", footer: str = "") -> None:
        self.title, self.kicker, self.lead, self.footer = title, kicker, lead, footer
        self.sections: list[Section] = []
        self.tables = self.figures = 0

    def section(self, heading: str, *paragraphs: str) -> Section:
        """Begin a section, which stands in the contents too."""
        added = Section(self, heading)
        self.sections.append(added)
        added.text(*paragraphs)
        return added

    def html(self) -> str:
        """Return the page; the same content gives the same bytes."""
        entries = [f'<li><a href="#{s.key}">{_plain(s.heading)}</a></li>' for s in self.sections]
        lead = f'<p class="lead">{_rich(self.lead)}</p>' if self.lead else ""
        kicker = f'<p class="kicker">{_rich(self.kicker)}</p>' if self.kicker else ""
        footer = f"<footer>{_rich(self.footer)}</footer>" if self.footer else ""
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                # Whatever a later edit puts in, the browser will fetch nothing and run nothing.
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                "img-src data:; style-src 'unsafe-inline'\">",
                f"<title>{_plain(self.title)}</title>",
                f"<style>\n{STYLE_PATH.read_text(encoding='utf-8')}</style>\n</head>\n<body>",
                '<a class="skip" href="#main">Skip to the content</a>\n<div class="page">',
                f"<header>{kicker}<h1>{_plain(self.title)}</h1>{lead}</header>",
                f'<nav aria-label="Contents"><ol>{"".join(entries)}</ol></nav>',
                '<main id="main">',
                *(section.html() for section in self.sections),
                f"</main>\n{footer}\n</div>\n</body>\n</html>\n",
            ]
        )

    def write(self, path: Path) -> None:
        """Write the page to `path`, whole or not at all."""
        make_folder(path.parent)
        write_atomic(path, self.html().encode())


class Section:
    """A part of a page: a heading and what stands under it, in the order of the calls."""

    def __init__(self, page: Page, heading: str) -> None:
        self.page, self.heading = page, heading
        self.key = f"section-{len(page.sections) + 1}"
        self._parts: list[str] = []

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        self._parts += [f"<p>{_rich(paragraph)}</p>" for paragraph in paragraphs if paragraph]

    def subheading(self, heading: str, *paragraphs: str) -> None:
        """Add a heading one level down."""
        self._parts.append(f"<h3>{_plain(heading)}</h3>")
        self.text(*paragraphs)

    def key_figures(self, figures: Sequence[tuple[str, str]]) -> None:
        """Add a band of (value, what it is)."""
        items = [
            f"<div><dt>{_rich(what)}</dt><dd>{_plain(value)}</dd></div>" for value, what in figures
        ]
        self._parts.append(f'<dl class="figures">{"".join(items)}</dl>')

    def table(
        self,
        caption: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        note: str = "",
        shades: Sequence[Sequence[float]] = (),
    ) -> None:
        """Add a table; the first cell of a row is its heading, the others are numbers.

        `shades` (0 to 1, a row of them for each row, without the heading) tints the cells.
        """
        self.page.tables += 1
        number = self.page.tables
        head = "".join(f'<th scope="col">{_rich(column)}</th>' for column in columns)
        body = []
        for r, row in enumerate(rows):
            cells = [f'<th scope="row">{_rich(row[0])}</th>']
            for c, cell in enumerate(row[1:]):
                tint = f' style="--shade:{shades[r][c]:.3f}"' if shades else ""
                cells.append(f"<td{tint}>{_plain(cell)}</td>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        key = f"table-{number}"
        self._parts.append(
            f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}"><table>'
            f'<caption id="{key}"><span><b>Table {number}.</b> {_rich(caption)}</span></caption>'
            f"<thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
        )
        if note:
            self._parts.append(f'<p class="note">{_rich(note)}</p>')

    def pictures(
        self, images: Sequence[ImageArray], alt: str, caption: str, *, columns: int = 6
    ) -> None:
        """Add a figure of one or more images, described as a whole by `alt`."""
        self.page.figures += 1
        tiles = "".join(map(_tile, images))
        kind = "tiles" if len(images) > 1 else "tiles single"
        across = min(columns, max(len(images), 1))
        number = f"<b>Figure {self.page.figures}.</b>"
        self._parts.append(
            f'<figure><div class="{kind}" style="--across:{across}" role="img" '
            f'aria-label="{_plain(alt)}">{tiles}</div>'
            f"<figcaption>{number} {_rich(caption)}</figcaption></figure>"
        )

    def drawing(self, svg: str, caption: str) -> None:
        """Add an inline SVG as a numbered figure."""
        self.page.figures += 1
        number = f"<b>Figure {self.page.figures}.</b>"
        self._parts.append(
            f"<figure>{svg}<figcaption>{number} {_rich(caption)}</figcaption></figure>"
        )

    def comparison(
        self, labels: Sequence[str], cases: Sequence[Sequence[ImageArray]], alt: str, caption: str
    ) -> None:
        """Add a figure of `cases`, each with an image a label: what belongs together side by side.

        A case is a column under the labels' rows; on a narrow screen it is a row.
        """
        if not cases or any(len(case) != len(labels) for case in cases):
            counts = ", ".join(str(len(case)) for case in cases) or "none"
            raise DataError(f"cases of {counts} images do not fit {len(labels)} labels")
        self.page.figures += 1
        heads = "".join(f"<span>{_rich(label)}</span>" for label in labels)
        tiles = "".join(_tile(image) for case in cases for image in case)
        number = f"<b>Figure {self.page.figures}.</b>"
        self._parts.append(
            f'<figure><div class="cases" style="--kinds:{len(labels)};--cases:{len(cases)}" '
            f'role="img" aria-label="{_plain(alt)}">{heads}{tiles}</div>'
            f"<figcaption>{number} {_rich(caption)}</figcaption></figure>"
        )

    def commands(self, lines: Sequence[str], label: str = "Commands") -> None:
        """Add command lines, to be copied."""
        text = "\n".join(_plain(line) for line in lines)
        self._parts.append(
            f'<div class="scroll" role="region" tabindex="0" aria-label="{_plain(label)}">'
            f"<pre>{text}</pre></div>"
        )

    def html(self) -> str:
        """Return the section."""
        head = f'<section id="{self.key}" aria-labelledby="{self.key}-heading">'
        title = f'<h2 id="{self.key}-heading">{_plain(self.heading)}</h2>'
        return "\n".join([head, title, *self._parts, "</section>"])


def data_uri(image: ImageArray) -> str:
    """Return `image` (H×W or H×W×3) as a PNG inside an address."""
    return "data:image/png;base64," + base64.b64encode(encode_image(image)).decode()


def _tile(image: ImageArray) -> str:
    height, width = image.shape[:2]
    return f'<img alt="" width="{width}" height="{height}" src="{data_uri(image)}">'


def _plain(text: str) -> str:
    return html.escape(text, quote=True)


def _rich(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _plain(text))
