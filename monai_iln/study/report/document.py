"""A report as sections of text, tables and figures, and the three forms it is written in: HTML, Markdown and CSV."""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from monai_iln.files import new_file
from monai_iln.study.records import write_frame

_DPI = 200
_CSS_PIXELS = 96  # an inch
LEAST_SCALE = 0.85  # of a figure on the page: text of 8 points, the smallest, is then 9 pixels high


@dataclass(frozen=True)
class Text:
    """A paragraph, a sentence that stands for what could not be shown, or a command."""

    text: str
    kind: Literal["paragraph", "absent", "code"] = "paragraph"


def absent(text: str) -> Text:
    """The sentence that stands where something could not be shown."""
    return Text(text, "absent")


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        cells: The cells as printed.
        bold: The numbers of the cells to emphasize.
        heading: Whether the one cell spans the table, as the title of the rows below.
    """

    cells: Sequence[str]
    bold: frozenset[int] = frozenset()
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A table for reading, and its numbers unrounded for computing.

    Attributes:
        name: The name of the CSV file, without its ending.
        caption: A sentence or two.
        header: The titles of the columns.
        rows: The rows in order.
        frame: The numbers, for the CSV file.
        left: The numbers of the columns that are aligned to the left; the others hold numbers.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Row]
    frame: pd.DataFrame
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: The name of the PNG file, without its ending.
        caption: A text on what it shows and how to read it.
        alt: A text for readers who cannot see it.
        figure: The drawing.
    """

    name: str
    caption: str
    alt: str
    figure: Figure


Block = Text | Items | Table | Picture


@dataclass
class Section:
    """A heading and what is below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The end of its address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: The title of the page.
        subtitle: One line below it.
        sections: The sections in order; the first is what a reader in a hurry reads.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]


def write_document(document: Document, folder: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``figures/*.png`` and ``tables/*.csv``.

    What an earlier report left in ``figures`` and ``tables`` is removed, so that nothing outdated lies beside it.

    Args:
        document: The report.
        folder: The folder, which is made if it is missing.

    Returns:
        The path of the HTML page, which needs no other file.
    """
    document = replace(document, sections=_with_a_file_each(document.sections))
    images: dict[str, bytes] = {}
    for kind, ending in (("figures", "png"), ("tables", "csv")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in (folder / kind).glob(f"*.{ending}"):
            path.unlink()
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                images[block.name] = _png(block.figure)
                with new_file(folder / "figures" / f"{block.name}.png") as partial:
                    partial.write_bytes(images[block.name])
            elif isinstance(block, Table):
                write_frame(folder / "tables" / f"{block.name}.csv", block.frame)

    def data(picture: Picture) -> str:
        return "data:image/png;base64," + base64.b64encode(images[picture.name]).decode("ascii")

    for form in ("md", "html"):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("monai_iln.study.report", "."),
            autoescape=form == "html",
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {"data": data, "width": _width, "markdown": _markdown, "wrap": _wrap}
        environment.tests |= {kind.__name__.lower(): _is(kind) for kind in (Text, Items, Table, Picture)}
        text = environment.get_template(f"report.{form}.jinja").render(document=document, least_scale=LEAST_SCALE)
        with new_file(folder / f"report.{form}") as partial:
            partial.write_text(text, encoding="utf-8")
    return folder / "report.html"


def _with_a_file_each(sections: Sequence[Section]) -> list[Section]:
    """Number the figures and tables whose names are taken: those of ``GN 4`` and ``gn_4`` would share a file."""
    taken: set[tuple[type, str]] = set()
    found = []
    for section in sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Picture | Table):
                names = (f"{block.name}-{number}" if number > 1 else block.name for number in itertools.count(1))
                kind = type(block)
                block = replace(block, name=next(name for name in names if (kind, name.lower()) not in taken))
                taken.add((kind, block.name.lower()))
            blocks.append(block)
        found.append(Section(section.title, blocks))
    return found


def _is(kind: type) -> Any:
    return lambda block: isinstance(block, kind)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _width(picture: Picture) -> int:
    """The width of a picture on the page, in CSS pixels."""
    return round(picture.figure.get_figwidth() * _CSS_PIXELS)


def _markdown(text: str) -> str:
    r"""Text that means itself in Markdown, in a cell of a table too.

    Example:
        >>> print(_markdown("GN_4 | <b>"))
        GN\_4 \| &lt;b&gt;
    """
    text = re.sub(r"([\\`*_|\[\]~#$])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ")
    return re.sub(r"^(\d*)([-+.)])(?=\s)", r"\1\\\2", text)  # what begins a list


def _wrap(text: str) -> Markup:
    """Text with places where a narrow column may break long names: after ``_`` and ``/`` within words."""
    return Markup(re.sub(r"([_/])(?=\w)", r"\1<wbr>", str(escape(text))))
