"""Anomaly scores: from an image and its healthy reconstruction to a raw map on one scale for a whole data set.

Nothing here depends on the other images of a batch, so a map is the same for every batch size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from uad.data.reading.tissue import body_mask, without_rim
from uad.errors import input_error

EVIDENCE = "evidence"
# Those that need nothing but image and reconstruction.
RESIDUAL_SCORES = ("paper", "smooth", "balanced_smooth")
SCORES = (*RESIDUAL_SCORES, EVIDENCE)
SIGNED_SCORES = tuple(score for score in SCORES if score != "paper")
# The array of a result folder whose first channel is the evidence.
EVIDENCE_EXTRA = "flip_probability"
# Of an image that the method knows badly as a whole, less is believed: a map is divided by this power of its mean.
BALANCE = {"balanced_smooth": 1 / 2, "evidence": 1 / 4}
# The difference that counts half as much as the greatest one does, where there is evidence.
HALF_BELIEVED = 0.1
MEDIAN_SIZE = 5
SIGMA_AT_128 = 3.0


@dataclass(frozen=True)
class ImageScore:
    """How its map scores an image as a whole: by the mean of this share of its values, the highest (equation 24 of
    docs/METHOD.md).
    """

    share: float

    def __call__(self, anomaly_map: np.ndarray) -> float:
        """Of a map (H, W); at least one value counts."""
        count = max(1, round(self.share * anomaly_map.size))
        return float(np.partition(anomaly_map.ravel().astype(np.float64), -count)[-count:].mean())

    def __str__(self) -> str:
        return f"mean of the highest {self.share:.0%} of the map"


# A lesion is a small part of an image; where disease changes much of the tissue, the few highest values are mostly what
# is odd in healthy images, too.
FOCAL, DIFFUSE = ImageScore(0.01), ImageScore(0.20)


def anomaly_map(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    score: str = "paper",
    evidence: torch.Tensor | None = None,
    polarity: Sequence[int] | None = None,
) -> torch.Tensor:
    """Raw anomaly map, (N, H, W), non-negative, of images (N, C, H, W) and reconstructions of the same shape.

    The equations are those of docs/METHOD.md.
    "paper" (equation 18): sum over channels of the 5x5 median of (image - reconstruction)^2.
    "smooth" (19): sum over channels of (Gaussian of (image - reconstruction))^2, sigma 3 pixels at 128 x 128 and
    proportional to the image size: smoothing the signed difference lets noise of either sign cancel.
    "balanced_smooth" (21): "smooth" over the root of its mean, that is, the geometric mean of the map and of its ratio
    to the image's own mean.
    "evidence" (20): the root r of "smooth" as r / (r + 0.1), times the evidence (N, h, w) in [0, 1], which the method
    gives on its own grid (here the mean flip probability of a position's bits), interpolated to the image: both have to
    speak for a lesion, but a difference beyond what noise makes need not be great. Over the fourth root of its mean.
    polarity: prior knowledge, per channel: 1 where lesions are brighter than healthy tissue, -1 darker, 0 where they do
    not show; differences of another sign count as 0. None knows nothing. Not for "paper".
    Raises ValueError for unequal shapes, an unknown score or missing evidence, InputError for a polarity that does not
    fit.
    """
    if image.shape != reconstruction.shape or image.ndim != 4:
        raise ValueError(f"image {tuple(image.shape)}, reconstruction {tuple(reconstruction.shape)}: need equal NCHW")
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}, choose from {SCORES}")
    check_polarity(polarity, score, image.shape[1])
    if score == "paper":
        return channel_maps(image, reconstruction).sum(1)
    difference = gaussian(image.float() - reconstruction.float())
    if polarity is not None:
        signs = torch.tensor(polarity, dtype=difference.dtype, device=difference.device)
        difference = (difference * signs[:, None, None]).clamp_min(0)
    residual = difference.square().sum(1)
    if score != EVIDENCE:
        return balanced(residual, score)
    if evidence is None:
        raise ValueError("the score 'evidence' needs the method's evidence")
    fine = F.interpolate(evidence[:, None].float(), image.shape[-2:], mode="bilinear", align_corners=False)
    root = residual.sqrt()
    return balanced(root / (root + HALF_BELIEVED) * fine[:, 0], score)


def balanced(maps: torch.Tensor, score: str) -> torch.Tensor:
    """Maps (N, H, W) >= 0, each over the power of its mean that belongs to the score (equation 21 of docs/METHOD.md),
    or as they are where none does; zeros stay so.
    """
    power = BALANCE.get(score, 0)
    return maps / (maps.double().mean((1, 2), keepdim=True).clamp_min(1e-12) ** power).float()


def residual_score(score: str) -> str:
    """The same score without evidence, for what has none, such as the autoencoder alone."""
    return score.replace(EVIDENCE, "smooth")


def check_polarity(polarity: Sequence[int] | None, score: str, n_channels: int) -> None:
    """InputError unless it is None or a sign, -1, 0 or 1, for every channel, not all 0, and the score can use it."""
    if polarity is None:
        return
    found = " ".join(map(str, polarity))
    if score not in SIGNED_SCORES:
        remedy = "choose another --score, or leave --polarity out"
        raise input_error(
            "--polarity", f"{found}, with the score {score}", "a score made of signed differences", remedy
        )
    if len(polarity) != n_channels or not set(polarity) <= {-1, 0, 1} or not any(polarity):
        raise input_error("--polarity", found, f"-1, 0 or 1 for each of {n_channels} channels, not all 0", "correct it")


def channel_maps(image: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """5x5 median of the squared difference, per channel: (N, C, H, W) -> (N, C, H, W)."""
    return median5(torch.square(image.float() - reconstruction.float()))


def intensity_map(
    image: torch.Tensor, channel: int | None, smooth: bool = False, inside: torch.Tensor | None = None
) -> torch.Tensor:
    """The trivial competitor: the image itself as anomaly map, (N, C, H, W) -> (N, H, W).

    channel: its number, or None for the sum over channels; inside: (N, H, W) bool, what does not count as 0; smooth:
    Gaussian as in the "smooth" score, after that, so that what is outside is not smeared into the inside.
    Negative intensities count as 0.
    """
    chosen = image.float().sum(1, keepdim=True) if channel is None else image.float()[:, channel : channel + 1]
    chosen = chosen if inside is None else chosen * inside[:, None]
    chosen = gaussian(chosen) if smooth else chosen
    return chosen[:, 0].clamp_min(0)


def body_interior(image: torch.Tensor) -> torch.Tensor:
    """The bodies in images (N, C, H, W) without their outer rims, (N, H, W) bool; see uad.data.reading.tissue."""
    bodies = [body_mask(one) for one in image.clamp_min(0).cpu().numpy()]
    return torch.from_numpy(np.stack([without_rim(body) for body in bodies])).to(image.device)


def median5(x: torch.Tensor) -> torch.Tensor:
    """Exact 5x5 median per channel with reflected borders, (N, C, H, W) -> (N, C, H, W)."""
    reach = MEDIAN_SIZE // 2
    height, width = x.shape[-2:]
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    rows, columns = range(MEDIAN_SIZE), range(MEDIAN_SIZE)
    return _median([padded[..., i : i + height, j : j + width] for i in rows for j in columns])


def _median(values: list[torch.Tensor]) -> torch.Tensor:
    """Elementwise median of an odd number of equal-shaped tensors.

    Of any (n + 3) / 2 of n values the least and the greatest cannot be the median: they are dropped and the
    next value joins, until three are left. Whole-image minima and maxima are several times faster than
    sorting 25 values a pixel.
    """
    active = (len(values) + 3) // 2
    held, waiting = values[:active], values[active:]
    while len(held) > 1:
        last = len(held) - 1
        pairs = [(i, last - i) for i in range(len(held) // 2)]
        pairs += [(0, i) for i in range(1, (len(held) + 1) // 2)]
        pairs += [(i, last) for i in range(len(held) // 2, last)]
        for low, high in pairs:
            held[low], held[high] = torch.minimum(held[low], held[high]), torch.maximum(held[low], held[high])
        held = held[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return held[0]


def direct_map(maps: torch.Tensor, score: str) -> torch.Tensor:
    """What a residual's score makes of maps (N, H, W) >= 0 that are no differences of images: "paper" leaves them as
    they are, "smooth" is their Gaussian, "balanced_smooth" that over the root of its mean."""
    if score == "paper":
        return maps
    smooth = gaussian(maps[:, None])[:, 0]
    return balanced(smooth, score)


def gaussian(x: torch.Tensor, sigma_at_128: float = SIGMA_AT_128) -> torch.Tensor:
    """Gaussian smoothing per channel with reflected borders, (N, C, H, W) -> (N, C, H, W).

    sigma = sigma_at_128 * max(H, W) / 128 pixels, cut at 4 sigma (or at the border, for tiny images). Written as
    a sum of shifted images: a library convolution may choose its algorithm, and so its rounding, by batch size.
    """
    sigma = sigma_in_pixels(max(x.shape[-2:]), sigma_at_128)
    for axis in (-2, -1):
        x = _smooth_along(x, axis, sigma)
    return x


def sigma_in_pixels(size: int, sigma_at_128: float = SIGMA_AT_128) -> float:
    """The width of the Gaussian in an image whose longer side has `size` pixels."""
    return sigma_at_128 * size / 128


def gaussian_weights(sigma: float, size: int) -> list[float]:
    """Weights of 2 r + 1 neighbouring pixels, of sum 1; r = 4 sigma, rounded up, and below the image's side `size`."""
    reach = min(math.ceil(4 * sigma), size - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).tolist()


def _smooth_along(x: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    size = x.shape[axis]
    weights = gaussian_weights(sigma, size)
    reach = len(weights) // 2
    padding = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
    padded = F.pad(x, padding, mode="reflect")
    smoothed = torch.zeros_like(x)
    for i, weight in enumerate(weights):
        smoothed += weight * padded.narrow(axis, i, size)
    return smoothed
