"""The page of an evaluation, and the page of a comparison of several methods."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from uad.evaluation.clinical import Clinical
from uad.evaluation.leading import RANKED_BY, few, highest, ranking
from uad.evaluation.pictures import CAPTIONS, WIDE
from uad.evaluation.published import Published
from uad.evaluation.tables import Table
from uad.report.answer import (
    answer_of,
    answer_of_methods,
    capital,
    cards_of,
    cards_of_published,
    details_of,
    details_of_methods,
    examples_of,
    forest_of,
)
from uad.report.markup import folded, groups_html, note_html, picture_html, table_html
from uad.report.page import PAGE, examples_html, write_page
from uad.report.viewer import Viewer

# Tables of at most so many rows are open.
SHORT = 6


def write_evaluation_page(
    folder: Path,
    name: str,
    method: str,
    facts: Mapping[str, Mapping[str, str]],
    tables: tuple[Sequence[Table], Sequence[Table]],
    pictures: Sequence[str],
    found: Clinical | Published | None,
    viewer: Viewer | None,
) -> None:
    """Write the page of one result folder.

    name: of the folder that was evaluated; method: of its row; facts: settings and counts, under headings; tables:
    leading ones, which are shown, and further ones, which are folded away; pictures: names in `folder`; found: None
    where only the paper's protocol was computed; viewer: None where nothing is to be looked at.
    """
    leading, further = tables
    answer = "Every image is scaled by itself in this protocol; the table below has its numbers."
    lead, forest = "", ""
    if isinstance(found, Clinical):
        answer = answer_of(found, method)
        rows, chosen = few(found.rows)
        lead = note_html(details_of(found, method)) + cards_of(found, method)
        forest = forest_of(rows, method, chosen)
    elif found is not None:
        answer = f"Scored as the benchmark {found.protocol} does; each table says which thresholds saw test labels."
        lead = cards_of_published(found)
    content = _leading_tables(leading, method) + _figures(folder, pictures)
    content += _folded_tables(further, method, opened=not leading)
    content += folded("Settings and counts", groups_html(facts))
    title = f"{capital(method)}: results in {name}"
    write_page(folder / PAGE, title, "Evaluation", answer, lead + _lead(forest, viewer), content, viewer)


def write_comparison_page(
    folder: Path,
    title: str,
    facts: Mapping[str, Mapping[str, str]],
    tables: Sequence[Table],
    figure: str,
    methods: Mapping[str, Clinical],
    viewer: Viewer | None,
) -> None:
    """Write the page of several methods on the same images; facts: settings, under headings; methods: by the name of
    their row; figure: its file.

    What can only be of one method, the figures on top and the numbers of single images, is of the one that is ranked
    highest, and the page names it.
    """
    rows = {name: clinical.rows[name] for name, clinical in methods.items()}
    best, metric = highest(rows), ranking(rows)
    answer = answer_of_methods(rows, methods[best])
    why = f"the method with the highest {RANKED_BY[metric]}" if metric else "the first method, since none can be ranked"
    whose = f"<h3 class='whose'>{escape(best)}, {why}: its figures and two of its cases</h3>"
    lead = note_html(details_of_methods(rows)) + whose + cards_of(methods[best], best)
    caption = (
        f"The same images through every method, chosen by the numbers of {best}, and average precision with its "
        "interval."
    )
    content = _leading_tables(tables, best)
    content += folded("Figure for a paper", picture_html(folder / figure, caption))
    content += folded("Settings", groups_html(facts))
    write_page(folder / PAGE, title, "Comparison", answer, lead + _lead(forest_of(rows, best), viewer), content, viewer)


def _lead(forest: str, viewer: Viewer | None) -> str:
    """What stands between the answer and the viewer."""
    examples = examples_html(examples_of(viewer)) if viewer else ""
    return f"<div class='lead'>{examples}{forest}</div>"


def _figures(folder: Path, names: Sequence[str]) -> str:
    if not names:
        return ""
    wide, curves = (
        "".join(picture_html(folder / name, CAPTIONS[name]) for name in names if (name in WIDE) == is_wide)
        for is_wide in (True, False)
    )
    return f"<h2>Figures</h2><div class='curves'>{curves}</div>{wide}"


def _leading_tables(tables: Sequence[Table], own: str) -> str:
    """The first of the tables, and the others, those that are long folded away; own: the row that stands out."""
    if not tables:
        return ""
    others = "".join(folded(table.title, table_html(table, own), len(table.rows) <= SHORT) for table in tables[1:])
    return f"<h2>Detection</h2>{table_html(tables[0], own)}{others}"


def _folded_tables(tables: Sequence[Table], own: str, opened: bool) -> str:
    if not tables:
        return ""
    return "<h2>More numbers</h2>" + "".join(folded(table.title, table_html(table, own), opened) for table in tables)
