"""Pictures of single cases: input, reconstruction, anomaly map, prediction and truth, on one colour scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from uad.evaluation.clinical import Clinical
from uad.evaluation.contenders import AUTOENCODER, AUTOENCODER_ALONE
from uad.evaluation.display import for_display
from uad.evaluation.study import Study
from uad.lettering import as_written
from uad.results import Result


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
    method = study.rows[0]
    results = [study.load(case.name) for case in cases]
    maps = [study.maps(result)[method.name] for result in results]
    limits = _limits(maps)
    titles = _titles(study, threshold)
    figure = Figure(figsize=(1.9 * len(titles) + 0.9, 1.95 * len(cases) + 0.25), layout="constrained")
    grid = figure.subplots(len(cases), len(titles), squeeze=False)
    for axes, case, result, scores in zip(grid, cases, results, maps, strict=True):
        pictures = {
            "map": scores,
            "prediction": None if threshold is None else scores >= threshold[0],
            "truth": result.label,
            **_channel_shown(study, result),
        }
        turned = {kind: None if p is None else for_display(p, result.affine) for kind, p in pictures.items()}
        for axis, kind in zip(axes, titles, strict=True):
            _draw(axis, kind, turned, limits)
        axes[0].set_ylabel(as_written(case.caption), fontsize=7)
    for axis, title in zip(grid[0], titles.values(), strict=True):
        axis.set_title(as_written(title), fontsize=8)
    shown = grid[0][list(titles).index("map")].images[0]
    bar = figure.colorbar(shown, ax=grid[:, -1], shrink=0.8, pad=0.02)
    bar.set_label("anomaly score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The scores at the ends of the colour scale: of signed maps from the lowest on, else from 0."""
    bottom = min(0.0, *(float(np.quantile(scores, 0.002)) for scores in maps))
    top = max(float(np.quantile(scores, 0.998)) for scores in maps)
    return bottom, top if top > bottom else bottom + 1.0


def _channel(study: Study) -> int | None:
    """The channel that is shown, None where no images are stored."""
    return study.display_channel if study.folder.has_inputs else None


def _channel_shown(study: Study, result: Result) -> dict[str, np.ndarray]:
    """One channel, (H, W), of the input and of what was made of it; nothing where no images are stored."""
    channel = _channel(study)
    if channel is None:
        return {}
    shown = {"input": result.image[channel], "reconstruction": result.reconstruction[channel]}
    if AUTOENCODER in result.extras:
        shown["autoencoder"] = result.extras[AUTOENCODER].reshape(result.image.shape)[channel]
    return shown


def _titles(study: Study, threshold: tuple[float, str] | None) -> dict[str, str]:
    run, channel = study.folder.run, _channel(study)
    titles = {}
    if channel is not None:
        names = run.get("channel_names") or []
        what = f" ({names[channel] if names else f'channel {channel}'})" if run["n_channels"] > 1 else ""
        titles["input"] = f"input{what}"
        if any(AUTOENCODER in row.extras for row in study.rows):
            titles["autoencoder"] = AUTOENCODER_ALONE
        titles["reconstruction"] = "reconstruction"
    chosen = "no threshold" if threshold is None else threshold[1]
    return titles | {
        "map": "anomaly map",
        "prediction": f"prediction\n({chosen})",
        "truth": "truth",
    }


def _draw(axis, kind: str, pictures: Mapping[str, np.ndarray | None], limits: tuple[float, float]) -> None:
    """Draw one picture; prediction and truth lie over the input or, where none is stored, over the map."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    picture = pictures[kind]
    if picture is None:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, fontsize=8, color="0.5")
    elif kind == "map":
        axis.imshow(picture, cmap="inferno", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    elif kind in ("prediction", "truth"):
        behind, (low, high) = ("input", (0, 1)) if "input" in pictures else ("map", limits)
        axis.imshow(pictures[behind], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        colour = ListedColormap(["#E69F00" if kind == "prediction" else "#00B4A0"])
        inside = np.ma.masked_where(np.asarray(picture) == 0, np.ones(picture.shape))
        axis.imshow(inside, cmap=colour, alpha=0.65, interpolation="nearest")
    else:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
