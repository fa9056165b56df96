"""Neighbouring slices of a scan: a lesion is seen in several, a slice's own mistakes in one.

Maps, and the evidence that scores an image as a whole, are averaged across the slices of a scan with the weights of a
Gaussian of their distance in millimetres (equation 23 of docs/METHOD.md). A slice without neighbours stays as it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from uad.data.reading.decoding import NIFTI_EXTENSIONS, extension_of
from uad.data.reading.patients import scan_and_number

# Standard deviation of the Gaussian in millimetres, and how many of them it reaches.
SIGMA, REACH = 3.0, 2.0
# Distances are rounded in headers: this share beyond the reach is within it.
ROUNDING = 1e-3
# Slices of which no file says how far apart they are, such as PNGs, are taken to be so far, in millimetres.
UNKNOWN_DISTANCE = 3.0
# Where an image's record says how far its scan's slices are apart, in millimetres, if its file does.
DISTANCE_KEY = "slice_distance"


def slice_number(name: str) -> int | None:
    """The number of a slice within its scan; None where the name tells none, see scan_and_number."""
    return scan_and_number(name)[1]


def distance_of(path: Path, affine: np.ndarray) -> float | None:
    """Millimetres between the slices of a scan, by the affine (4, 4) of one; None of pictures, which state none."""
    return float(np.linalg.norm(affine[:3, 2])) if extension_of(path) in NIFTI_EXTENSIONS else None


def neighbours_of(
    names: Iterable[str], distances: Mapping[str, float], sigma: float = SIGMA
) -> dict[str, tuple[tuple[str, float], ...]]:
    """For every slice the slices of its scan within reach, itself too, each with its weight; weights sum to 1.

    Slices of one number, such as p1_5 and p1_05, stand at one place: each counts for the other as for itself.

    distances: scan -> that between its slices in millimetres; sigma: of the Gaussian, in millimetres; 0 leaves
    every slice alone.
    """
    scans: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    alone = {}
    for name in names:
        scan, number = scan_and_number(name)
        if number is None or not sigma:
            alone[name] = ((name, 1.0),)
        else:
            scans[scan][number].append(name)
    found = {}
    for scan, numbered in scans.items():
        reach = int(_reach(sigma) / distances[scan])
        for number, same in numbered.items():
            near = [
                (n, name) for n in range(number - reach, number + reach + 1) if n in numbered for name in numbered[n]
            ]
            weights = _weights([(n - number) * distances[scan] for n, _ in near], sigma)
            found |= dict.fromkeys(same, tuple(zip((name for _, name in near), weights, strict=True)))
    return alone | found


def smoothed(values: np.ndarray, positions: Sequence[float], sigma: float = SIGMA) -> np.ndarray:
    """Arrays (N, ...) of the slices of one scan at these positions in millimetres, averaged across slices, float32.

    sigma: as in neighbours_of.
    """
    if not sigma:
        return values.astype(np.float32)
    places = np.asarray(positions, dtype=np.float64)
    out = np.empty(values.shape, np.float32)
    for row, place in enumerate(places):
        near = np.flatnonzero(np.abs(places - place) <= _reach(sigma))
        out[row] = np.tensordot(_weights(places[near] - place, sigma), values[near], 1)
    return out


def _reach(sigma: float) -> float:
    return REACH * sigma * (1 + ROUNDING)


def _weights(distances: Sequence[float], sigma: float) -> list[float]:
    raw = np.exp(-0.5 * (np.asarray(distances, dtype=np.float64) / sigma) ** 2)
    return (raw / raw.sum()).tolist()
