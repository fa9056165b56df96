"""The lesions of graded strength that DISYRE is trained by: foreign tissue and shifted intensities in soft shapes.

Naval Marimont et al., "DISYRE: diffusion-inspired synthetic restoration for unsupervised anomaly detection", ISBI 2024,
and "Ensembled cold-diffusion restorations for unsupervised anomaly detection", MICCAI 2024. A shape s in [0, 1] is
drawn; inside it an image x becomes, with strengths alpha and beta, each uniform in (0, 1),

    x_1 = x + alpha s (y - x)                    y: another healthy image, brought to the range that x has there
    x_2 = clip(x_1 + sign beta s q, 0, 1)        q: where x_1 is one of a few drawn levels of intensity, smoothed

and the strength of the whole is the greater one of alpha (0 where nothing changed) and max |x_2 - x_1|.

Lengths are in units of the image size, so that an image of 128 pixels has the published ones. Departures: irregular
shapes are blobs with random outlines in place of stored ones; every channel has its own range, sign and levels.
"""

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uad.data.training.corruption import drawn_by_chance
from uad.data.training.fields import interpolated
from uad.data.training.parameters import on_device

RECTANGLE, DISC, BLOB = range(3)
# Sides and diameters of shapes, how far their centres stay from the border, and the width that blurs levels.
SIDES = (10 / 128, 44 / 128)
MARGIN = 1 / 4
LEVEL_BLUR = 1 / 128
# Whole pixels at 128, each as likely.
SHAPE_BLURS = (0, 1 / 128, 2 / 128, 3 / 128, 4 / 128)
BLURRED, ROTATED, MAX_ANGLE = 0.7, 0.5, 15 * pi / 180
# Points a side of the random field that makes the outlines of blobs irregular, and its deviation in radii.
OUTLINE, IRREGULARITY = 8, 0.35
LEVELS = 5
ITERATIONS = 50
# So many pixels at 128 x 128 are added to those of a shape: in small shapes fewer levels are drawn.
RARE = 1000 / 128**2
# Keeps a constant donor from being divided by 0.
LEAST_RANGE = 1e-3
KERNEL_REACH = 4


class Corruptions(NamedTuple):
    """What is done to each of N images of C channels; on the CPU.

    place (N, 1) float64 in [0, 1): of the centre among the possible ones; kind (N,) int64: RECTANGLE, DISC or BLOB;
    sides (N, 2): height and width, in image sizes; angle (N,) in radians; outline (N, 8, 8), by how many radii it lies
    further out; blur (N,): standard deviation, in image sizes; donor (N,) int64: its number; from_place (N, 2) in
    [0, 1): where in it the tissue comes from; mirrored (N, 2) bool, up-down and left-right; foreign, shifted (N,) in
    [0, 1): the two strengths; sign (N, C): -1 or 1; chance (N, C, LEVELS) in [0, 1): a level is drawn where its share
    is larger.
    """

    place: Tensor
    kind: Tensor
    sides: Tensor
    angle: Tensor
    outline: Tensor
    blur: Tensor
    donor: Tensor
    from_place: Tensor
    mirrored: Tensor
    foreign: Tensor
    shifted: Tensor
    sign: Tensor
    chance: Tensor


def drawn_corruptions(seeds: Sequence[int], channels: int, donors: int) -> Corruptions:
    """Random corruptions, row i a function of seed i; donors: how many images there are to take tissue from."""
    rows = [_drawn(np.random.default_rng(seed), channels, donors) for seed in seeds]
    return Corruptions._make(map(torch.stack, zip(*rows, strict=True)))


def _drawn(rng: np.random.Generator, channels: int, donors: int) -> Corruptions:
    kind = rng.integers(3)
    sides = rng.uniform(*SIDES, 2)
    values = Corruptions(
        place=rng.random(1),
        kind=kind,
        sides=np.float32(sides[:1].repeat(2) if kind == DISC else sides),
        angle=np.float32(rng.uniform(-MAX_ANGLE, MAX_ANGLE) * (rng.random() < ROTATED)),
        outline=np.float32(rng.normal(0, IRREGULARITY, (OUTLINE, OUTLINE))),
        blur=np.float32(rng.choice(SHAPE_BLURS) * (rng.random() < BLURRED)),
        donor=rng.integers(donors),
        from_place=np.float32(rng.random(2)),
        mirrored=rng.random(2) < 0.5,
        foreign=np.float32(rng.random()),
        shifted=np.float32(rng.random()),
        sign=np.float32(rng.choice((-1, 1), channels)),
        chance=np.float32(rng.random((channels, LEVELS))),
    )
    return Corruptions._make(map(torch.as_tensor, values))


def corrupted(images: Tensor, donors: Tensor, levels: Tensor, corruptions: Corruptions) -> tuple[Tensor, Tensor]:
    """Corrupted copies of healthy images (N, C, S, S) in [0, 1], and the strengths (N,) in [0, 1].

    donors: uint8 (M, C, S, S), on the CPU; levels: (C, LEVELS), see `intensity_levels`. Outside the shapes, and where
    an image is 0 in all channels, nothing changes.
    """
    with torch.autocast(images.device.type, enabled=False):
        return _corrupted(images, donors, levels, corruptions)


def _corrupted(images: Tensor, donors: Tensor, levels: Tensor, corruptions: Corruptions) -> tuple[Tensor, Tensor]:
    there = on_device(corruptions, images.device)
    centres = _centres(images, there)
    shapes = _shapes(there, centres, images.shape[-1]) * (images > 0).any(1)
    foreign = _matched(_tissue(donors, corruptions, centres), images, shapes > 0)
    first = images + (there.foreign[:, None] * shapes.flatten(1)).view_as(shapes)[:, None] * (foreign - images)
    second = _shifted(first, shapes, levels.to(images), there)
    changed = (first != images).flatten(1).any(1)
    return second, torch.maximum(there.foreign * changed, (second - first).abs().flatten(1).amax(1))


def _centres(images: Tensor, corruptions: Corruptions) -> Tensor:
    """Rows and columns (N, 2): any foreground pixels away from the border, or any pixels there if none is."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    inner = (pixels >= MARGIN * size) & (pixels < size - MARGIN * size)
    inner = (inner[:, None] & inner).expand(len(images), -1, -1)
    chances = (images > 0).any(1) & inner
    chances = torch.where(chances.flatten(1).any(1)[:, None, None], chances, inner)
    return drawn_by_chance(chances.float(), corruptions.place)[:, 0]


def _shapes(corruptions: Corruptions, centres: Tensor, size: int) -> Tensor:
    """The shapes (N, S, S) in [0, 1]."""
    pixels = torch.arange(size, dtype=torch.float32, device=centres.device)
    y, x = (pixels - centres[:, axis, None] for axis in (0, 1))
    cos, sin = corruptions.angle.cos()[:, None, None], corruptions.angle.sin()[:, None, None]
    radii = corruptions.sides * size / 2
    down = (cos * y[:, :, None] - sin * x[:, None]) / radii[:, 0, None, None]
    right = (sin * y[:, :, None] + cos * x[:, None]) / radii[:, 1, None, None]
    distance = torch.hypot(down, right)
    candidates = torch.stack(
        [
            torch.maximum(down.abs(), right.abs()) <= 1,
            distance <= 1,
            distance <= 1 + interpolated(corruptions.outline, size, align_corners=False),
        ],
        1,
    )
    rows = torch.arange(len(centres), device=centres.device)
    return _blurred(candidates[rows, corruptions.kind].float(), corruptions.blur * size)


def _blurred(fields: Tensor, sigmas: Tensor) -> Tensor:
    """Fields (N, S, S), each smoothed by a Gaussian of its own sigma (N,) in pixels; 0: as it is. Beyond the border
    nothing counts."""
    pixels = torch.arange(fields.shape[-1], dtype=torch.float32, device=fields.device)
    distance = (pixels[:, None] - pixels).abs()
    sigmas = sigmas[:, None, None]
    weights = torch.exp(-0.5 * (distance / sigmas.clamp_min(1e-6)) ** 2) * (distance <= KERNEL_REACH * sigmas)
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights @ fields @ weights.mT).clamp(0, 1)


def _tissue(donors: Tensor, corruptions: Corruptions, centres: Tensor) -> Tensor:
    """Donor images (N, C, S, S) in [0, 1], mirrored and moved so that a place of theirs lies at the centre."""
    size = donors.shape[-1]
    chosen = donors[corruptions.donor].to(centres.device).float() / 255
    pixels = torch.arange(size, device=centres.device)
    there = on_device(corruptions, centres.device)
    place = ((MARGIN + (1 - 2 * MARGIN) * there.from_place) * size).long()
    source = (pixels - (centres - place)[:, :, None]) % size
    source = torch.where(there.mirrored[:, :, None], size - 1 - source, source)
    rows = torch.arange(len(chosen), device=centres.device)[:, None, None]
    return chosen.movedim(1, -1)[rows, source[:, 0, :, None], source[:, 1, None]].movedim(-1, 1)


def _matched(tissue: Tensor, images: Tensor, inside: Tensor) -> Tensor:
    """Tissue (N, C, S, S) with the least and the greatest intensity that the image has inside (N, S, S) bool, per
    channel; outside the image itself."""
    inside = inside[:, None]

    def ends(values: Tensor) -> tuple[Tensor, Tensor]:
        low = values.masked_fill(~inside, torch.inf).amin((2, 3), keepdim=True)
        return low, values.masked_fill(~inside, -torch.inf).amax((2, 3), keepdim=True)

    (low, high), (lowest, highest) = ends(tissue), ends(images)
    matched = (tissue - low) / (high - low + LEAST_RANGE) * (highest - lowest) + lowest
    return torch.where(inside, matched.clamp(0, 1), images)


def _shifted(images: Tensor, shapes: Tensor, levels: Tensor, corruptions: Corruptions) -> Tensor:
    """Images (N, C, S, S) whose intensities of some levels (C, LEVELS) are shifted inside the shapes (N, S, S)."""
    size = images.shape[-1]
    nearest = (images[..., None] - levels[:, None, None]).abs().argmin(-1)
    members = nearest[..., None] == torch.arange(LEVELS, device=images.device)
    counts = (members & (shapes > 0)[:, None, ..., None]).sum((2, 3))
    drawn = corruptions.chance < counts / (counts.sum(-1, keepdim=True) + RARE * size**2)
    drawn |= ~drawn.any(-1, keepdim=True)
    chosen = (members & drawn[:, :, None, None]).any(-1).flatten(0, 1).float()
    blur = torch.full((len(chosen),), LEVEL_BLUR * size, device=images.device)
    selected = _blurred(chosen, blur).view_as(images)
    change = (corruptions.sign * corruptions.shifted[:, None])[:, :, None, None] * shapes[:, None] * selected
    return (images + change).clamp(0, 1)


def intensity_levels(images: Tensor) -> Tensor:
    """The means (C, LEVELS) of clusters of the intensities above 0 of images (N, C, S, S), ascending: k-means in one
    dimension, by Lloyd's algorithm from the quantiles; equally spaced in a channel that is 0 everywhere."""
    return torch.stack([_levels(channel[channel > 0].double()) for channel in images.movedim(1, 0)]).float()


def _levels(values: Tensor) -> Tensor:
    middles = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    if not len(values):
        return middles
    ordered = values.sort().values
    means = ordered[(middles * len(ordered)).long()]
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    for _ in range(ITERATIONS):
        borders = torch.searchsorted(ordered, (means[1:] + means[:-1]) / 2)
        ends = torch.cat([borders.new_zeros(1), borders, borders.new_tensor([len(ordered)])])
        counts = ends.diff()
        # A level that no intensity is nearest to stays.
        means = torch.where(counts > 0, sums[ends].diff() / counts.clamp_min(1), means)
    return means
