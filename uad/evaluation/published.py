"""What the protocols of published benchmarks share: the test set that they score, and the form of what they give.

The test set is the scored images and the healthy ones together. An image is abnormal if its release says so or, where
that says nothing, its mask holds a lesion; where neither is known of any, all scored images are. Without masks there
are no pixel metrics. An image of which nothing is known, beside others, is left out and counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.contenders import SAVED
from uad.evaluation.exact import Distinct, Separation, together
from uad.evaluation.measure import load_healthy
from uad.evaluation.study import Study
from uad.results import DISEASED_KEY, Result


@dataclass(frozen=True)
class Published:
    """What a protocol gives.

    columns: metric -> label; rows: contender -> metric -> Estimate without interval; method: the rows of the method
    itself; definition: how masks were binarised, images scored, thresholds chosen and so on, in words; counts: of
    images.
    """

    protocol: str
    columns: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Estimate]]
    method: Sequence[str]
    definition: Mapping[str, str]
    counts: Mapping[str, int]

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        rows = {
            name: {metric: estimate.as_dict() for metric, estimate in row.items()} for name, row in self.rows.items()
        }
        return {"definition": self.definition, "counts": self.counts, "rows": rows}


def sweep(measure: Callable, study: Study, healthy: Study | None, mapper: Callable = map) -> Iterator:
    """measure(study, name, healthy=...) of the scored images, then of the healthy ones."""
    yield from study.each(partial(measure, healthy=False), mapper)
    if healthy is not None:
        yield from healthy.each(partial(measure, healthy=True), mapper)


def load(study: Study, name: str, healthy: bool) -> tuple[Result, np.ndarray | None]:
    """(image, its lesion (H, W) bool, None without a mask); InputError for a lesion in a healthy image."""
    if healthy:
        result = load_healthy(study, name)
        return result, np.zeros(result.anomaly_map.shape, bool)
    result = study.load(name)
    return result, None if result.label is None else result.label > 0


def maps_in_words(study: Study) -> str:
    """Where the method's maps come from."""
    score = study.rows[0].score
    made = "as saved" if score == SAVED else f"made anew (--score {score})"
    return f"{made}, {'each slice by itself' if study.near is None else 'averaged across slices (--neighbours)'}"


@dataclass(frozen=True)
class Truth:
    """What is known of the images, the scored ones and then the healthy ones. lesions: lesion pixels, None without a
    mask; stated: whether the release calls a scored image diseased, None where it says nothing.
    """

    lesions: Sequence[int | None]
    stated: Sequence[bool | None]

    @classmethod
    def of(cls, lesions: Sequence[int | None], study: Study) -> "Truth":
        """Of the images in the order of `sweep`."""
        return cls(lesions, [study.folder.record(name).get(DISEASED_KEY) for name in study.names])

    @property
    def any_mask(self) -> bool:
        """Whether any scored image has a mask."""
        return any(count is not None for count in self.lesions[: len(self.stated)])

    @property
    def abnormal(self) -> list[bool | None]:
        """Of each image, None where it is left out."""
        scored, healthy = self.lesions[: len(self.stated)], self.lesions[len(self.stated) :]
        by_mask = [None if count is None else count > 0 for count in scored]
        known = [mask if stated is None else bool(stated) for mask, stated in zip(by_mask, self.stated, strict=True)]
        if all(each is None for each in known):
            known = [True] * len(known)
        return [*known, *(False for _ in healthy)]

    def counts(self) -> dict[str, int]:
        """Images of each kind."""
        abnormal = self.abnormal
        return {
            "images": len(abnormal),
            "abnormal": abnormal.count(True),
            "normal": abnormal.count(False),
            "left_out_without_mask": abnormal.count(None),
        }

    def image_level(self, scores: Sequence[float]) -> tuple[Estimate, Estimate]:
        """AUROC and average precision of the images' scores, as scikit-learn computes them."""
        pairs = [(a, s) for a, s in zip(self.abnormal, scores, strict=True) if a is not None]
        labels, kept = np.array([a for a, _ in pairs]), np.array([s for _, s in pairs])
        if labels.all() or not labels.any():
            missing = Estimate(None, reason="no normal images" if labels.all() else "no abnormal images")
            return missing, missing
        # Here: it takes two seconds to import, and other protocols do without.
        from sklearn.metrics import average_precision_score, roc_auc_score

        return Estimate(float(roc_auc_score(labels, kept))), Estimate(float(average_precision_score(labels, kept)))

    def pixel_reason(self) -> str | None:
        """Why pixel metrics are undefined, or None."""
        if not self.any_mask:
            return "no masks"
        return None if any(self.lesions) else "no lesion pixel in any mask"


def number(value: float, reason: str | None) -> Estimate:
    """An Estimate without interval; NaN is undefined for the reason."""
    if np.isfinite(value):
        return Estimate(float(value))
    return Estimate(None, reason=reason or "every pixel is lesion")


def separations(found: Sequence[Mapping[str, Distinct]]) -> dict[str, Separation]:
    """Per row the lesion scores of all images, ready to count others against; found: row -> scores, of each image."""
    return {row: Separation(together(each[row] for each in found)) for row in found[0]}
