"""Curves and score distributions of an evaluation as matplotlib figures; of many rows, those of leading.few."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uad.evaluation.clinical import Clinical, Row
from uad.evaluation.leading import few
from uad.files import written_whole
from uad.lettering import as_written

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MAX_POINTS = 2000


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG and, beside it, as PDF, each whole; without a date: equal figures are equal files."""
    FigureCanvasAgg(figure)
    # Laid out once: each file would do it twice again, which takes longer than drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for target in (path, path.with_suffix(".pdf")):
        with written_whole(target) as temporary:
            metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
            figure.savefig(temporary, format=target.suffix[1:], dpi=dpi, metadata=metadata)


def remove_figure(path: Path) -> None:
    """Remove what `save` wrote, where it did."""
    for target in (path, path.with_suffix(".pdf")):
        target.unlink(missing_ok=True)


def roc_figure(rows: Mapping[str, Row]) -> Figure | None:
    """Pooled ROC curves; None where no row has one."""
    figure, axes = _new_axes("false-positive rate", "sensitivity")
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    return _with_curves(figure, axes, rows, "false_positive_rate", "recall", "auroc", "AUROC")


def pr_figure(rows: Mapping[str, Row], prevalence: float | None) -> Figure | None:
    """Pooled precision-recall curves with the prevalence, which is the precision of random scores."""
    figure, axes = _new_axes("recall", "precision")
    if prevalence is not None:
        axes.axhline(prevalence, color="0.6", lw=0.8, ls=":", label=f"prevalence {prevalence:.3f}")
    return _with_curves(figure, axes, rows, "recall", "precision", "ap", "AP")


def dice_figure(rows: Mapping[str, Row]) -> Figure | None:
    """Pooled Dice against the threshold, which is shown as the share of scored pixels that are called
    positive: the scores of different rows have different units.
    """
    figure, axes = _new_axes("share of pixels called positive", "Dice")
    axes.set_xscale("log")
    axes.set_xlim(1e-4, 1)
    return _with_curves(figure, axes, rows, "positive_rate", "dice", "best_dice", "best")


def scores_figure(clinical: Clinical) -> Figure:
    """Image scores of healthy and diseased images, one panel a row."""
    names, chosen = few(clinical.rows)
    figure = Figure(figsize=(2.5 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        diseased = [i.rows[name].image_score for i in clinical.images if i.diseased is not False]
        empty = [i.rows[name].image_score for i in clinical.images if i.diseased is False]
        healthy = empty + [i.rows[name].image_score for i in clinical.healthy]
        _strips(axes, [("healthy", healthy, COLOURS[0]), ("diseased", diseased, COLOURS[1])])
        axes.set_title(as_written(name), fontsize=8)
        axes.set_xlabel(f"image AUROC {clinical.rows[name].estimates['image_auroc']}", fontsize=7)
    figure.axes[0].set_ylabel("image score")
    if chosen:
        figure.supxlabel(chosen, fontsize=7, x=0.01, ha="left")
    return figure


def _strips(axes: Axes, groups: Sequence[tuple[str, Sequence[float], str]]) -> None:
    """Every score as a dot, the horizontal place spread evenly, and the median as a bar."""
    for place, (_, scores, colour) in enumerate(groups):
        spread = 0.5 * (np.arange(len(scores)) * 0.618034 % 1 - 0.5)
        axes.plot(place + spread, scores, ".", ms=3, alpha=0.6, color=colour, mew=0)
        if len(scores):
            axes.plot([place - 0.3, place + 0.3], [np.median(scores)] * 2, color="black", lw=1.5)
    axes.set_xticks(range(len(groups)), [f"{label} (n={len(scores)})" for label, scores, _ in groups], fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    if all(score >= 0 for _, scores, _ in groups for score in scores):
        axes.set_ylim(bottom=0)
    axes.tick_params(axis="y", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _new_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.2, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _with_curves(
    figure: Figure, axes: Axes, rows: Mapping[str, Row], x: str, y: str, metric: str, label: str
) -> Figure | None:
    """The figure with a curve of each of a few rows, and its legend below the axes, where it covers none."""
    with_curves = {name: row for name, row in rows.items() if row.curves is not None}
    if not with_curves:
        return None
    drawn, chosen = few(with_curves)
    for number, (colour, (name, row)) in enumerate(zip(COLOURS, drawn.items(), strict=False)):
        points = _thinned(len(row.curves[x]))
        value = row.estimates[metric].value
        axes.plot(
            row.curves[x][points],
            row.curves[y][points],
            color=colour,
            lw=2.2 if number == 0 else 1.2,
            zorder=3 if number == 0 else 2,
            label=f"{as_written(name)}: {label} {value:.3f}",
        )
    lines, _ = axes.get_legend_handles_labels()
    legend = figure.legend(loc="outside lower left", fontsize=8, frameon=False, title=chosen, title_fontsize=8)
    legend.set_alignment("left")
    figure.set_figheight(figure.get_figheight() + 0.17 * (len(lines) + bool(chosen)))
    return figure


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int))
