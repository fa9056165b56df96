"""The clinical protocol: raw maps on one scale for the whole data set, thresholds from healthy images,
patients as units.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy import sparse

from uad.evaluation import metrics
from uad.evaluation.bootstrap import Estimate, estimate, resample_weights
from uad.evaluation.contenders import Contender
from uad.evaluation.measure import ImageMeasure, RowMeasure, largest_scores, measure_healthy_image, measure_image
from uad.evaluation.pooling import Pool
from uad.evaluation.statistics import (
    AT_METRICS,
    HEADLINE_RATE,
    IMAGE_METRICS,
    NO_HEALTHY,
    PIXEL_METRICS,
    RATES,
    WITH_HEALTHY,
    image_reasons,
    image_statistics,
    lesion_sensitivity,
    pixel_reasons,
    pixel_statistics,
)
from uad.evaluation.study import Study

METRICS = (*PIXEL_METRICS, *WITH_HEALTHY.values(), *AT_METRICS, *IMAGE_METRICS, "patient_dice")
# Resamples that are held at once; each needs a few arrays of up to 63,487 numbers.
CHUNK = 20


@dataclass
class Row:
    """Everything about one contender, pooled.

    estimates: metric -> Estimate; samples: metric -> (n_resamples,); curves: as metrics.curves and
    "threshold", or None;
    thresholds: "fpr1%", ..., "best_dice" -> the lowest score that is called positive, in the map's own
    units (infinite if none is); patient_dice: patient -> Dice of all its slices together at the 1 %
    threshold; image_score: what scores an image as a whole, in words; scale: of its scores, see metrics.float16_scale.
    """

    image_score: str
    scale: float
    estimates: dict[str, Estimate] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, np.ndarray] | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    patient_dice: dict[str, float] = field(default_factory=dict)
    lesion_sensitivity: dict = field(default_factory=dict)
    closeness: dict[str, dict] = field(default_factory=dict)


@dataclass
class Clinical:
    """The protocol's result: measures of every image, one Row per contender, and what was counted.

    prevalence: share of lesion pixels among the pixels of images with masks, or None; prevalence_with_healthy: among
    those and the pixels of the healthy images, or None without either.
    """

    images: list[ImageMeasure]
    healthy: list[ImageMeasure]
    rows: dict[str, Row]
    counts: dict[str, int]
    prevalence: float | None
    prevalence_with_healthy: float | None


def evaluate(study: Study, healthy: Study | None, n_resamples: int, seed: int, mapper: Callable = map) -> Clinical:
    """Score every row of `study`; `healthy` gives the thresholds and the negatives of image-level detection.

    Two passes: the first finds the largest magnitude of each row's scores, which fixes the float16 scale, the second
    measures.
    """
    names = [row.name for row in study.rows]
    studies = [study] if healthy is None else [study, healthy]
    largest = [found for each in studies for found in each.each(largest_scores, mapper)]
    scales = {name: metrics.float16_scale(max(found[name] for found in largest)) for name in names}
    pools = {name: Pool() for name in names}
    healthy_images, thresholds = [], {name: {} for name in names}
    if healthy is not None:
        measure = partial(measure_healthy_image, scales=scales)
        healthy_images = [_pooled(image, pools) for image in healthy.each(measure, mapper)]
        patients = sorted({image.patient for image in healthy_images})
        for name, pool in pools.items():
            total = metrics.tally(pool.total("healthy", patients))
            thresholds[name] = {rate: metrics.N_BINS - int(metrics.depth_at_rate(total, rate)) for rate in RATES}
    measure = partial(measure_image, scales=scales, thresholds=thresholds)
    images = [_pooled(image, pools) for image in study.each(measure, mapper)]
    cohort = _Cohort(images, healthy_images, n_resamples, seed)
    rows = {row.name: cohort.row(row, pools[row.name], scales[row.name], thresholds[row.name]) for row in study.rows}
    return Clinical(images, healthy_images, rows, cohort.counts(), *cohort.prevalences())


def difference(first: Row, second: Row, metric: str) -> Estimate:
    """first - second with its paired interval: both were evaluated on the same resamples of the same
    patients.
    """
    a, b = first.estimates[metric], second.estimates[metric]
    if a.value is None or b.value is None:
        return Estimate(None, reason=a.reason or b.reason)
    samples = first.samples[metric] - second.samples[metric]
    return estimate(a.value - b.value, samples, None, a.interval_reason or b.interval_reason)


def _pooled(image: ImageMeasure, pools: Mapping[str, Pool]) -> ImageMeasure:
    """Move the image's histograms into the pools: kept per patient, they take bounded memory."""
    for name, row in image.rows.items():
        pools[name].add(image.patient, row.histograms)
        row.histograms = {}
    return image


class _Cohort:
    """What all rows share: the patients, how they are resampled, and which images are diseased."""

    def __init__(self, images: Sequence[ImageMeasure], healthy: Sequence[ImageMeasure], n_resamples: int, seed: int):
        self.images, self.healthy = images, healthy
        self.patients = sorted({image.patient for image in images})
        only_healthy = sorted({image.patient for image in healthy} - set(self.patients))
        self.units = [*self.patients, *only_healthy]
        self.place = {unit: number for number, unit in enumerate(self.units)}
        strata = [0] * len(self.patients) + [1] * len(only_healthy)
        self.weights = resample_weights(strata, n_resamples, seed)
        self.any_mask = any(image.lesion_pixels is not None for image in images)

    def counts(self) -> dict[str, int]:
        lesions = [image.lesion_pixels for image in self.images]
        return {
            "images": len(self.images),
            "images_with_lesion": sum(1 for count in lesions if count),
            "images_with_empty_mask": lesions.count(0),
            "images_without_mask": lesions.count(None),
            "patients": len(self.patients),
            "healthy_images": len(self.healthy),
            "patients_with_healthy_images_only": len(self.units) - len(self.patients),
        }

    def prevalences(self) -> tuple[float | None, float | None]:
        """Clinical.prevalence and Clinical.prevalence_with_healthy."""
        masked = [image for image in self.images if image.lesion_pixels is not None]
        if not masked:
            return None, None
        lesion = sum(image.lesion_pixels for image in masked)
        pixels, healthy = (sum(image.pixels for image in images) for images in (masked, self.healthy))
        return lesion / pixels, lesion / (pixels + healthy) if healthy else None

    def row(self, contender: Contender, pool: Pool, scale: float, thresholds: Mapping[float, int]) -> Row:
        """Pool, resample and summarise one contender."""
        histograms, bins = pool.matrices(self.units)
        scored = self._image_histograms(contender.name)
        pooled = {kind: np.asarray(matrix.sum(axis=0)).ravel() for kind, matrix in histograms.items()}
        pooled_images = {kind: np.asarray(matrix.sum(axis=0)).ravel() for kind, matrix in scored.items()}
        values = {**pixel_statistics(pooled), **image_statistics(pooled_images)}
        reasons = {**pixel_reasons(pooled, self.any_mask), **image_reasons(pooled_images)}
        row = Row(str(contender.image_score), scale, samples=self._resample(histograms, scored))
        per_patient = self._patient_dice(histograms, pooled)
        values["patient_dice"], row.samples["patient_dice"] = self._mean_over_patients(per_patient)
        row.patient_dice = {
            patient: float(dice) for patient, dice in zip(self.units, per_patient, strict=True) if np.isfinite(dice)
        }
        refused = "one patient only" if len(self.patients) < 2 else None
        row.estimates = {
            metric: estimate(float(values[metric]), row.samples[metric], reasons[metric], refused) for metric in METRICS
        }
        row.thresholds, row.curves = _thresholds_and_curves(pooled, metrics.bin_values(bins, scale))
        measures = [image.rows[contender.name] for image in self.images]
        row.lesion_sensitivity = _lesions(measures, thresholds)
        row.closeness = _closeness(measures)
        return row

    def _image_histograms(self, name: str) -> dict:
        """Image scores as histograms over their distinct values, per patient. Diseased: by the release or the mask,
        or, where nothing says it of any image, all of them; healthy: likewise, or of the healthy folder.
        """
        unknown = all(image.diseased is None for image in self.images)
        diseased = [image for image in self.images if image.diseased or unknown]
        healthy = [image for image in self.images if image.diseased is False] + list(self.healthy)
        scores = [image.rows[name].image_score for image in (*diseased, *healthy)]
        distinct, positions = np.unique(scores, return_inverse=True)
        rows = np.array([self.place[image.patient] for image in (*diseased, *healthy)], dtype=np.int64)
        shape = (len(self.units), max(1, len(distinct)))
        groups = {"diseased": slice(len(diseased)), "healthy": slice(len(diseased), None)}
        # A coordinate that occurs several times counts as often.
        return {
            kind: sparse.coo_array((np.ones(len(rows[group])), (rows[group], positions[group])), shape).tocsr()
            for kind, group in groups.items()
        }

    def _resample(self, histograms: dict, scored: dict) -> dict[str, np.ndarray]:
        samples = {name: np.zeros(len(self.weights)) for name in METRICS}
        for chunk, weights in self._chunks():
            pixels = {kind: weights @ matrix for kind, matrix in histograms.items()}
            images = {kind: weights @ matrix for kind, matrix in scored.items()}
            for name, values in {**pixel_statistics(pixels), **image_statistics(images)}.items():
                samples[name][chunk] = values
        return samples

    def _chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some of the resamples and their weights (n, P) at a time: those of all would take 8 KB a patient."""
        for start in range(0, len(self.weights), CHUNK):
            chunk = slice(start, start + CHUNK)
            yield chunk, self.weights[chunk].astype(np.float64)

    def _patient_dice(self, histograms: dict, pooled: dict) -> np.ndarray:
        """(P,) Dice of each patient's pixels at the 1 % threshold; NaN without lesion or without healthy
        images.
        """
        dice = np.full(len(self.units), np.nan)
        if pooled["healthy"].any():
            depth = int(metrics.depth_at_rate(metrics.tally(pooled["healthy"]), HEADLINE_RATE))
            positives, negatives = histograms["positives"], histograms["negatives"]
            lowest = positives.shape[1] - depth
            true, false, total = (m.sum(axis=1) for m in (positives[:, lowest:], negatives[:, lowest:], positives))
            np.divide(2 * true, true + false + total, out=dice, where=total > 0)
        return dice

    def _mean_over_patients(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean of the defined values and the same mean of each resample."""
        defined = np.isfinite(values)
        samples = np.full(len(self.weights), np.nan)
        if not defined.any():
            return np.nan, samples
        for chunk, weights in self._chunks():
            drawn = weights[:, defined]
            number = drawn.sum(1)
            np.divide(drawn @ values[defined], number, out=samples[chunk], where=number > 0)
        return values[defined].mean(), samples


def _thresholds_and_curves(pooled: Mapping[str, np.ndarray], scores: np.ndarray) -> tuple[dict, dict | None]:
    """Thresholds and curves of pooled histograms (B,); scores: (B,), what the bins stand for, ascending."""
    thresholds, curves = {}, None
    falling = np.concatenate([[np.inf], scores[::-1]])  # by depth: at depth 0 nothing is called positive
    if pooled["healthy"].any():
        healthy = metrics.tally(pooled["healthy"])
        for rate in RATES:
            thresholds[f"fpr{rate:.0%}"] = float(falling[metrics.depth_at_rate(healthy, rate)])
    if pooled["positives"].any():
        positives, negatives = metrics.tally(pooled["positives"]), metrics.tally(pooled["negatives"])
        thresholds["best_dice"] = float(falling[1 + metrics.dice_curve(positives, negatives).argmax()])
        if negatives.total > 0:
            curves = {**metrics.curves(positives, negatives), "threshold": falling[1:]}
    return thresholds, curves


def _lesions(measures: Sequence[RowMeasure], thresholds: Mapping[float, int]) -> dict:
    regions = [region for measure in measures for region in measure.regions]
    if not regions or not thresholds:
        return {"sensitivity": None, "reason": NO_HEALTHY if regions else "no lesions"}
    return lesion_sensitivity(np.array(regions), thresholds[HEADLINE_RATE])


def _closeness(measures: Sequence[RowMeasure]) -> dict[str, dict]:
    """PSNR and SSIM over images: {name: {mean, std, n, left_out}}; undefined and infinite ones are left out."""
    summary = {}
    for name in sorted({name for measure in measures for name in measure.numbers if name[:4] in ("psnr", "ssim")}):
        values = np.array([measure.numbers.get(name, np.nan) for measure in measures])
        defined = values[np.isfinite(values)]
        summary[name] = {
            "mean": float(defined.mean()) if len(defined) else None,
            "std": float(defined.std()) if len(defined) else None,
            "n": len(defined),
            "left_out": len(values) - len(defined),
        }
    return summary
