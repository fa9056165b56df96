"""What synthetic lesions are like: recipes, and the parameters that are drawn by them for an image."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_LESIONS = 3
# Radii in units of the image size: from a focus of a few pixels to a large tumour.
RADIUS = (0.02, 0.18)
# Points a side of the random field that makes outlines irregular, and its standard deviation in radii.
OUTLINE, IRREGULARITY = 8, 0.35
MAX_NOISE = 0.1
# Greatest change of local size: tissue swells to or shrinks by 1 / (1 - MAX_SWELLING).
MAX_SWELLING = 0.6
# The share of the channels in which shifted intensities show.
SHIFTED_CHANNELS = 0.8
KINDS = ("shifted", "replaced", "blurred", "displaced", "swollen")
# The kind of a lesion that is not there.
NONE = -1


@dataclass(frozen=True)
class Recipe:
    """What lesions are like.

    kinds: how often each kind is; change: the least and greatest shift of intensity, drawn evenly or, where faint ones
    are to be as frequent as gross ones, evenly by its logarithm; by_brightness: the chance of a place is its
    brightness, where otherwise all places of the foreground have the same.
    """

    kinds: dict[str, float]
    change: tuple[float, float]
    logarithmic: bool
    by_brightness: bool

    @property
    def shares(self) -> list[float]:
        """The share of each of KINDS."""
        return [self.kinds.get(kind, 0.0) for kind in KINDS]


RECIPES = {
    "intensity": Recipe(
        kinds={"shifted": 0.5, "replaced": 0.2, "blurred": 0.1, "displaced": 0.2},
        change=(0.08, 0.45),
        logarithmic=False,
        by_brightness=False,
    ),
    # Layers of tissue are brighter than what surrounds them, the noisy vitreous of an OCT image for instance.
    "structure": Recipe(
        kinds={"shifted": 0.4, "replaced": 0.15, "blurred": 0.1, "displaced": 0.15, "swollen": 0.2},
        change=(0.04, 0.45),
        logarithmic=True,
        by_brightness=True,
    ),
}


class Lesions(NamedTuple):
    """The MAX_LESIONS lesions (B) of an image, or with a first dimension more, those of every image of a batch; on the
    CPU. All that any kind of lesion needs is drawn for each of them.

    kind (B,) int64: an index into KINDS, or NONE.
    place (B,) float64 in [0, 1): how much of all chances lies before the centre, row by row; radius (B,), in units of
    the image size, stretch (B,), angle (B,) in radians, softness (B,) in radii, and outline (B, 8, 8), by how many
    radii it lies further out: the shape, float32.
    change (B, C): of shifted intensities; level (B, C) and noise (B,): the mean and standard deviation of replaced
    ones, seed (B,) int32: of that noise; swelling (B,): the share by which what is shown lies nearer to the centre;
    shift (B, 2) int64, in pixels, and from_donor (B,) bool: where displaced tissue comes from.
    """

    kind: Tensor
    place: Tensor
    radius: Tensor
    stretch: Tensor
    angle: Tensor
    softness: Tensor
    outline: Tensor
    change: Tensor
    level: Tensor
    noise: Tensor
    seed: Tensor
    swelling: Tensor
    shift: Tensor
    from_donor: Tensor

    def needs_donor(self) -> bool:
        """Whether any of them shows tissue of another image."""
        return bool(((self.kind == KINDS.index("displaced")) & self.from_donor).any())

    def absent(self) -> "Lesions":
        """The same lesions, none of which is there."""
        return self._replace(kind=torch.full_like(self.kind, NONE))


def drawn_lesions(channels: int, size: int, recipe: Recipe, rng: np.random.Generator) -> Lesions:
    """One to MAX_LESIONS random lesions of an image of so many channels and pixels a side."""
    count = MAX_LESIONS
    kind = rng.choice(len(KINDS), count, p=recipe.shares)
    kind[rng.integers(1, count + 1) :] = NONE
    values = Lesions(
        kind=kind,
        place=rng.random(count),
        radius=_single(np.exp(rng.uniform(*np.log(RADIUS), count))),
        stretch=_single(rng.uniform(1, 2, count)),
        angle=_single(rng.uniform(0, np.pi, count)),
        softness=_single(rng.uniform(0.1, 0.4, count)),
        outline=_single(rng.normal(0, IRREGULARITY, (count, OUTLINE, OUTLINE))),
        change=_single(signed_changes(recipe, (count, channels), rng)),
        level=_single(rng.uniform(0, 1, (count, channels))),
        noise=_single(rng.uniform(0, MAX_NOISE, count)),
        seed=rng.integers(-(2**31), 2**31, count, dtype=np.int32),
        swelling=_single(rng.uniform(-MAX_SWELLING, MAX_SWELLING, count)),
        shift=rng.integers(size // 8, size * 7 // 8, (count, 2)),
        from_donor=rng.integers(2, size=count) == 1,
    )
    return Lesions._make(torch.as_tensor(value) for value in values)


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def signed_changes(recipe: Recipe, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """How much lesions change each channel (lesions, channels), up or down; 0 where a channel does not show them."""
    if recipe.logarithmic:
        sizes = np.exp(rng.uniform(*np.log(recipe.change), shape))
    else:
        sizes = rng.uniform(*recipe.change, shape)
    return sizes * (rng.random(shape) < SHIFTED_CHANNELS) * rng.choice((-1, 1), shape)
