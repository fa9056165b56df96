"""What the page shows of one input: OUT/report_cases/NAME.js, its pictures and its map."""

from pathlib import Path

import numpy as np

from uad.application.answer import Answer
from uad.application.opening import Opened
from uad.data.reading.geometry import Grid, canonical_axes, to_canonical
from uad.evaluation.display import for_display
from uad.files import write_text
from uad.report.viewer import CASES, case_script
from uad.report.volumes import Seen, pack_scan


def case_name(name: str) -> str:
    """The file's name; name: of the input."""
    return f"{name}.js"


def write_case(out: Path, opened: Opened, answer: Answer) -> None:
    """Write what the page shows of one input, with the answer as it is saved."""
    path = case_path(out, opened.name)
    write_text(path, case_script(path.name, pack_scan(_seen(opened, answer))))


def case_path(out: Path, name: str) -> Path:
    """Where lies what the page shows of an input."""
    return out / CASES / case_name(name)


def _seen(opened: Opened, answer: Answer) -> Seen:
    """A scan as it is shown."""
    images = opened.volume(opened.images)  # (X, Y, Z, C)
    if opened.voxel_ml is None:
        # Of a slice there is one plane, turned by its own affine.
        flat = answer.anomaly_map[None], np.moveaxis(images[:, :, 0], -1, 0), answer.reconstruction
        maps, shown, made = (for_display(each, opened.plane_affine)[:, None] for each in flat)
        return Seen(maps[0], shown, made, (1.0, 1.0, 1.0), answer.threshold, None, None)
    turned, affine = to_canonical(answer.anomaly_map, opened.affine)
    made = to_canonical(answer.reconstruction, opened.affine)[0]
    spacing = Grid(turned.shape, affine).spacing[::-1]
    axes = canonical_axes(opened.affine)[::-1]
    return Seen(turned.T, images.T, made.T, spacing, answer.threshold, opened.voxel_ml, axes)
