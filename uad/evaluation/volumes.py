"""The protocol of a benchmark of brain volumes (Frotscher et al., 2025): mean Dice per subject at a threshold chosen on
the test labels and at one of 1 % false positives, AUPRC of all voxels, raw and after a 3-D median filter.

A subject is a patient. Slices follow each other by their number, those of --results and of --healthy together; gaps are
closed. Where a patient has several scans, each is filtered by itself and their voxels count together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from uad.data.reading.patients import scan_of
from uad.errors import input_error
from uad.evaluation.bmad import even_thresholds
from uad.evaluation.bootstrap import Estimate
from uad.evaluation.exact import Distinct, OrderStatistics, above, distinct, passed, together, upper_bits
from uad.evaluation.published import Published, load, maps_in_words, number, separations
from uad.evaluation.study import MASKS, Study
from uad.neighbours import slice_number

MEDIAN = 4
RATE = 0.01
COLUMNS = {
    "best_dice": "best mean Dice (upper bound)",
    "best_threshold": "its threshold",
    "auprc": "AUPRC",
    "published_dice": f"mean Dice at {RATE:.0%} FPR, published rule",
    "published_threshold": "its threshold",
    "dice": f"mean Dice at {RATE:.0%} FPR",
    "threshold": "its threshold",
}
DEFINITION = {
    "masks": MASKS,
    "image score": "none; the subject is the patient, its slices stacked by their number, gaps closed",
    "median": f"of {MEDIAN} x {MEDIAN} x {MEDIAN} voxels, each scan by itself, mirrored at its border",
    "brain": "where any channel of the input is above 0",
    "subjects without lesion": "have no Dice and are left out of its mean; their voxels count in AUPRC and FPR",
}


class Part(NamedTuple):
    """An image of a subject, of the healthy folder or of the scored one."""

    healthy: bool
    name: str


@dataclass(frozen=True)
class _First:
    """The first pass over one subject and row; uppers: of healthy brain voxels, see exact.upper_bits."""

    lowest: np.float32
    highest: np.float32
    lesion: Distinct
    uppers: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Second:
    """The second pass: where other voxels fall among lesion scores; Dice at each threshold (T,), NaN without lesion;
    lesion voxels; the scores from the edge on of all voxels, of lesion and of healthy brain voxels.
    """

    places: tuple[np.ndarray, np.ndarray]
    dice: np.ndarray
    lesion_voxels: int
    tails: tuple[Distinct, Distinct, Distinct]

    def dice_above(self, threshold: np.float32) -> float:
        """Dice of what is greater than a threshold, which is not below the edge; NaN without lesion."""
        every, lesion, _ = self.tails
        if not self.lesion_voxels:
            return np.nan
        return float(2 * above(lesion, threshold) / (above(every, threshold) + self.lesion_voxels))


def subjects_of(study: Study, healthy: Study | None) -> dict[str, list[list[Part]]]:
    """Patient -> scans -> images by slice number; InputError for two images of one slice."""
    scans: dict[str, dict[str, dict]] = defaultdict(lambda: defaultdict(dict))
    for each, is_healthy in ((study, False), (healthy, True)):
        for name in each.names if each else ():
            record = each.folder.record(name)
            scan, place = record.get("scan", scan_of(name)), record.get("slice", slice_number(name) or 0)
            slices = scans[record["patient"]][scan]
            if place in slices:
                found = f"two images of slice {place} of {scan}: {slices[place].name}, {name}"
                raise input_error(each.folder.folder, found, "one image of each slice", "remove one of the two")
            slices[place] = Part(is_healthy, name)
    return {
        patient: [[slices[place] for place in sorted(slices)] for slices in of_patient.values()]
        for patient, of_patient in sorted(scans.items())
    }


def evaluate(
    study: Study,
    healthy: Study | None,
    mapper: Callable = map,
    given: np.ndarray | None = None,
) -> Published:
    """Score every row of the study, raw and filtered, in two passes over the subjects.

    given: thresholds among which the best Dice chooses, (T,); None: 200 even ones over the range of a row's scores.
    """
    subjects = subjects_of(study, healthy)
    first = mapper(partial(_first, study, healthy), subjects.values())
    passes = dict(zip(subjects, first, strict=True))
    kept = {patient: subjects[patient] for patient, found in passes.items() if found is not None}
    found = [passes[patient] for patient in kept]
    counts = {"subjects": len(kept), "left_out_without_mask": len(subjects) - len(kept)}
    how = "the given ones" if given is not None else "200 even ones over the range of the scores"
    definition = {
        "maps": maps_in_words(study),
        **DEFINITION,
        "thresholds": f"best: chosen among {how} by the test labels; {RATE:.0%} FPR: from healthy brain voxels of the "
        "test subjects themselves, whose lesions are left out by their labels",
        "published rule": f"the last threshold with a rate under {RATE:.0%} among the corners of the ROC curve of "
        "healthy brain voxels, which begins at the highest score plus 1: where scores hardly repeat, corners are rare "
        "and nothing may be called",
    }
    method = tuple(_rows(study.rows[0].name))
    if not found:
        missing = dict.fromkeys(COLUMNS, Estimate(None, reason="no masks"))
        rows = {row: missing for each in study.rows for row in _rows(each.name)}
        return Published("volumes", COLUMNS, rows, method, definition, counts)
    against = separations([{row: each.lesion for row, each in subject.items()} for subject in found])
    orders = {row: OrderStatistics() for row in against}
    for subject in found:
        for row, each in subject.items():
            orders[row].count(*each.uppers)
    thresholds = {row: _thresholds(given, [each[row] for each in found]) for row in against}
    second = partial(
        _second,
        study,
        healthy,
        lesions={row: each.lesion.values for row, each in against.items()},
        thresholds=thresholds,
        edges={row: order.edge_of_highest(RATE) if order.size else np.float32(np.inf) for row, order in orders.items()},
    )
    measured = list(mapper(second, kept.values()))
    rows = {}
    for row, separation in against.items():
        of_row = [each[row] for each in measured]
        for each in of_row:
            separation.add(*each.places)
        auprc = number(separation.average_precision(), "no lesion voxel in any mask")
        rows[row] = {"auprc": auprc, **_dice(of_row, thresholds[row], orders[row].size)}
    counts["subjects_with_lesion"] = sum(each[method[0]].lesion_voxels > 0 for each in measured)
    return Published("volumes", COLUMNS, rows, method, definition, counts)


def _rows(name: str) -> Iterator[str]:
    yield f"{name}, raw"
    yield f"{name}, median"


def _thresholds(given: np.ndarray | None, found: Sequence[_First]) -> np.ndarray:
    if given is not None:
        return given
    return even_thresholds(min(each.lowest for each in found), max(each.highest for each in found))


def _dice(measured: Sequence[_Second], thresholds: np.ndarray, size: int) -> dict[str, Estimate]:
    """Every Dice of a row with its threshold; size: healthy brain voxels."""
    diseased = [each for each in measured if each.lesion_voxels]
    reason = None if diseased else "no lesion voxel in any mask"
    if diseased and len(thresholds):
        means = np.mean([each.dice for each in diseased], axis=0)
        best = (means.max(), thresholds[means.argmax()])
    else:
        best = (np.nan, np.nan)
    names = {"best_dice": best[0], "best_threshold": best[1]}
    found = {name: number(value, reason or "all scores are equal") for name, value in names.items()}
    tail = together(each.tails[2] for each in measured)
    for prefix, rule in (("published_", published_threshold), ("", exact_threshold)):
        threshold = rule(tail, size) if size else np.nan
        dice = np.mean([each.dice_above(threshold) for each in diseased]) if diseased and size else np.nan
        why = "which voxels are brain is not known without inputs" if not size else reason
        found[f"{prefix}dice"] = number(dice, why)
        found[f"{prefix}threshold"] = number(threshold, why)
    return found


def published_threshold(tail: Distinct, size: int, rate: float = RATE) -> np.float32:
    """The last threshold with a rate under `rate` among the corners of the ROC curve of `size` healthy voxels.

    tail: the highest of their scores, at least one beyond the rate. A score is a corner unless as many voxels have it
    as have the next lower one. The curve begins with no voxel at the highest score plus 1, a corner always.
    """
    counts = tail.counts[::-1]
    corner = np.append(counts[1:] != counts[:-1], False)
    under = np.flatnonzero(corner & (np.cumsum(counts) / size < rate))
    values = tail.values[::-1]
    return values[under[-1]] if len(under) else np.float32(values[0] + np.float32(1))


def exact_threshold(tail: Distinct, size: int, rate: float = RATE) -> np.float32:
    """The lowest score of a healthy voxel that at most `rate` of the `size` healthy voxels exceed; tail: as above."""
    greater = tail.counts.sum() - np.cumsum(tail.counts)
    return tail.values[np.flatnonzero(greater / size <= rate)[0]]


class _Voxels(NamedTuple):
    """scores: row -> (V,) float32, raw and filtered; lesion: (V,) bool; brain: (V,) bool, None without inputs."""

    scores: dict[str, np.ndarray]
    lesion: np.ndarray
    brain: np.ndarray | None

    def healthy_brain(self) -> np.ndarray:
        """(V,) bool; none where it is not known which voxels are brain."""
        return np.zeros_like(self.lesion) if self.brain is None else self.brain & ~self.lesion


def _load(study: Study, healthy: Study | None, scans: Sequence[Sequence[Part]]) -> _Voxels | None:
    """All voxels of a subject, None where a mask lacks; InputError for slices of different sizes in one scan."""
    scores, lesions, brains = defaultdict(list), [], []
    for parts in scans:
        maps = defaultdict(list)
        for part in parts:
            each = healthy if part.healthy else study
            result, lesion = load(each, part.name, part.healthy)
            if lesion is None:
                return None
            lesions.append(lesion.ravel())
            brains.append(None if result.image is None else (result.image > 0).any(0).ravel())
            for row, found in each.maps(result).items():
                maps[row].append(np.asarray(found, np.float32))
        for row, slices in maps.items():
            if len({each.shape for each in slices}) > 1:
                found = f"slices of several sizes in {scan_of(parts[0].name)}"
                raise input_error(study.folder.folder, found, "one size in a scan", "score other protocols only")
            volume = np.stack(slices)
            raw, filtered = _rows(row)
            scores[raw].append(volume.ravel())
            scores[filtered].append(median_filter(volume, size=MEDIAN).ravel())
    brain = None if any(each is None for each in brains) else np.concatenate(brains)
    return _Voxels({row: np.concatenate(each) for row, each in scores.items()}, np.concatenate(lesions), brain)


def _first(study: Study, healthy: Study | None, scans: Sequence[Sequence[Part]]) -> dict[str, _First] | None:
    voxels = _load(study, healthy, scans)
    if voxels is None:
        return None
    free = voxels.healthy_brain()
    return {
        row: _First(scores.min(), scores.max(), distinct(scores[voxels.lesion]), upper_bits(scores[free]))
        for row, scores in voxels.scores.items()
    }


def _second(
    study: Study,
    healthy: Study | None,
    scans: Sequence[Sequence[Part]],
    lesions: Mapping[str, np.ndarray],
    thresholds: Mapping[str, np.ndarray],
    edges: Mapping[str, np.float32],
) -> dict[str, _Second]:
    voxels = _load(study, healthy, scans)
    found = {}
    for row, scores in voxels.scores.items():
        every, lesion = distinct(scores), distinct(scores[voxels.lesion])
        size = int(voxels.lesion.sum())
        called = above(every, thresholds[row]) + size
        dice = 2 * above(lesion, thresholds[row]) / called if size else np.full(len(thresholds[row]), np.nan)
        high = scores >= edges[row]
        tails = tuple(distinct(scores[high & kind]) for kind in (high, voxels.lesion, voxels.healthy_brain()))
        found[row] = _Second(passed(lesions[row], scores[~voxels.lesion]), dice, size, tails)
    return found
