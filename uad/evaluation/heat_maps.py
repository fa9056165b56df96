"""Heat maps of a sweep: noise level L against flip-probability threshold P, in panels for a metric and all else."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from uad.evaluation.sweep import METRICS, SYMBOLS, Choice, Outcome

CHOSEN, DEFAULT = {"ls": "-", "lw": 2.5}, {"ls": ":", "lw": 2.0}
# Colours span at least this much of a metric, so that differences without meaning look like none.
SPAN = 0.05


def heat_maps(outcomes: Sequence[Outcome], choice: Choice) -> Figure:
    """A panel for every metric that is defined, with its numbers in the cells, on a colour scale of its own; a line of
    panels for every combination of shifts, score, models and, where a pair (L, P) was run with several of it, K. A
    combination that was not run is an empty cell.

    The chosen setting has a frame, the default a dotted one, where they are among the outcomes.
    """
    metrics = [name for name in METRICS if any(outcome.estimates[name].value is not None for outcome in outcomes)]
    lines = _lines(outcomes)
    levels = sorted({outcome.setting.noise_level for outcome in outcomes})
    thresholds = sorted({outcome.setting.prob_threshold for outcome in outcomes})
    # Inches: a panel is as wide as its cells, or its title.
    width = max(0.9 + 0.62 * len(thresholds), 0.3 + 0.06 * max(map(len, lines)))
    size = (1.3 + len(metrics) * width, 0.9 + len(lines) * (0.9 + 0.42 * len(levels)))
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    grid = figure.subplots(len(lines), len(metrics), squeeze=False)
    for number, metric in enumerate(metrics):
        values = [outcome.estimates[metric].value for outcome in outcomes]
        low, high = (limit([value for value in values if value is not None]) for limit in (min, max))
        limits = low, max(high, low + SPAN)
        for axes, (title, line) in zip(grid[:, number], lines.items(), strict=True):
            _draw(axes, line, choice, metric, levels, thresholds, limits)
            axes.set_title(f"{METRICS[metric]}{title}", fontsize=8)
            axes.set_xlabel("P", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("L", fontsize=8)
    figure.supxlabel("frame: chosen; dotted: default", fontsize=7)
    return figure


def _lines(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes by line of panels, whose title says what differs between the lines: shifts, score, models and,
    unless every (L, P) has one K with each of these, K.
    """
    settings = [outcome.setting for outcome in outcomes]
    one_k = len({setting._replace(denoise_steps=None) for setting in settings}) == len(settings)
    others = ("shifts", "score", "members") if one_k else ("denoise_steps", "shifts", "score", "members")
    names = [name for name in others if len({getattr(setting, name) for setting in settings}) > 1]
    lines: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: [getattr(outcome.setting, name) for name in names]):
        title = ", ".join(f"{SYMBOLS[name]} = {getattr(outcome.setting, name)}" for name in names)
        lines.setdefault(f"\n{title}" if title else "", []).append(outcome)
    return lines


def _draw(
    axes: Axes,
    outcomes: Sequence[Outcome],
    choice: Choice,
    metric: str,
    levels: Sequence[int],
    thresholds: Sequence[float],
    limits: tuple[float, float],
) -> None:
    """One panel; limits: the values of the metric at both ends of the colour scale."""
    low, high = limits
    values = np.full((len(levels), len(thresholds)), np.nan)
    for outcome in outcomes:
        row, column = levels.index(outcome.setting.noise_level), thresholds.index(outcome.setting.prob_threshold)
        value = outcome.estimates[metric].value
        if value is None:
            continue
        values[row, column] = value
        colour = "black" if value > low + 0.6 * (high - low) else "white"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=colour)
        for framed, how in ((choice.default, DEFAULT), (choice.chosen, CHOSEN)):
            if outcome is framed:
                axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, fill=False, ec="#D55E00", **how))
    axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(thresholds)), [f"{threshold:g}" for threshold in thresholds], fontsize=7)
    axes.set_yticks(range(len(levels)), [_level(level, outcomes) for level in levels], fontsize=7)
    axes.spines[:].set_visible(False)


def _level(level: int, outcomes: Sequence[Outcome]) -> str:
    """L, with its K where that differs between the levels of a panel."""
    steps = {outcome.setting.noise_level: outcome.setting.denoise_steps for outcome in outcomes}
    return f"{level}\n(K = {steps[level]})" if level in steps and len(set(steps.values())) > 1 else str(level)
