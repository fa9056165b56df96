"""Stored label values as a lesion mask: the same for slices and volumes, whatever a release numbers its regions."""

import numpy as np

from uad.errors import ValueProblem

# Releases number at most some ten regions; more numbers than these are grey values.
MAX_REGION = 32
# A label that a header rescales (scl_slope) misses its whole number by float32's rounding, some 1e-7 of it. Values
# that interpolation leaves between two regions miss by far more than this.
ROUNDING = 1e-3
EXPECTED = f"0 and one positive value, or whole-number regions from 0 to {MAX_REGION}"


def binary_label(values: np.ndarray) -> np.ndarray:
    """Label values of any shape as uint8: 1 where a lesion is, 0 elsewhere.

    They are 0 and one positive value (1, 255, 0.5, ...), or whole numbers from 0 to MAX_REGION, of which each counts a
    region; the union of the regions is the lesion. Numbers within ROUNDING of a whole one are taken for it.

    Raises ValueProblem for anything else, with a remedy for its cause.
    """
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueProblem(f"NaN or infinity in {count} pixels", EXPECTED, "write 0 where there is no lesion")
    levels = np.unique(values)
    if _are_two_levels(levels):
        return (values > 0).astype(np.uint8)
    regions = np.unique(np.round(levels))
    whole = bool((np.abs(levels - np.round(levels)) <= ROUNDING).all())
    vanishes = levels[-1] > 0 and regions[-1] == 0  # a faint label, not none
    if whole and not vanishes and (_are_two_levels(regions) or (regions[0] >= 0 and regions[-1] <= MAX_REGION)):
        return (np.round(values) > 0).astype(np.uint8)
    found = f"{len(levels)} different values from {levels[0]:g} to {levels[-1]:g}"
    raise ValueProblem(found, EXPECTED, _remedy(regions, whole and not vanishes))


def lesion_values(values: np.ndarray) -> tuple[float, ...]:
    """The values above 0 of what binary_label takes, sorted: all of them count as lesion."""
    levels = np.unique(values[values > 0])
    if len(levels) > 1:
        levels = np.unique(np.round(levels))
    return tuple(float(level) for level in levels if level > 0)


def _are_two_levels(levels: np.ndarray) -> bool:
    """Whether sorted values are 0 and a positive one, or one of them alone."""
    return bool(levels[0] >= 0) and (len(levels) == 1 or (len(levels) == 2 and bool(levels[0] == 0)))


def _remedy(regions: np.ndarray, whole: bool) -> str:
    """What to do about values that are no label; regions: rounded, sorted; whole: whether rounding changed little."""
    if regions[0] < 0:
        return "write 0 for healthy tissue, and also where nothing was annotated (-1 often says so)"
    if whole and len(regions) <= MAX_REGION + 1:
        return (
            f"if these are numbers of regions, number them from 1 to {MAX_REGION}, or write 1 for all lesions and 0 "
            "for all else; if they are grey fringes of a JPEG, save the mask losslessly"
        )
    return (
        "grey values come from lossy files, interpolation and probabilities: save the mask losslessly (PNG or NIfTI, "
        "not JPEG), resample it by nearest neighbour, or threshold it to 0 and 1"
    )
