"""A look at one input: its slices, their healthy counterparts, and the map over them."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from uad.application.judging import Judged
from uad.application.opening import Opened
from uad.evaluation.display import for_display
from uad.files import written_whole
from uad.lettering import as_written

COLUMNS = 8
ROWS = ("input", "reconstruction", "anomaly map")


def write_montage(path: Path, opened: Opened, judged: Judged, threshold: float | None, channel: int) -> None:
    """At most COLUMNS slices, evenly spread, with that of the highest score among them, framed in red.

    The map's colours end at its 99.8th percentile, or at twice the threshold where that is higher; pixels that reach
    the threshold are outlined. Shown as a radiologist expects, see for_display.
    """
    highest = int(np.argmax(judged.scores))
    count = min(COLUMNS, len(opened.levels))
    spread = [round(i * (len(opened.levels) - 1) / max(1, count - 1)) for i in range(count)]
    if highest not in spread:
        nearest = min(range(count), key=lambda i: abs(spread[i] - highest))
        spread[nearest] = highest
    top = max(float(np.quantile(judged.maps, 0.998)), 2 * threshold if threshold else 0.0) or 1.0
    wrap = " " if count > 3 else "\n"
    figure = Figure(figsize=(1.5 * max(count, 2) + 0.3, 1.5 * len(ROWS) + 0.6), layout="constrained", facecolor="black")
    grid = figure.subplots(len(ROWS), count, squeeze=False)
    for column, number in zip(grid.T, spread, strict=True):
        pictures = (opened.images[number, channel], judged.reconstructions[number, channel], judged.maps[number])
        shown = [for_display(picture, opened.plane_affine) for picture in pictures]
        for axis, picture, row in zip(column, shown, ROWS, strict=True):
            is_map = row == ROWS[-1]
            axis.imshow(picture, cmap="inferno" if is_map else "gray", vmin=0, vmax=top if is_map else 1)
            axis.set_xticks([])
            axis.set_yticks([])
            for edge in axis.spines.values():
                edge.set_color("red" if number == highest else "black")
        if threshold is not None and (shown[2] >= threshold).any():
            column[0].contour(shown[2] >= threshold, levels=[0.5], colors="red", linewidths=0.7)
        if opened.voxel_ml is not None:
            column[0].text(0.02, 0.5, "R", color="yellow", fontsize=6, va="center", transform=column[0].transAxes)
            column[0].text(
                0.5, 0.98, "A", color="yellow", fontsize=6, ha="center", va="top", transform=column[0].transAxes
            )
        column[0].set_title(
            f"slice {opened.levels[number]}\nscore {judged.scores[number]:.3g}", color="white", fontsize=7
        )
    for axis, row in zip(grid[:, 0], ROWS, strict=True):
        axis.set_ylabel(row, color="white", fontsize=7)
    marked = "" if threshold is None else f"; outlined:{wrap}at least {threshold:.3g}"
    name = as_written(opened.name)
    figure.suptitle(f"{name}:{wrap}the map's colours end at {top:.3g}{marked}", color="white", fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)
