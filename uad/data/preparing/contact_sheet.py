"""One picture of prepared slices, by which a person sees at a glance whether they are right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from uad.data.reading.formats import read_mask, read_slice
from uad.data.reading.listing import evenly_spread
from uad.files import written_whole
from uad.lettering import as_written

MOST_PATIENTS = 12
BRIGHTEST = 99.5


def write_contact_sheet(
    path: Path, slices: Sequence[tuple[Path, str, int]], channels: Sequence[str], labels: Path
) -> None:
    """A row a patient, of at most MOST_PATIENTS evenly spread: every channel of the slice that shows most of the brain,
    among those with a mask in `labels` where there are any, whose outline is drawn.

    slices: (file, patient, brain pixels) of each, in the orientation of uad.data.reading.geometry. Shown as a
    radiologist expects: the patient's right on the left side, the face up.
    """
    by_patient: dict[str, list[tuple[bool, int, Path]]] = {}
    for file, patient, brain in slices:
        by_patient.setdefault(patient, []).append(((labels / file.name).is_file(), brain, file))
    chosen = evenly_spread(sorted(by_patient), MOST_PATIENTS)
    count = len(chosen)
    figure = Figure(figsize=(1.8 * len(channels) + 0.2, 1.9 * count + 0.3), layout="constrained", facecolor="white")
    grid = figure.subplots(count, len(channels), squeeze=False)
    for row, patient in zip(grid, chosen, strict=True):
        file = max(by_patient[patient])[2]
        image = read_slice(file, len(channels)).image
        mask = labels / file.name
        outline = read_mask(mask).T if mask.is_file() else None
        for axis, channel, name in zip(row, image, channels, strict=True):
            axis.imshow(channel.T, cmap="gray", vmin=min(0, channel.min()), vmax=_white(channel))
            if outline is not None and outline.any():
                axis.contour(outline, levels=[0.5], colors="red", linewidths=0.8)
            axis.set_axis_off()
            axis.text(0.02, 0.5, "R", color="yellow", fontsize=7, va="center", transform=axis.transAxes)
            axis.text(0.5, 0.98, "A", color="yellow", fontsize=7, ha="center", va="top", transform=axis.transAxes)
            title = f"{name}, {file.parent.name}" if axis is row[0] else name
            axis.set_title(as_written(title), fontsize=6, pad=2)
        stem = as_written(file.name.removesuffix(".nii.gz"))
        row[0].text(0.01, 0.01, stem, color="cyan", fontsize=5, transform=row[0].transAxes)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _white(channel: np.ndarray) -> float:
    bright = channel[channel > 0]
    return float(np.percentile(bright, BRIGHTEST)) if bright.size else 1.0
