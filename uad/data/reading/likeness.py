"""What the images of a data set look like, in a few numbers, so that others that are unlike them are named.

The numbers are kept with a model. They tell what goes wrong unnoticed: channels in another order, a head that lies
otherwise, skulls where there were none, another scale of intensities.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Side of the mean image: coarse enough that patients differ little, fine enough to tell up from down.
PATTERN = 16
# Fewer images show too little of a head to say how it lies. Of two real patients of one study the right position fitted
# better than any other by 0.2 and more, the right order never worse by 0.03; exchanged T1 and T1 with contrast look
# alike.
ENOUGH = 16
POSITION_MARGIN, ORDER_MARGIN = 0.25, 0.05
# A large lesion changes a channel so much that it fits nothing: something else is said only where it fits as well as
# channels of two patients do, 0.45 and more.
LEAST_FIT = 0.35
ALIKE = 0.25
# Quantiles of intensities further away than so many standard deviations of the training images, or this much.
DEVIATIONS, LEAST_DEVIATION = 4.0, 0.1
# Of two patients of one study the middle of the body differs by less than this share of the image's side.
FAR = 0.1
MANY, FEW = 0.8, 0.2
# What so few of the training images had is unusual in a single one.
RARE = 0.02
AS_IT_LIES = (False, ())
# What is said of slices that fit better transposed or not, with these axes running backwards. Heads and eyes are too
# symmetric to tell left from right.
_TURNS = {
    (False, (1,)): "upside down",
    (False, (0, 1)): "turned by 180 degrees",
    (True, ()): "transposed",
    (True, (0,)): "turned by 90 degrees",
    (True, (1,)): "turned by 90 degrees",
    (True, (0, 1)): "transposed and turned by 180 degrees",
}


@dataclass(frozen=True)
class Likeness:
    """Means over images, plain numbers.

    images: how many; stripped: share with a background of no signal; least: the smallest share of an image that is no
    background, of those that have one, else 1; quantiles, deviations: (C, 5), of the normalised
    intensities in the foreground at QUANTILES, and their standard deviation over images; pattern: (C, P, P), the mean
    intensity of the body, see _pattern.
    """

    images: int
    stripped: float
    least: float
    quantiles: tuple[tuple[float, ...], ...]
    deviations: tuple[tuple[float, ...], ...]
    pattern: tuple[tuple[tuple[float, ...], ...], ...]


def likeness_of(images: Iterable[tuple[np.ndarray, np.ndarray]]) -> Likeness:
    """Of at least one image: pairs of a normalised one (C, S, S) and its foreground (S, S) bool, all of a slice
    whose background was not removed.
    """
    shares, quantiles, total, covered = [], [], 0.0, 0.0
    for image, foreground in images:
        shares.append(float(foreground.mean()))
        body = image.max(0) > 0 if foreground.all() else foreground
        body = body if body.any() else ~body
        quantiles.append(np.quantile(image[:, body], QUANTILES, axis=1).T)
        total, covered = total + _coarse(image * body), covered + _coarse(body[None])
    pattern = _pattern(total, covered / len(shares))
    rounded = [np.round(values, 4).tolist() for values in (np.mean(quantiles, 0), np.std(quantiles, 0), pattern)]
    stripped = float(np.mean([share < 1 for share in shares]))
    return Likeness(len(shares), stripped, min(shares), *map(_tuples, rounded))


def differences(known: Likeness, other: Likeness, channels: Sequence[str]) -> list[str]:
    """In words, how other images, of one patient or of one kind, differ from the known ones; empty where nothing stands
    out.
    """
    return [*differences_of_many(known, other, channels), *differences_of_each(known, other, channels)]


def differences_of_many(known: Likeness, other: Likeness, channels: Sequence[str]) -> list[str]:
    """What only many images tell, if these are enough: the order of the channels, and how and where the body lies."""
    if other.images < ENOUGH:
        return []
    told = [*_order(known, other, channels), *_position(known, other)]
    return [*(told or _unlike(known, other)), *_place(known, other)]


def differences_of_each(known: Likeness, other: Likeness, channels: Sequence[str]) -> list[str]:
    """What a single image tells: whether there is a background, and intensities."""
    return [*_skull(known, other), *_scale(known, other, channels)]


def _order(known: Likeness, other: Likeness, channels: Sequence[str]) -> list[str]:
    """Whether the channels fit better in another order; those that look alike in training are not told apart."""
    fit, apart = _fit(known, other), 1 - _fit(known, known)
    alike = (apart < ALIKE * apart.max()) & ~np.eye(len(fit), dtype=bool)
    fit = np.where(alike, -np.abs(fit).sum(), fit)
    # Here: it takes as long to import as all else that reads images.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-fit)
    moved = rows != columns
    gain = (fit[rows, columns].sum() - np.trace(fit)) / max(1, moved.sum())
    if gain < ORDER_MARGIN or fit[rows, columns][moved].min() < LEAST_FIT:
        return []
    pairs = [(channels[row], channels[column]) for row, column in zip(rows, columns, strict=True) if row != column]
    said = ", ".join(f"{here} looks like {there}" for here, there in pairs)
    return [f"the channels seem to be in another order: {said}"]


def _fit(known: Likeness, other: Likeness) -> np.ndarray:
    """(C, C): how well channel i of the other images fits the known channel j, by mean image and intensities."""
    patterns = [np.asarray(each.pattern).reshape(len(each.pattern), -1) for each in (other, known)]
    apart = np.abs(np.asarray(other.quantiles)[:, None] - np.asarray(known.quantiles)[None]).mean(2)
    return patterns[0] @ patterns[1].T - apart


def _position(known: Likeness, other: Likeness) -> list[str]:
    """Whether the mean image fits better once it is turned."""
    fits = _fits(known, other)
    best = max(fits, key=fits.get)
    if fits[best] - fits[AS_IT_LIES] < POSITION_MARGIN or fits[best] < LEAST_FIT:
        return []
    return [f"the slices seem to lie otherwise: they fit better {_TURNS[best]}"]


def _fits(known: Likeness, other: Likeness) -> dict[tuple[bool, tuple[int, ...]], float]:
    """The correlation of the mean images, as they lie and in every other position of _TURNS."""
    there, here = (np.asarray(each.pattern) for each in (known, other))
    return {turn: float((_turned(here, *turn) * there).sum()) / len(there) for turn in (AS_IT_LIES, *_TURNS)}


def _unlike(known: Likeness, other: Likeness) -> list[str]:
    """Whether the mean image fits too little in any position to say how it lies."""
    fit = max(_fits(known, other).values())
    if fit >= LEAST_FIT:
        return []
    said = "how they lie and in which order their channels are could not be checked"
    return [f"the images resemble the training's too little: {said} (correlation {fit:.2f})"]


def _place(known: Likeness, other: Likeness) -> list[str]:
    """Whether the body lies somewhere else in the image: the middle of where the mean image shows it."""
    shown = [np.argwhere(np.any(each.pattern, axis=0)) for each in (known, other)]
    if not all(map(len, shown)):  # a mean image without structure tells of no place
        return []
    down, right = (shown[1].mean(0) - shown[0].mean(0)) / PATTERN
    if max(abs(down), abs(right)) <= FAR:
        return []
    return [f"the body lies elsewhere in the image: by {down:+.0%} of its height and {right:+.0%} of its width"]


def _turned(pattern: np.ndarray, swap: bool, flip: tuple[int, ...]) -> np.ndarray:
    turned = pattern.swapaxes(1, 2) if swap else pattern
    return np.flip(turned, [axis + 1 for axis in flip])


def _skull(known: Likeness, other: Likeness) -> list[str]:
    few = FEW if other.images >= ENOUGH else RARE
    if known.stripped >= 1 - few and other.stripped <= FEW:
        return ["there is no background of 0, as the training images had it, whose skulls were removed"]
    if known.stripped <= few and other.stripped >= MANY:
        return ["there is a background of 0, which the training images, with skulls, did not have"]
    return []


def _scale(known: Likeness, other: Likeness, channels: Sequence[str]) -> list[str]:
    found = []
    for number, channel in enumerate(channels):
        expected, here = np.asarray(known.quantiles[number]), np.asarray(other.quantiles[number])
        allowed = np.maximum(DEVIATIONS * np.asarray(known.deviations[number]), LEAST_DEVIATION)
        if (np.abs(here - expected) > allowed).any():
            shown = [" ".join(f"{value:.2f}" for value in values) for values in (here, expected)]
            found.append(
                f"intensities of {channel} are unlike those in training: quantiles {shown[0]}, there {shown[1]}"
            )
    return found


def _coarse(image: np.ndarray) -> np.ndarray:
    """(C, S, S) to means over blocks, (C, PATTERN, PATTERN)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(image.astype(np.float64)), PATTERN).numpy()


def _pattern(total: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """(C, P, P): the body's mean intensity where the images mostly show it, its mean over there taken away, norm 1; the
    outline, which all channels share, is no part of it.
    """
    mostly = covered >= 0.5 * covered.max()
    mean = np.where(mostly, total / np.maximum(covered, 1e-9), 0.0)
    centred = np.where(mostly, mean - mean.sum((1, 2), keepdims=True) / mostly.sum(), 0.0)
    return centred / np.maximum(np.linalg.norm(centred, axis=(1, 2), keepdims=True), 1e-9)


def _tuples(values) -> tuple:
    return tuple(_tuples(value) if isinstance(value, list) else value for value in values)
