"""Raw intensities of one slice to [0, 1]; every rule uses the slice alone, so that training and test agree.

Only where an image is judged its contrast may be brought towards that of the training images as well.

Where nothing differs (the slice for `joint`, a channel's foreground for `percentile` and `foreground`) the
result is zeros, never NaN.
"""

import numpy as np

from uad.data.reading.contrast import Contrast, landmarks, matched
from uad.data.reading.fill import without_fill
from uad.data.reading.tissue import body_mask, interior
from uad.errors import ValueProblem

NORMALISATIONS = ("joint", "percentile", "foreground", "tissue", "retina", "none")
# The one whose images have a contrast to match: its landmarks lie around a common median.
CONTRASTED = "tissue"

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
# 0.5 +- 3 interquartile ranges fill [0, 1]; each is 1.35 standard deviations of a normal distribution.
SPREADS_TO_EDGE = 3.0
# Skull stripping leaves at least the corners around an ellipse at 0, 1 - pi / 4 = 21 % of its bounding box.
# Slices with skull have noise there, or fewer zeros, where their own scaling clipped the noise.
MIN_BACKGROUND_SHARE = 0.2
# Where `tissue` puts the median of the tissue: what is up to 2.5 times as bright is still below 1.
TISSUE_MEDIAN = 0.4
# `tissue` has no meaning for intensities whose 0 is not "no signal". Resampling leaves values below 0 in raw images
# too, at edges and in noise: deeper than 5 % of the brightest tissue in up to 4.7 % of the small end slices of real
# volumes that were brought to a template. Standardised images (mean 0) have them in about half of the tissue; where the
# background was standardised with it, that is negative.
MAX_NEGATIVE_SHARE = 0.08
NEGATIVE_DEPTH = 0.05
# Those for which 0 means "no signal".
FROM_ZERO = ("percentile", "tissue")
# Air and fluid are dark: the 1st percentile of real slices with skull is below 0.03 of the 98th; one channel in a
# hundred has up to 0.45. With a constant added that is as bright as tissue it is 0.3 and more.
LIFTED = 0.2
# So many rows and columns apart are enough to see it.
STRIDE = 4
# Interpolation may overshoot [0, 1] by rounding; more than this is another range.
RANGE_TOLERANCE = 1e-4


def foreground_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tissue of a slice (C, H, W), (H, W) bool, and the intensity of "no signal" in each channel, (C,) float64.

    Background is where all channels are exactly 0, as skull stripping and padding leave it; in a slice with negative
    intensities and too few such zeros also where all channels have their most frequent value, which is what
    standardising leaves of a background of 0. Where less than MIN_BACKGROUND_SHARE of the slice is so, or all of it,
    nothing was stripped and every pixel is foreground, with no signal at 0.
    """
    levels = np.zeros(len(image))
    background = (image == 0).all(axis=0)
    if image.min() < 0 and background.mean() < MIN_BACKGROUND_SHARE:
        levels = np.array([_most_frequent(channel) for channel in image])
        background |= (image == levels[:, None, None]).all(axis=0)
    if background.mean() < MIN_BACKGROUND_SHARE or background.all():
        return np.ones(background.shape, dtype=bool), np.zeros(len(image))
    return ~background, levels


def is_lifted(image: np.ndarray, how: str) -> bool:
    """Whether a channel of a raw slice (C, H, W) has no dark pixels, though with this rule 0 means "no signal"."""
    some = image[:, ::STRIDE, ::STRIDE].reshape(len(image), -1)
    low, high = np.percentile(some, (1, 98), axis=1)
    return how in FROM_ZERO and bool((low > LIFTED * high).any())


def _most_frequent(values: np.ndarray) -> float:
    levels, counts = np.unique(values, return_counts=True)
    return float(levels[counts.argmax()])


def normalise(image: np.ndarray, how: str, full_scale: float = 1.0, contrast: Contrast | None = None) -> np.ndarray:
    """Scale a raw slice (C, H, W) to float32 in [0, 1].

    joint: minimum..maximum over all channels together, which keeps the ratio of the modalities;
    percentile: per channel, from the intensity of no signal (0, see foreground_of) to the 99.5 percentile of the
    foreground, clipped, background 0; where the foreground has lower values its 0.5 percentile takes the place of it;
    foreground: per channel, 0.5 + (x - median) / (6 IQR) of the foreground, clipped, background 0; the range
    takes the place of an IQR of 0;
    tissue: per channel, 0.4 x / median of the body's interior (see uad.data.reading.tissue), clipped; 0 outside the
    body, and in a channel whose median is not positive. Intensities below 0 count as 0, where they are few;
    retina: as tissue, once white that registration has left beside a scan is 0 (see uad.data.reading.fill);
    none: the values are in [0, 1] once they are divided by `full_scale` (see RawSlice).

    contrast: of `tissue`, that of the training images, towards which the image is brought; None leaves it as it is.

    Raises ValueError for an unknown rule and for a contrast with another one than `tissue`; ValueProblem for non-finite
    values, with `none` for values outside [0, 1], with `tissue` and `retina` where a notable part of the foreground is
    negative.
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation {how!r}; there are {', '.join(NORMALISATIONS)}")
    if contrast is not None and how != CONTRASTED:
        raise ValueError(f"a contrast, with the normalisation {how!r}: it belongs to {CONTRASTED!r}")
    if not np.isfinite(image).all():
        found = f"{np.count_nonzero(~np.isfinite(image))} values are NaN or infinite"
        raise ValueProblem(found, "finite intensities", "repair or remove the file")
    if how == "retina":
        image = without_fill(image, full_scale)
    if how in ("tissue", "retina"):
        return _tissue(image, contrast)
    image = image.astype(np.float64)
    if how == "none":
        return _unit_range(image / full_scale)
    if how == "joint":
        return _stretch(image, image.min(), image.max())
    foreground, no_signal = foreground_of(image)
    scaled = np.zeros(image.shape, dtype=np.float32)
    for channel, level, out in zip(image, no_signal, scaled, strict=True):
        tissue = channel[foreground]
        if tissue.max() > tissue.min():
            out[foreground] = _percentile(tissue, level) if how == "percentile" else _foreground(tissue)
    return scaled


def _unit_range(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueProblem(
            f"values from {low:.6g} to {high:.6g} are not in [0, 1]",
            "intensities in [0, 1], or the full range of 8- or 16-bit integers, for --normalise none",
            "choose another --normalise",
        )
    return image.clip(0, 1).astype(np.float32)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if not high > low:
        return np.zeros(values.shape, dtype=np.float32)
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def _percentile(tissue: np.ndarray, no_signal: float) -> np.ndarray:
    low, high = np.percentile(tissue, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if tissue.min() >= no_signal:
        # Intensity 0 means "no signal" in a magnitude image, for every slice alike. The foreground's low
        # percentile moves with the share of fluid or air in the slice: with it the median of brain tissue
        # in FLAIR varied by 24 % between slices of real glioma patients, with 0 by 18 %, and the darkest
        # tissue fell to the background.
        low = no_signal
    if not high > low:
        low, high = tissue.min(), tissue.max()
    return _stretch(tissue, low, high)


def _foreground(tissue: np.ndarray) -> np.ndarray:
    lower_quartile, median, upper_quartile = np.percentile(tissue, (25, 50, 75))
    spread = upper_quartile - lower_quartile
    if not spread > 0:
        spread = tissue.max() - tissue.min()
    half_width = SPREADS_TO_EDGE * spread
    return _stretch(tissue, median - half_width, median + half_width)


def contrast_of(image: np.ndarray) -> np.ndarray:
    """The landmarks (C, L) of a raw slice (C, H, W) once it is normalised by `tissue`; ValueProblem as normalise."""
    inner = interior(body_mask(image.clip(0)))
    return np.stack([landmarks(channel[inner]) for channel in normalise(image, CONTRASTED)])


def _tissue(image: np.ndarray, contrast: Contrast | None) -> np.ndarray:
    if image.min() < 0:
        _refuse_negative(image.astype(np.float64))
    image = image.clip(0)
    body = body_mask(image)
    inner = interior(body)
    scaled = np.zeros(image.shape, dtype=np.float32)
    # Floating point numbers of 64 bits only where they are needed: copies of whole images take a third of the time.
    for number, (channel, out) in enumerate(zip(image, scaled, strict=True)):
        median = np.median(channel[inner].astype(np.float64))
        if median > 0 and channel.max() > channel.min():
            out[body] = (TISSUE_MEDIAN * channel[body].astype(np.float64) / median).clip(0, 1)
            if contrast is not None:
                out[body] = matched(out[body], landmarks(out[inner]), np.asarray(contrast[number]))
    return scaled


def _refuse_negative(image: np.ndarray) -> None:
    """ValueProblem where the background of a channel is negative, or more than MAX_NEGATIVE_SHARE of its foreground."""
    foreground, no_signal = foreground_of(image)
    tissue = image[:, foreground]
    limits = -NEGATIVE_DEPTH * np.percentile(tissue, HIGH_PERCENTILE, axis=1).clip(0)
    share = (tissue < limits[:, None]).mean(axis=1).max()
    if share > MAX_NEGATIVE_SHARE or (no_signal < limits).any():
        raise ValueProblem(
            f"negative intensities, down to {image.min():.4g}, in {share:.0%} of the foreground or as its background, "
            "with --normalise tissue",
            "raw intensities, of which 0 means no signal; these were standardised (mean 0) or shifted",
            "use --normalise foreground, which standardised images are meant for, or store the raw intensities",
        )
