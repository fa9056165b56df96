"""Pictures of single cases: input, reconstruction, anomaly map, prediction and truth, on one colour scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from uad.evaluation.clinical import Clinical
from uad.evaluation.contenders import AUTOENCODER
from uad.evaluation.display import for_display
from uad.evaluation.study import Study


@dataclass(frozen=True)
class Case:
    """One row of the panel: its caption and the image's name."""

    caption: str
    name: str


def choose_cases(clinical: Clinical, row: str) -> list[Case]:
    """Best, median and worst image by the row's AP; without masks, highest, median and lowest image score."""
    by_ap = [(image.rows[row].numbers.get("ap", math.nan), image.name) for image in clinical.images]
    ranked = sorted(pair for pair in by_ap if math.isfinite(pair[0]))
    words, what = ("worst", "median", "best"), "AP"
    if not ranked:
        ranked = sorted((image.rows[row].image_score, image.name) for image in clinical.images)
        words, what = ("lowest", "median", "highest"), "image score"
    places = sorted({0, len(ranked) // 2, len(ranked) - 1})
    chosen = zip(words[-len(places) :], places, strict=True)
    return [Case(f"{word}: {what} {ranked[i][0]:.3f}\n{ranked[i][1]}", ranked[i][1]) for word, i in chosen][::-1]


def panels_figure(study: Study, cases: Sequence[Case], threshold: tuple[float, str] | None) -> Figure:
    """One row a case. threshold: (lowest score that is called positive, how it was chosen), or None."""
    run, method = study.folder.run, study.rows[0]
    channel = run.get("display_channel", run["n_channels"] - 1)
    results = [study.load(case.name) for case in cases]
    maps = [method.map(result) for result in results]
    top = max(float(np.quantile(scores, 0.998)) for scores in maps) or 1.0
    titles = _titles(study, channel, threshold)
    figure = Figure(figsize=(1.9 * len(titles) + 0.9, 1.95 * len(cases) + 0.25), layout="constrained")
    grid = figure.subplots(len(cases), len(titles), squeeze=False)
    for axes, case, result, scores in zip(grid, cases, results, maps, strict=True):
        pictures = {
            "input": result.image[channel],
            "reconstruction": result.reconstruction[channel],
            "map": scores,
            "prediction": None if threshold is None else scores >= threshold[0],
            "truth": result.label,
        }
        if AUTOENCODER in result.extras:
            pictures["autoencoder"] = result.extras[AUTOENCODER].reshape(result.image.shape)[channel]
        turned = {kind: None if p is None else for_display(p, result.affine) for kind, p in pictures.items()}
        for axis, kind in zip(axes, titles, strict=True):
            _draw(axis, kind, turned, top)
        axes[0].set_ylabel(case.caption, fontsize=7)
    for axis, title in zip(grid[0], titles.values(), strict=True):
        axis.set_title(title, fontsize=8)
    shown = grid[0][list(titles).index("map")].images[0]
    bar = figure.colorbar(shown, ax=grid[:, -1], shrink=0.8, pad=0.02)
    bar.set_label("anomaly score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _titles(study: Study, channel: int, threshold: tuple[float, str] | None) -> dict[str, str]:
    names = study.folder.run.get("channel_names") or []
    what = f" ({names[channel] if names else f'channel {channel}'})" if study.folder.run["n_channels"] > 1 else ""
    titles = {"input": f"input{what}"}
    if any(AUTOENCODER in row.extras for row in study.rows):
        titles["autoencoder"] = "autoencoder alone"
    chosen = "no threshold" if threshold is None else threshold[1]
    return titles | {
        "reconstruction": "reconstruction",
        "map": "anomaly map",
        "prediction": f"prediction\n({chosen})",
        "truth": "truth",
    }


def _draw(axis, kind: str, pictures: Mapping[str, np.ndarray | None], top: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    picture = pictures[kind]
    if picture is None:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, fontsize=8, color="0.5")
    elif kind == "map":
        axis.imshow(picture, cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
    elif kind in ("prediction", "truth"):
        axis.imshow(pictures["input"], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        colour = ListedColormap(["#E69F00" if kind == "prediction" else "#00B4A0"])
        inside = np.ma.masked_where(np.asarray(picture) == 0, np.ones(picture.shape))
        axis.imshow(inside, cmap=colour, alpha=0.65, interpolation="nearest")
    else:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
