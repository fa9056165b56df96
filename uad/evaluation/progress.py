"""How well a training detects by now: numbers of maps in memory, and their curve over the steps."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from uad.best import AP, IMAGE_AUROC
from uad.evaluation import metrics
from uad.evaluation.figures import COLOURS
from uad.lettering import as_written
from uad.scores import ImageScore

# What the numbers are called in a figure.
CURVES = {AP: "AP of pixels", IMAGE_AUROC: "image AUROC"}


def separation(maps: np.ndarray, masks: np.ndarray, image_score: ImageScore) -> dict[str, float]:
    """AP over the pixels of all images together, and image AUROC, as the clinical protocol gives them for slices that
    are scored by themselves, by AP and IMAGE_AUROC; what is undefined, for want of a kind of images, is left out.

    maps: (N, S, S), finite; masks: (N, S, S) bool, an image is diseased where its mask has a lesion;
    image_score: what scores an image as a whole.
    """
    bins = metrics.float16_bins(maps, metrics.float16_scale(float(np.abs(maps).max())))
    ranks = np.unique([image_score(each) for each in maps], return_inverse=True)[1]
    diseased = masks.any((1, 2))
    numbers = {
        AP: metrics.average_precision(*metrics.tallies(bins, masks)),
        IMAGE_AUROC: metrics.auroc(*metrics.tallies(ranks, diseased, len(ranks))),
    }
    return {name: float(number) for name, number in numbers.items() if math.isfinite(number)}


def progress_figure(points: Mapping[str, Sequence[tuple[int, float]]], best: int | None, judged_on: str) -> Figure:
    """AP and image AUROC over the steps; points: by the names of CURVES; best: the step whose weights are kept,
    if any; judged_on: the images, in words.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, label), colour in zip(CURVES.items(), COLOURS, strict=False):
        if points.get(name):
            axes.plot(*zip(*points[name], strict=True), marker="o", ms=3, lw=1.5, color=colour, label=label)
    if best is not None:
        axes.axvline(best, color="0.6", lw=0.8, ls=":", label=f"best AP: step {best:,}")
    axes.set(xlabel="step", ylabel="AP, image AUROC", ylim=(0, 1.01))
    axes.set_title(as_written(judged_on), fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color="0.92", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
