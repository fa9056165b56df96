"""The viewer's content of scans that were judged: a case is a volume, or a single slice, with its map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uad.evaluation.metrics import float16_bins, float16_scale
from uad.report.packing import bins_at, json_in_page, packed, picture


@dataclass(frozen=True)
class Seen:
    """A scan as a viewer shows it, on the grid of its file turned so that x runs to the patient's left, y to the back
    and z to the head; of a single slice (1, rows, columns) as it is to be shown.

    maps: (Z, Y, X), not negative, 0 where nothing was judged; images, reconstructions: (C, Z, Y, X) in [0, 1];
    spacing: millimetres along z, y and x; threshold: of the marks, None without; voxel_ml: None of a slice; axes: of
    z, y and x, which axis of the file it is and whether it runs the other way there, None of a slice.
    """

    maps: np.ndarray
    images: np.ndarray
    reconstructions: np.ndarray
    spacing: tuple[float, float, float]
    threshold: float | None
    voxel_ml: float | None
    axes: tuple[tuple[int, bool], ...] | None


def pack_scan(seen: Seen) -> str:
    """The content of a scan as JSON, cut to the box around what is not 0."""
    box = _box(seen.images.any(axis=0) | (seen.maps != 0))
    maps = seen.maps[box]
    if seen.threshold:
        bins, scale = bins_at(maps, seen.threshold)
        mark = int(float16_bins(np.array(seen.threshold * scale), 1.0))
    else:
        scale, mark = float16_scale(float(maps.max())), None
        bins = float16_bins(maps, scale)
    judged = maps[maps > 0]
    top = float(np.quantile(judged, 0.998)) if judged.size else 1.0
    places = [int(np.median(bins[maps > 0] if judged.size else bins)), int(bins.max()) + 1]
    if mark is not None:
        places = [min(places[0], mark), max(places[1], mark + 1)]
    content = {
        "map": packed(bins),
        "input": [packed(picture(channel[box])) for channel in seen.images],
        "reconstruction": [packed(picture(channel[box])) for channel in seen.reconstructions],
        "scale": scale,
        "mark": mark,
        "bins": places,
        "colours": [0.0, max(top, 2 * (seen.threshold or 0.0))],
        "spacing": list(seen.spacing),
        "voxel_ml": seen.voxel_ml,
        "is_volume": seen.axes is not None,
        "file_axes": seen.axes and _file_axes(seen.axes, box, seen.maps.shape),
    }
    return json_in_page(content)


def _file_axes(axes: Sequence[tuple[int, bool]], box: Sequence[slice], shape: Sequence[int]) -> list[dict[str, int]]:
    """Of z, y and x: the axis of the file, the index there at which the box begins, and the step to the next one."""
    return [
        {"axis": axis, "first": length - 1 - part.start if turned else part.start, "step": -1 if turned else 1}
        for (axis, turned), part, length in zip(axes, box, shape, strict=True)
    ]


def _box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around what is True; everything where nothing is."""
    found = []
    for axis in range(inside.ndim):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        found.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, inside.shape[axis]))
    return tuple(found)
