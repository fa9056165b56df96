"""Which rows stand for all where there is room for a few: in figures, and above the viewer of the page."""

from collections.abc import Mapping

from uad.evaluation.clinical import Row
from uad.evaluation.contenders import AUTOENCODER_ALONE

# By what rows are ranked: the first that is defined, and how it is called.
RANKED_BY = {"ap": "AP", "image_auroc": "AUROC of images"}
# So many stand beside the method and its autoencoder.
OTHERS = 3


def ranking(rows: Mapping[str, Row]) -> str | None:
    """The metric, of RANKED_BY, by which rows are ranked; None where none is defined for any row."""
    defined = (metric for metric in RANKED_BY if any(row.estimates[metric].value is not None for row in rows.values()))
    return next(defined, None)


def highest(rows: Mapping[str, Row]) -> str:
    """The name of the row that is ranked highest, of equal ones the first; the first where nothing can be ranked."""
    return next(iter(_ranked(rows)), next(iter(rows)))


def few(rows: Mapping[str, Row]) -> tuple[dict[str, Row], str]:
    """Of the rows of an evaluation the method, which is the first, its autoencoder alone and the best OTHERS of the
    raw intensities, in their order; and how these were chosen, "" where none is left out.
    """
    method = next(iter(rows))
    others = {name: row for name, row in rows.items() if name not in (method, AUTOENCODER_ALONE)}
    # Those without a number come last.
    best = list(dict.fromkeys([*_ranked(others), *others]))[:OTHERS]
    shown = {name: row for name, row in rows.items() if name not in others or name in best}
    if len(best) == len(others):
        return shown, ""
    metric = ranking(others)
    which = f"the best {len(best)} by {RANKED_BY[metric]}" if metric else f"the first {len(best)}"
    return shown, f"Of {len(others)} raw intensities, {which}"


def _ranked(rows: Mapping[str, Row]) -> list[str]:
    """The names of the rows that can be ranked, the highest first."""
    metric = ranking(rows)
    found = {name: row.estimates[metric].value for name, row in rows.items()} if metric else {}
    return sorted((name for name, value in found.items() if value is not None), key=lambda name: -found[name])
