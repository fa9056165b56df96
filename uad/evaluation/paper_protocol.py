"""The published evaluation: every image is normalised by itself, scored, and averaged over images.

It exists for comparison with published tables. Every map reaches 1.0 in it, so that a healthy image always
seems to hold an anomaly; the clinical protocol has no such flaw.
"""

import math
from collections.abc import Sequence

import numpy as np

from uad.evaluation.regions import remove_small
from uad.evaluation.similarity import psnr
from uad.evaluation.study import Study

VARIANTS = ("paper_ours", "paper_baselines")
METRICS = ("dice", "auroc", "auprc", "psnr")
PERCENTILES = (1, 99)
THRESHOLD = 0.5
SPECK_SIZE = 15


def normalised(anomaly_map: np.ndarray) -> np.ndarray:
    """Clip to the map's own 1st..99th percentile, then min-max to [0, 1]; a constant map becomes 0
    everywhere.
    """
    low, high = np.percentile(anomaly_map, PERCENTILES)
    if high <= low:
        return np.zeros(anomaly_map.shape)
    return (np.clip(anomaly_map.astype(np.float64), low, high) - low) / (high - low)


def score_and_prediction(channel_maps: np.ndarray, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """(score (H, W) float64, prediction (H, W) bool) from median-filtered maps per channel, (C, H, W).

    "paper_baselines": sum over channels, normalise, threshold 0.5.
    "paper_ours": normalise each channel, threshold each and take the union; the score is the sum over
    channels.
    Either way 8-connected components of <= 15 pixels are removed from the prediction.
    """
    if variant == "paper_baselines":
        score = normalised(channel_maps.sum(0))
        prediction = score > THRESHOLD
    elif variant == "paper_ours":
        channels = np.stack([normalised(channel) for channel in channel_maps])
        score = channels.sum(0)
        prediction = (channels > THRESHOLD).any(0)
    else:
        raise ValueError(f"unknown variant {variant!r}, choose from {VARIANTS}")
    return score, remove_small(prediction, SPECK_SIZE)


def image_metrics(channel_maps: np.ndarray, label: np.ndarray, variant: str) -> dict[str, float | str]:
    """dice, auroc and auprc of one image; where one is undefined, the reason stands in its place."""
    score, prediction = score_and_prediction(channel_maps, variant)
    lesion = label > 0
    if not lesion.any():
        return dict.fromkeys(("dice", "auroc", "auprc"), "empty mask")
    dice = 2 * (prediction & lesion).sum() / (prediction.sum() + lesion.sum())
    if lesion.all():
        return {"dice": float(dice), "auroc": "all lesion", "auprc": "all lesion"}
    # Here: it takes two seconds to import, and the other protocols do without.
    from sklearn.metrics import average_precision_score, roc_auc_score

    flat = lesion.ravel()
    return {
        "dice": float(dice),
        "auroc": float(roc_auc_score(flat, score.ravel())),
        "auprc": float(average_precision_score(flat, score.ravel())),
    }


def measure_image(study: Study, name: str) -> dict[str, dict[str, dict[str, float | str]]]:
    """{variant: {row name: {metric: number or reason}}} of one image."""
    result = study.load(name)
    measured = {variant: {} for variant in VARIANTS}
    for row in study.rows:
        maps, reconstruction = row.channel_maps(result), row.reconstruction(result)
        closeness = "no reconstruction" if reconstruction is None else psnr(result.image, reconstruction)
        if closeness == math.inf:
            closeness = "reconstruction equals the input"
        for variant in VARIANTS:
            if result.label is None:
                numbers = dict.fromkeys(("dice", "auroc", "auprc"), "no mask")
            else:
                numbers = image_metrics(maps, result.label, variant)
            measured[variant][row.name] = {**numbers, "psnr": closeness}
    return measured


def summarise(values: Sequence[float | str]) -> dict:
    """Mean and standard deviation (of the population, as numpy's default) over images; reasons are counted.

    Returns {"mean", "std", "n", "left_out": {reason: count}}; without any number mean and std are None,
    with a reason.
    """
    numbers = [value for value in values if not isinstance(value, str)]
    reasons = [value for value in values if isinstance(value, str)]
    left_out = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    if not numbers:
        why = ", ".join(left_out) or "no images"
        return {"mean": None, "std": None, "reason": why, "n": 0, "left_out": left_out}
    return {
        "mean": float(np.mean(numbers)),
        "std": float(np.std(numbers)),
        "n": len(numbers),
        "left_out": left_out,
    }


def paper_summary(images: Sequence[dict], variant: str) -> dict[str, dict[str, dict]]:
    """{row name: {metric: summary}} over what measure_image returned for every image."""
    rows = images[0][variant]
    return {
        row: {metric: summarise([image[variant][row][metric] for image in images]) for metric in METRICS}
        for row in rows
    }


def image_rows(names: Sequence[str], images: Sequence[dict], variant: str) -> list[dict]:
    """One row per image and contender, of what measure_image returned for every image."""
    return [
        {"image": name, "method": row, **numbers}
        for name, image in zip(names, images, strict=True)
        for row, numbers in image[variant].items()
    ]
