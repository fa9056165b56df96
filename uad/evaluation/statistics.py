"""The clinical protocol's numbers as functions of pooled histograms, and the reasons why one can be
undefined.
"""

from collections.abc import Mapping

import numpy as np

from uad.evaluation import metrics

RATES = (0.01, 0.05, 0.10)
# A brain lesion covers about a hundredth of a slice: at 5 % of all pixels most of what is called is not lesion.
HEADLINE_RATE = 0.01


def names_at(rate: float) -> tuple[str, str, str, str]:
    """Metrics at the threshold that gives `rate` false positives on healthy images: Dice, sensitivity,
    realised false-positive rate on the scored images, realised one on the healthy images.
    """
    at = f"at_fpr{rate:.0%}"
    return f"dice_{at}", f"sensitivity_{at}", f"false_positive_rate_{at}", f"healthy_false_positive_rate_{at}"


SEPARATION = ("auroc", "ap", "best_dice")
PIXEL_METRICS = (*SEPARATION, "aupro")
# The same over the pixels of the healthy images too.
WITH_HEALTHY = {name: f"{name}_with_healthy" for name in SEPARATION}
AT_METRICS = tuple(name for rate in RATES for name in names_at(rate))
IMAGE_METRICS = ("image_auroc", "image_ap")
# Thresholds and pixels of healthy images come from a folder of their own: healthy images among the scored ones, whose
# masks are empty, are no part of it.
NO_HEALTHY = "no folder of healthy images, --healthy"


def pixel_statistics(pooled: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every pixel metric of histograms (..., B) of the kinds of pooling.KINDS; NaN where undefined."""
    tallies = {kind: metrics.tally(histogram) for kind, histogram in pooled.items()}
    positives, negatives, healthy = tallies["positives"], tallies["negatives"], tallies["healthy"]
    values = _separation(positives, negatives)
    values["aupro"] = metrics.aupro(tallies["overlaps"], negatives)
    for name, value in _separation(positives, metrics.together(negatives, healthy)).items():
        values[WITH_HEALTHY[name]] = np.where(healthy.total > 0, value, np.nan)
    for rate in RATES:
        depth = metrics.depth_at_rate(healthy, rate)
        numbers = (
            metrics.dice_at(positives, negatives, depth),
            metrics.share_at(positives, depth),
            metrics.share_at(negatives, depth),
            metrics.share_at(healthy, depth),
        )
        for name, value in zip(names_at(rate), numbers, strict=True):
            values[name] = np.where(healthy.total > 0, value, np.nan)
    return values


def _separation(positives: metrics.Tally, negatives: metrics.Tally) -> dict[str, np.ndarray]:
    return {
        "auroc": metrics.auroc(positives, negatives),
        "ap": metrics.average_precision(positives, negatives),
        "best_dice": metrics.best_dice(positives, negatives),
    }


def image_statistics(pooled: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Image-level AUROC and average precision of histograms of image scores, (..., U), kinds "diseased",
    "healthy".
    """
    diseased, healthy = metrics.tally(pooled["diseased"]), metrics.tally(pooled["healthy"])
    return {
        "image_auroc": metrics.auroc(diseased, healthy),
        "image_ap": metrics.average_precision(diseased, healthy),
    }


def pixel_reasons(pooled: Mapping[str, np.ndarray], any_mask: bool) -> dict[str, str | None]:
    """metric -> why it is undefined on the pooled histograms (B,), or None."""
    mask = None if any_mask else "no masks"
    lesion = mask or (None if pooled["positives"].any() else "no lesion pixel in any mask")
    other = mask or (None if pooled["negatives"].any() else "every pixel is lesion")
    healthy = None if pooled["healthy"].any() else NO_HEALTHY
    reasons = dict.fromkeys(PIXEL_METRICS, lesion or other)
    reasons["best_dice"] = lesion
    reasons |= dict.fromkeys(WITH_HEALTHY.values(), lesion or healthy)
    for rate in RATES:
        dice, sensitivity, false_rate, healthy_rate = names_at(rate)
        reasons |= {dice: lesion or healthy, sensitivity: lesion or healthy}
        reasons |= {false_rate: other or healthy, healthy_rate: healthy}
    return reasons | {"patient_dice": lesion or healthy}


def image_reasons(pooled: Mapping[str, np.ndarray]) -> dict[str, str | None]:
    """As pixel_reasons, for image-level metrics."""
    reason = None if pooled["healthy"].any() else "no healthy images"
    reason = reason if pooled["diseased"].any() else "no diseased images"
    return dict.fromkeys(IMAGE_METRICS, reason)


def quartiles(values: np.ndarray) -> np.ndarray:
    """(N,) -> the quartile of each value, 0..3; equal values are in one, so that one can be empty."""
    edges = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    return np.searchsorted(edges, values, side="left")


def lesion_sensitivity(regions: np.ndarray, lowest: int) -> dict:
    """Share of lesions found, all and by quartile of size.

    regions: (K, 2), size in pixels and the highest bin at which at least half of the lesion is positive;
    lowest: the lowest bin that is called positive. A lesion is an 8-connected region in one slice.
    """
    sizes, found = regions[:, 0], regions[:, 1] >= lowest
    quartile = quartiles(sizes)
    parts = []
    for number in range(4):
        members = quartile == number
        if not members.any():
            parts.append({"sensitivity": None, "reason": "no lesion of this size", "lesions": 0})
            continue
        parts.append(
            {
                "sensitivity": float(found[members].mean()),
                "lesions": int(members.sum()),
                "smallest": int(sizes[members].min()),
                "largest": int(sizes[members].max()),
            }
        )
    return {"sensitivity": float(found.mean()), "lesions": len(sizes), "quartiles": parts}
