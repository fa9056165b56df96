"""Writes the page: one file with its style, scripts, pictures and chosen cases inside."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from uad.files import write_text
from uad.report.packing import json_in_page
from uad.report.viewer import Viewer

PAGE = "report.html"
# In the order in which they build on each other; the viewers follow what both of them use.
SCRIPTS = ("data.js", "draw.js", "controls.js", "cases.js", "film.js", "slices.js", "volumes.js", "start.js")


def write_page(path: Path, title: str, kind: str, answer: str, lead: str, content: str, viewer: Viewer | None) -> None:
    """Write the page whole.

    title, kind, answer: plain text, what it is of, what it is, and the result in a sentence; lead, content: HTML before
    and after the viewer; viewer: None where there is nothing to look at.
    """
    shown = _with_cases(viewer) if viewer else {"index": "{}", "cases": "", "scripts": ""}
    page = Template(_asset("page.html")).substitute(
        title=escape(title),
        kind=escape(kind),
        answer=escape(answer),
        lead=lead,
        content=content,
        style=_asset("style.css"),
        hidden="" if viewer else " hidden",
        **shown,
    )
    write_text(path, page)


def _with_cases(viewer: Viewer) -> dict[str, str]:
    cases = (
        f'<script type="application/json" id="case-{number}">{text}</script>'
        for number, text in sorted(viewer.embedded.items())
    )
    return {
        "index": json_in_page(viewer.index()),
        "cases": "\n".join(cases),
        "scripts": "\n".join(f"<script>\n{_asset(name)}</script>" for name in SCRIPTS),
    }


def _asset(name: str) -> str:
    return files("uad.report").joinpath("page", name).read_text(encoding="utf-8")


def examples_html(examples: Sequence[tuple[int, str, str]]) -> str:
    """Figures that the viewer's scripts draw: the number of a case, what it is ("best"), and its caption."""
    return "".join(
        f"<figure class='example' data-case='{number}'>"
        f"<a href='#viewer' aria-label='{escape(word)}, {escape(caption)}: to the viewer'>"
        f"<div><canvas></canvas><canvas></canvas></div><figcaption><strong>{escape(word)}</strong> {escape(caption)}"
        "</figcaption></a></figure>"
        for number, word, caption in examples
    )
