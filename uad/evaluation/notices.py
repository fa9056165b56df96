"""What to know of the folders of an evaluation before its numbers are read."""

import numpy as np

from uad.data.reading.listing import evenly_spread
from uad.data.reading.patients import scan_of
from uad.evaluation import exact, metrics
from uad.evaluation.study import Study

# So many images, evenly spread, say whether rounding costs more average precision than this in the mean.
LOOKED_AT = 32
COST = 2e-3


def notices(study: Study, healthy: Study | None, calibration: Study | None) -> list[str]:
    """Of images that are scored, of healthy ones, and of those of a calibration."""
    said, here = [], study.folder.run.get("amp")
    for other in filter(None, (healthy, calibration)):
        if (there := other.folder.run.get("amp")) != here:
            made = f"Maps of {other.folder.folder} were made with --amp {there}, the others with {here}"
            said.append(f"{made}: rounding differs")
    if count := study.folder.run.get("volumes_paired_by_index"):
        paired = f"{count} volume(s) without a place in the patient (NPY): paired with their labels as they are stored"
        said.append(f"{paired}, slices along the third axis; arrays of SimpleITK, (Z, Y, X), have to be transposed")
    if (cost := cost_of_rounding(study)) > COST:
        said.append(
            f"Scores lie so close together that rounding them to float16 changes the AP of an image by {cost:.2g} in "
            "the mean: subtract a constant that was added, or take log-odds in place of probabilities near 1"
        )
    if study.near is not None:
        said.append(averaged_across(study, healthy))
    return said


def cost_of_rounding(study: Study) -> float:
    """By how much the average precision of single images changes where scores are rounded as metrics do it: the mean
    over some images with a lesion, 0 without one.
    """
    changes = []
    for name in evenly_spread(study.names, LOOKED_AT):
        result = study.load(name)
        if result.label is None or not 0 < np.count_nonzero(result.label) < result.label.size:
            continue
        found, lesion = study.rows[0].map(result), result.label > 0
        rounded = metrics.float16_bins(found, metrics.float16_scale(float(np.abs(found).max())))
        changes.append(_precision(found, lesion) - _precision(rounded, lesion))
    return float(np.mean(np.abs(changes))) if changes else 0.0


def _precision(scores: np.ndarray, lesion: np.ndarray) -> float:
    """The average precision of all pixels of an image."""
    found = exact.Separation(exact.distinct(scores[lesion]))
    found.add(*exact.passed(found.lesion.values, scores[~lesion]))
    return found.average_precision()


def averaged_across(study: Study, healthy: Study | None) -> str:
    """Across which slices maps are averaged, so that names of other scans that are alike are seen."""
    scans = {scan_of(name) for name in study.names}
    said = f"Maps are averaged across slices: {len(study.names)} images of {len(scans)} scans, by their names"
    shared = scans & {scan_of(name) for name in healthy.names} if healthy else ()
    return said + (f"; {len(shared)} of these scans have slices in {healthy.folder.folder}, too" if shared else "")
