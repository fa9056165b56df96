"""Synthetic lesions on healthy images: smooth blobs in which the tissue is not what it should be.

They stand for no particular disease. A network that is shown such images and asked for the healthy ones learns what is
out of place, where noise alone only teaches it what is improbable bit by bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

MAX_BLOBS = 3
# Radii in units of the image size: from a focus of a few pixels to a large tumour.
RADIUS = (0.02, 0.18)
# Size of the random field that makes outlines irregular.
FIELD = 8
MAX_NOISE = 0.1
# Greatest change of local size: tissue swells to or shrinks by 1 / (1 - MAX_SWELLING).
MAX_SWELLING = 0.6


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


def corrupt(image: torch.Tensor, donor: torch.Tensor, rng: np.random.Generator, recipe: str) -> torch.Tensor:
    """A copy of a healthy image (C, S, S) in [0, 1] with one to three lesions inside its foreground.

    Each lesion is one of: intensities shifted, differently in every channel; replaced by a constant with noise;
    blurred; taken from another place of the image itself or of `donor`, another healthy image; swollen or shrunken.
    recipe: a name of RECIPES.
    """
    chosen = RECIPES[recipe]
    foreground = (image > 0.05).any(0)
    brightness = image.mean(0) * foreground
    corrupted = image.clone()
    for _ in range(rng.integers(1, MAX_BLOBS + 1)):
        centre = drawn_by_chance(brightness, rng) if chosen.by_brightness else _anywhere(foreground, rng)
        blob = _blob(centre, image.shape[-1], rng) * foreground
        kind = rng.choice(list(chosen.kinds), p=list(chosen.kinds.values()))
        if kind == "swollen":
            corrupted = swollen(corrupted, blob, centre, rng.uniform(-MAX_SWELLING, MAX_SWELLING))
            continue
        if kind == "shifted":
            size = changes_of(chosen, len(image), rng) * (rng.random(len(image)) < 0.8)
            change = corrupted + _per_channel(size * rng.choice((-1, 1), len(image)))
        elif kind == "replaced":
            noise = rng.normal(0, rng.uniform(0, MAX_NOISE), image.shape).astype(np.float32)
            change = _per_channel(rng.uniform(0, 1, len(image))) + torch.from_numpy(noise)
        elif kind == "blurred":
            change = blurred(corrupted)
        else:
            shift = tuple(int(d) for d in rng.integers(image.shape[-1] // 8, image.shape[-1] * 7 // 8, 2))
            change = (image, donor)[rng.integers(2)].roll(shift, (1, 2))
        corrupted = torch.lerp(corrupted, change, blob)
    return corrupted.clamp(0, 1)


def changes_of(recipe: Recipe, count: int, rng: np.random.Generator) -> np.ndarray:
    """How much a lesion changes each of `count` channels (count,), evenly or evenly by the logarithm."""
    if recipe.logarithmic:
        return np.exp(rng.uniform(*np.log(recipe.change), count))
    return rng.uniform(*recipe.change, count)


def _per_channel(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None]


def blurred(image: torch.Tensor) -> torch.Tensor:
    """The mean over squares of a sixteenth of the image size, over what of them lies in the image."""
    side = 2 * max(1, image.shape[-1] // 32) + 1
    # torch's pooling adds up every square anew: 28 ms for 4 x 256 x 256 pixels, where running sums take 2.
    means = ndimage.uniform_filter(image.numpy(), (0, side, side), mode="constant")
    inside = ndimage.uniform_filter(np.ones(image.shape[1:], np.float32), side, mode="constant")
    return torch.from_numpy(means / inside)


def swollen(image: torch.Tensor, blob: torch.Tensor, centre: tuple[float, float], swelling: float) -> torch.Tensor:
    """Every position shows what lies nearer to the centre by the share blob * swelling (further away: negative)."""
    size = image.shape[-1]
    y, x = (torch.arange(size, dtype=torch.float32) - c for c in centre)
    factor = 1 - swelling * blob
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and last pixel.
    columns = (2 * (centre[1] + factor * x[None]) + 1) / size - 1
    rows = (2 * (centre[0] + factor * y[:, None]) + 1) / size - 1
    grid = torch.stack((columns, rows), -1)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]


def _anywhere(foreground: torch.Tensor, rng: np.random.Generator) -> tuple[float, float]:
    """Row and column of a random pixel of the foreground (S, S); the image's centre where there is none."""
    inside = foreground.nonzero()
    if not len(inside):
        return len(foreground) / 2, len(foreground) / 2
    row, column = inside[rng.integers(len(inside))].tolist()
    return float(row), float(column)


def drawn_by_chance(chances: torch.Tensor, rng: np.random.Generator) -> tuple[float, float]:
    """Row and column of a random pixel by its chances (S, S); the image's centre where all are 0."""
    size = len(chances)
    total = chances.flatten().double().cumsum(0)
    if total[-1] == 0:
        return size / 2, size / 2
    chosen = int(torch.searchsorted(total, rng.random() * float(total[-1]), right=True))
    row, column = divmod(chosen, size)
    return float(row), float(column)


def _blob(centre: tuple[float, float], size: int, rng: np.random.Generator) -> torch.Tensor:
    """A soft mask (S, S) in [0, 1]: an ellipse with an irregular outline."""
    radius = size * np.exp(rng.uniform(*np.log(RADIUS)))
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 2)
    y, x = (torch.arange(size, dtype=torch.float32) - c for c in centre)
    along = np.cos(angle) * x[None] + np.sin(angle) * y[:, None]
    across = np.cos(angle) * y[:, None] - np.sin(angle) * x[None]
    distance = torch.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / radius
    field = torch.from_numpy(rng.normal(0, 0.35, (1, 1, FIELD, FIELD)).astype(np.float32))
    outline = F.interpolate(field, (size, size), mode="bicubic", align_corners=False)[0, 0]
    softness = rng.uniform(0.1, 0.4)
    return torch.sigmoid((1 + outline - distance) / softness * 2)
