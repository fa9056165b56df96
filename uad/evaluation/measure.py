"""What the clinical protocol takes from one image: histograms of its scores, its own metrics, its
reconstruction's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from uad.errors import input_error
from uad.evaluation import metrics
from uad.evaluation.contenders import Contender
from uad.evaluation.pooling import sparse_histogram
from uad.evaluation.regions import half_found, region_weights
from uad.evaluation.similarity import psnr, ssim_map
from uad.evaluation.statistics import names_at
from uad.evaluation.study import Study
from uad.results import DISEASED_KEY, Result

HEALTHY_ALONE = "healthy images alone in the folders given with --healthy and --calibration"


@dataclass
class RowMeasure:
    """One contender on one image.

    image_score: of the image as a whole; histograms: kind -> (bins, weights), kinds "positives",
    "negatives", "overlaps" (positives weighted by 1 / region size) where the image has a mask; regions:
    (size, highest bin at which half of the region is found); numbers: the image's own metrics, NaN where
    undefined.
    """

    image_score: float
    histograms: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    regions: list[tuple[int, int]] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class ImageMeasure:
    """One image: lesion_pixels is None without a mask; diseased: what its release says of it, else whether the mask has
    a lesion, None where neither is known; rows by contender name.
    """

    name: str
    patient: str
    pixels: int
    lesion_pixels: int | None
    diseased: bool | None
    rows: dict[str, RowMeasure]


def largest_scores(study: Study, name: str) -> dict[str, float]:
    """{row name: largest magnitude in the map} of one image by itself; neighbours make none larger than the largest."""
    result = study.load(name)
    return {row.name: float(np.abs(row.map(result)).max()) for row in study.rows}


def measure_image(
    study: Study, name: str, scales: Mapping[str, float], thresholds: Mapping[str, Mapping[float, int]]
) -> ImageMeasure:
    """Measure one image.

    scales: row name -> factor of metrics.float16_scale; thresholds: row name -> {healthy false-positive
    rate: lowest bin that is called positive}, empty without healthy images.
    """
    result = study.load(name)
    maps = study.maps(result)
    rows = {
        row.name: _measure_row(row, result, maps[row.name], scales[row.name], thresholds[row.name])
        for row in study.rows
    }
    lesion_pixels = None if result.label is None else int((result.label > 0).sum())
    diseased = _is_diseased(result, lesion_pixels)
    return ImageMeasure(name, result.patient, result.anomaly_map.size, lesion_pixels, diseased, rows)


def load_healthy(study: Study, name: str) -> Result:
    """One image of a folder of healthy ones. Raises InputError for a lesion, or where its release calls it diseased."""
    result = study.load(name)
    if result.record.get(DISEASED_KEY):
        raise input_error(
            study.folder.folder / "records" / f"{name}.json",
            "an image that its release calls diseased",
            HEALTHY_ALONE,
            "give a result folder of healthy images: detection with --data_dir on their folder (valid/good) makes one",
        )
    if result.label is not None and result.label.any():
        raise input_error(
            study.folder.folder / "label" / f"{name}.nii.gz",
            f"{int((result.label > 0).sum())} lesion pixels",
            HEALTHY_ALONE,
            "give a result folder of healthy images",
        )
    return result


def measure_healthy_image(study: Study, name: str, scales: Mapping[str, float]) -> ImageMeasure:
    """Measure one image of the healthy folder: all its pixels are negatives. Raises InputError if its mask
    has a lesion, or its release calls it diseased.
    """
    result = load_healthy(study, name)
    rows, maps = {}, study.maps(result)
    for row in study.rows:
        bins = metrics.float16_bins(maps[row.name], scales[row.name])
        rows[row.name] = RowMeasure(row.image_score(maps[row.name]), {"healthy": sparse_histogram(bins)})
    return ImageMeasure(name, result.patient, result.anomaly_map.size, 0, False, rows)


def pixel_histograms(bins: np.ndarray, lesion: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The bins (H, W) of an image's scores in and outside of its lesions (H, W) bool, see RowMeasure."""
    return {"positives": sparse_histogram(bins[lesion]), "negatives": sparse_histogram(bins[~lesion])}


def _is_diseased(result: Result, lesion_pixels: int | None) -> bool | None:
    stated = result.record.get(DISEASED_KEY)
    if stated is not None:
        return bool(stated)
    return None if lesion_pixels is None else lesion_pixels > 0


def _measure_row(
    row: Contender, result: Result, found: np.ndarray, scale: float, thresholds: Mapping[float, int]
) -> RowMeasure:
    measured = RowMeasure(row.image_score(found))
    measured.numbers.update(_closeness(row, result))
    if result.label is None:
        return measured
    lesion = result.label > 0
    bins = metrics.float16_bins(found, scale)
    measured.histograms = pixel_histograms(bins, lesion) | {"overlaps": sparse_histogram(bins, region_weights(lesion))}
    measured.regions = half_found(lesion, bins)
    positives, negatives = metrics.tallies(bins, lesion)
    measured.numbers["auroc"] = float(metrics.auroc(positives, negatives))
    measured.numbers["ap"] = float(metrics.average_precision(positives, negatives))
    measured.numbers["best_dice"] = float(metrics.best_dice(positives, negatives))
    for rate, threshold in thresholds.items():
        measured.numbers[names_at(rate)[0]] = float(metrics.dice_at(positives, negatives, metrics.N_BINS - threshold))
    return measured


def _closeness(row: Contender, result: Result) -> dict[str, float]:
    """PSNR and SSIM of the reconstruction: everywhere, on healthy tissue and on lesion.

    Tissue is where any channel of the input is above 0: the empty background would only flatter the
    reconstruction.
    """
    reconstruction = row.reconstruction(result)
    if reconstruction is None:  # of an intensity, or where no inputs are stored
        return {}
    everywhere = np.ones(result.anomaly_map.shape, dtype=bool)
    regions = {"": everywhere}
    if result.label is not None:
        lesion = result.label > 0
        regions |= {"_healthy_tissue": ~lesion & (result.image > 0).any(0), "_lesion": lesion}
    similarity = ssim_map(result.image, reconstruction)
    numbers = {}
    for suffix, region in regions.items():
        numbers[f"psnr{suffix}"] = psnr(result.image, reconstruction, region)
        numbers[f"ssim{suffix}"] = float(similarity[region].mean()) if region.any() else math.nan
    return numbers
