"""Pieces of the page as HTML; whatever comes from outside is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.tables import Table

# Tables of more rows are scrolled through in a box of their own.
LONG = 30


def table_html(table: Table, own: str | None = None) -> str:
    """A table with its title and note. Every cell repeats its column's name, which narrow screens show beside it; own:
    the name of rows that stand out.
    """
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in table.header)
    body = "".join(_line(table.header, row, own) for row in table.rows)
    title = escape(table.title)
    # The keyboard scrolls what can have the focus.
    long = f" long' tabindex='0' role='region' aria-label='{title}" if len(table.rows) > LONG else ""
    return (
        f"<section class='table'><h3>{title}</h3><div class='box{long}'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{note_html(table.note)}</section>"
    )


def _own(name: str, own: str | None) -> str:
    return " class='own'" if name == own else ""


def _line(header: Sequence[str], row: Sequence[str], own: str | None) -> str:
    cells = zip(header[1:], row[1:], strict=True)
    named = "".join(f"<td data-column='{escape(name)}'>{escape(cell)}</td>" for name, cell in cells)
    return f"<tr{_own(row[0], own)}><th scope='row'>{escape(row[0])}</th>{named}</tr>"


def note_html(text: str) -> str:
    """A paragraph in small letters; nothing where there is nothing to say."""
    return f"<p class='note'>{escape(text)}</p>" if text else ""


def folded(title: str, content: str, opened: bool = False) -> str:
    """Content that is folded away under its title."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{content}</details>"


def groups_html(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Facts under their headings."""
    return "".join(f"<h3>{escape(heading)}</h3>{facts_html(facts)}" for heading, facts in groups.items())


def facts_html(facts: Mapping[str, str]) -> str:
    """Settings and counts, a line each."""
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"<dl class='facts'>{lines}</dl>"


def card_html(label: str, estimate: Estimate, note: str) -> str:
    """One figure with its interval, in numbers and on a scale from 0 to 1; note: what it is, in a few words."""
    shown, interval = str(estimate), ""
    if estimate.value is not None and estimate.low is not None:
        shown, interval = shown.split(" ", 1)
    reason = estimate.value is None
    return (
        f"<div class='card'><div class='label'>{escape(label)}</div>"
        f"<div class='{'undefined' if reason else 'number'}'>{escape(shown)}</div>"
        f"<div class='interval'>{escape(interval)}</div>{_scale(estimate)}<div class='note'>{escape(note)}</div></div>"
    )


def forest_html(title: str, estimates: Mapping[str, Estimate], own: str) -> str:
    """A line per name: a dot and a bar on a scale from 0 to 1, and the number with its interval; own: the name that
    stands out.
    """
    lines = "".join(
        f"<li{_own(name, own)}><span class='name'>{escape(name)}</span>{_scale(estimate)}"
        f"<span class='shown'>{escape(str(estimate))}</span></li>"
        for name, estimate in estimates.items()
    )
    return f"<figure class='forest'><figcaption>{escape(title)}</figcaption><ul>{lines}</ul></figure>"


def _scale(estimate: Estimate) -> str:
    """An estimate in [0, 1] as a bar; hidden from screen readers, which have the numbers."""
    if estimate.value is None:
        return "<div class='scale' aria-hidden='true'></div>"
    ends = estimate.low, estimate.value, estimate.high
    low, value, high = (min(1.0, max(0.0, estimate.value if end is None else end)) for end in ends)
    return (
        f"<div class='scale' aria-hidden='true'><i style='left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%'></i>"
        f"<b style='left:{100 * value:.2f}%'></b></div>"
    )


def picture_html(path: Path, caption: str) -> str:
    """A PNG inside the page, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f"<img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"
    return f"<figure class='picture'>{image}<figcaption>{escape(caption)}</figcaption></figure>"
