"""Figures of an evaluation: a few rows stand for many, and the legend lies where no curve is."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.clinical import Row
from uad.evaluation.figures import dice_figure, pr_figure, roc_figure
from uad.evaluation.leading import OTHERS, few, highest, ranking

UNDEFINED = Estimate(None, reason="no masks")
NAMES = ["ours", "autoencoder alone", *(f"raw intensity (channel {number})" for number in range(12))]


def row_of(ap: float | None, image_auroc: float | None = None) -> Row:
    """A row with curves where AP is defined; undefined where None."""
    numbers = {"ap": ap, "auroc": ap, "best_dice": ap, "image_auroc": image_auroc}
    estimates = {name: UNDEFINED if value is None else Estimate(value) for name, value in numbers.items()}
    line = np.linspace(1e-3, 1, 50)
    keys = ("recall", "precision", "dice", "false_positive_rate", "positive_rate", "threshold")
    return Row("", 1.0, estimates=estimates, curves=None if ap is None else dict.fromkeys(keys, line))


def test_the_method_its_autoencoder_and_the_best_others_are_shown_in_their_order():
    rows = {name: row_of((5 * number % 14) / 14) for number, name in enumerate(NAMES)}
    shown, chosen = few(rows)
    values = {name: row.estimates["ap"].value for name, row in rows.items()}
    best = sorted(NAMES[2:], key=lambda name: -values[name])[:OTHERS]
    assert list(shown) == [*NAMES[:2], *(name for name in NAMES if name in best)]
    assert chosen == "Of 12 raw intensities, the best 3 by AP"
    assert few(dict(list(rows.items())[: 2 + OTHERS])) == (dict(list(rows.items())[: 2 + OTHERS]), "")


def test_without_masks_rows_are_ranked_by_images_and_without_anything_not_at_all():
    rows = {name: row_of(None, number / 14) for number, name in enumerate(NAMES)}
    assert ranking(rows) == "image_auroc" and highest(rows) == NAMES[-1]
    assert list(few(rows)[0]) == [*NAMES[:2], *NAMES[-3:]]
    rows = {name: row_of(None) for name in NAMES}
    assert ranking(rows) is None and highest(rows) == "ours"
    assert list(few(rows)[0]) == NAMES[:5] and few(rows)[1] == "Of 12 raw intensities, the first 3"
    assert roc_figure(rows) is None


@pytest.mark.parametrize("make", [roc_figure, dice_figure, lambda rows: pr_figure(rows, 0.1)])
def test_the_legend_covers_no_curve_and_nothing_is_cut_off(make):
    figure = make({name: row_of(number / 14) for number, name in enumerate(NAMES)})
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert legend.get_title().get_text() == "Of 12 raw intensities, the best 3 by AP"
    assert sum(text.get_text().startswith("raw intensity") for text in legend.get_texts()) == OTHERS
    assert not legend.get_window_extent().overlaps(axes.get_tightbbox())
    assert axes.get_window_extent().height > 250
    for part in (legend.get_window_extent(), axes.get_tightbbox()):
        assert part.x0 >= 0 and part.y0 >= 0 and part.x1 <= figure.bbox.x1 and part.y1 <= figure.bbox.y1
