"""What is normal: thresholds and scores of healthy images, kept for every setting of detection."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.application.judging import Judged
from uad.data.reading.folder import SliceFolder
from uad.data.reading.listing import evenly_spread
from uad.data.reading.patients import scan_of
from uad.errors import input_error
from uad.files import read_json, write_json
from uad.neighbours import UNKNOWN_DISTANCE, distance_of, slice_number

# Shares of healthy pixels that a mask may mark.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
# More images, evenly spread, move the thresholds little.
MOST_IMAGES = 512
FOLDER = "calibration"


@dataclass(frozen=True)
class Calibration:
    """healthy: the folder; images: how many were judged; thresholds: by rate as text, the lowest value at which no more
    than this share of the healthy pixels is marked; scores: of the patients, the highest of their slices, ascending.
    """

    healthy: str
    data_hash: str
    images: int
    thresholds: dict[str, float]
    scores: list[float]

    def __str__(self) -> str:
        return f"{self.images} slices of {len(self.scores)} patients in {self.healthy}"

    def threshold(self, rate: float) -> float:
        """The value from which a pixel is marked; rate: one of RATES."""
        return self.thresholds[f"{rate:g}"]

    def percentile(self, score: float) -> float:
        """The share of healthy patients, in per cent, whose score is lower."""
        return 100 * float(np.searchsorted(self.scores, score)) / len(self.scores)


def calibration_paths(folder: Path, settings: Mapping, neighbours: float) -> dict[float, Path]:
    """Where calibrations with these settings lie in the folder of a model or of results: of slices of scans, by the
    reach over neighbours, and of slices by themselves, by 0.
    """
    paths = {}
    for sigma in (float(neighbours), 0.0):  # 3 and 3.0 are one reach, but two texts
        text = json.dumps({**settings, "neighbours": sigma}, sort_keys=True)
        paths[sigma] = folder / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    return paths


def stored_calibration(path: Path) -> Calibration | None:
    """What an earlier command measured, None where none did; InputError for a damaged file."""
    if not path.is_file():
        return None
    try:
        return Calibration(**read_json(path))
    except TypeError as error:
        raise input_error(path, f"no calibration ({error})", "one of this version", "delete it") from error


class Calibrations(NamedTuple):
    """What is normal for the slices of scans, which are judged beside their neighbours, and for slices by themselves.

    Averages have fewer high values: a threshold of one kind would mark too much or too little of the other.
    """

    scans: Calibration | None
    slices: Calibration | None

    def of(self, is_scan: bool) -> Calibration | None:
        """That of a kind of input."""
        return self.scans if is_scan else self.slices


def stored_calibrations(paths: Mapping[float, Path]) -> Calibrations:
    """What earlier commands measured, see calibration_paths; none where one of the two lacks."""
    found = [stored_calibration(path) for path in paths.values()]
    return Calibrations(found[0], found[-1]) if all(found) else Calibrations(None, None)


def keep(source: Mapping[float, Path], target: Mapping[float, Path]) -> None:
    """Have the calibrations at the source at the target, too; InputError where they cannot be written."""
    for sigma, path in source.items():
        content = read_json(path)
        if not target[sigma].is_file() or read_json(target[sigma]) != content:
            write_json(target[sigma], content)


def calibrate(
    slices: SliceFolder,
    data_hash: str,
    judge: Callable[[np.ndarray, list[str], list[np.ndarray]], Judged],
    paths: Mapping[float, Path],
) -> None:
    """Measure on healthy slices and keep it.

    judge: images (N, C, S, S), their names and affines -> what they are judged as by themselves; paths: where it is
    kept, by the reach over neighbours in millimetres, see uad.neighbours.
    """
    chosen = whole_scans(slices.names, MOST_IMAGES)
    names, items = [slices.names[number] for number in chosen], [slices[number] for number in chosen]
    affines = [item["affine"].numpy() for item in items]
    judged = judge(np.stack([item["image"].numpy() for item in items]), names, affines)
    places = [
        (distance_of(slices.paths[number], affine) or UNKNOWN_DISTANCE) * (slice_number(name) or 0)
        for number, affine, name in zip(chosen, affines, names, strict=True)
    ]
    scans, patients = [scan_of(name) for name in names], [slices.patients[number] for number in chosen]
    for sigma, path in paths.items():
        beside = judged.across_slices(scans, places, sigma)
        by_patient: dict[str, float] = {}
        for patient, score in zip(patients, beside.scores, strict=True):
            by_patient[patient] = max(score, by_patient.get(patient, score))
        thresholds, scores = thresholds_at(beside.maps.ravel()), sorted(by_patient.values())
        write_json(path, asdict(Calibration(str(slices.folder), data_hash, len(chosen), thresholds, scores)))


def whole_scans(names: Sequence[str], most: int) -> list[int]:
    """Numbers of slices, all of them or those of as many scans, evenly spread, as have at most so many; where already
    one has more, slices of it, evenly spread.

    Slices are judged beside their neighbours, and scans have to be judged as those to come will be.
    """
    by_scan: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        by_scan[scan_of(name)].append(number)
    scans = list(by_scan.values())
    for count in range(len(scans), 0, -1):
        chosen = [number for scan in evenly_spread(scans, count) for number in scan]
        if len(chosen) <= most:
            return chosen
    return evenly_spread(scans[0], most)


def thresholds_at(values: np.ndarray) -> dict[str, float]:
    """By rate: the lowest float32 value such that no more than this share of `values` reaches it."""
    ordered = np.sort(values.astype(np.float32))[::-1]
    allowed = {rate: int(rate * len(ordered) + 1e-9) for rate in RATES}
    return {
        f"{rate:g}": float(np.nextafter(ordered[count], np.float32(np.inf), dtype=np.float32))
        for rate, count in allowed.items()
    }
