"""Synthetic lesions on healthy images: smooth blobs in which the tissue is not what it should be.

They stand for no particular disease. A network that is shown such images and asked for the healthy ones learns what is
out of place, where noise alone only teaches it what is improbable bit by bit.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from uad.data.reading.tissue import AIR
from uad.data.training.fields import box_mean, interpolated, normal_noise
from uad.data.training.lesions import KINDS, NONE, Lesions, Recipe
from uad.data.training.parameters import each, in_pieces, on_device

# Chances are counted in such steps: sums of integers are the same on every device and in every order.
STEPS = 2**20


def corrupted(images: Tensor, donors: Tensor, lesions: Lesions, recipe: Recipe) -> Tensor:
    """Copies of healthy images (N, C, S, S) in [0, 1] with lesions inside their foregrounds.

    Each lesion is one of: intensities shifted, differently in every channel; replaced by a constant with noise;
    blurred; taken from another place of the image itself or of its donor (N, C, S, S), another healthy image; swollen
    or shrunken. What becomes of an image does not depend on the others. recipe: by which the lesions were drawn.
    """
    return in_pieces(partial(_corrupted, by_brightness=recipe.by_brightness), images, donors, lesions)


@dataclass(frozen=True)
class _Group:
    """Lesions (M) that are painted at once: one of an image at most.

    drawn, there: their parameters on the host and on the images' device; index: of their images, on the host; rows: the
    same on the device; centres (M, 2): row and column; blobs (M, S, S) in [0, 1].
    """

    drawn: Lesions
    there: Lesions
    index: Tensor
    rows: Tensor
    centres: Tensor
    blobs: Tensor

    def between(self, first: int, end: int) -> "_Group":
        """Those from `first` to before `end`."""
        own = {name: each(lambda value: value[first:end], value) for name, value in vars(self).items()}
        return replace(self, **own)


def _corrupted(images: Tensor, donors: Tensor, lesions: Lesions, by_brightness: bool) -> Tensor:
    placed, runs = _placed(images, lesions, by_brightness)
    changed = images.clone()
    for kind, first, end in runs:
        group = placed.between(first, end)
        changed.index_copy_(0, group.rows, _painted(kind, changed[group.rows], group, images, donors))
    return changed.clamp_(0, 1)


def _placed(images: Tensor, lesions: Lesions, by_brightness: bool) -> tuple[_Group, list[tuple[str, int, int]]]:
    """All lesions that are there, in the order of painting, and which are painted at once: kind, first and end.

    The host knows the kinds: without waiting for the device it takes those of a kind together, but an image's own
    lesions one after the other.
    """
    slots = lesions.kind.shape[1]
    keys = (torch.arange(slots) * len(KINDS) + lesions.kind).masked_fill(lesions.kind == NONE, NONE).flatten()
    order = keys.argsort(stable=True)[int((keys == NONE).sum()) :]
    drawn = each(lambda value: value.flatten(0, 1)[order], lesions)
    there = on_device(drawn, images.device)
    which, place = (on_device(value, images.device) for value in (order, lesions.place))
    rows, foreground = which // slots, (images > AIR).any(1)
    chances = images.mean(1) * foreground if by_brightness else foreground.float()
    centres = drawn_by_chance(chances, place).flatten(0, 1)[which]
    blobs = _blobs(there, centres, images.shape[-1]).mul_(foreground[rows])
    values, lengths = keys[order].unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0).tolist()
    runs = [
        (KINDS[value % len(KINDS)], end - length, end)
        for value, length, end in zip(values.tolist(), lengths.tolist(), ends, strict=True)
    ]
    return _Group(drawn, there, order // slots, rows, centres, blobs), runs


def drawn_by_chance(chances: Tensor, place: Tensor) -> Tensor:
    """Rows and columns (N, B, 2) of pixels of images by their chances (N, S, S) in [0, 1]; place (N, B): see Lesions.

    Any pixel where all chances are 0.
    """
    size = chances.shape[-1]
    total = (chances * STEPS).long().flatten(1).cumsum(1)
    wanted = (place * total[:, -1:]).long()
    chosen = torch.searchsorted(total, wanted, right=True).clamp_(max=size**2 - 1)
    return torch.stack((chosen // size, chosen % size), -1)


def _blobs(lesions: Lesions, centres: Tensor, size: int) -> Tensor:
    """Soft masks (M, S, S) in [0, 1]: ellipses with irregular outlines."""
    y, x = _offsets(centres, size)
    cos, sin = lesions.angle.cos()[:, None], lesions.angle.sin()[:, None]
    stretch, radius = lesions.stretch[:, None], size * lesions.radius[:, None]
    # Scaled while they are a row and a column each, before they are added up to squares.
    along = [value / (stretch * radius) for value in (cos * x, sin * y)]
    across = [value * stretch / radius for value in (-sin * x, cos * y)]
    distance, other = (columns[:, None] + rows[:, :, None] for columns, rows in (along, across))
    distance = distance.square_().add_(other.square_()).sqrt_()
    outline = interpolated(lesions.outline, size, align_corners=False).add_(1)
    return outline.sub_(distance).mul_((2 / lesions.softness)[:, None, None]).sigmoid_()


def _offsets(centres: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How far rows and columns (M, S) lie from the centres (M, 2), in pixels."""
    pixels = torch.arange(size, dtype=torch.float32, device=centres.device)
    return pixels - centres[:, :1], pixels - centres[:, 1:]


def _painted(kind: str, current: Tensor, group: _Group, images: Tensor, donors: Tensor) -> Tensor:
    """Images (M, C, S, S) with a lesion more; images, donors: all healthy ones."""
    lesions = group.there
    if kind == "swollen":
        return swollen(current, group.blobs, group.centres, lesions.swelling)
    if kind == "shifted":
        change = current + lesions.change[:, :, None, None]
    elif kind == "replaced":
        noise = normal_noise(lesions.seed, current.shape[1:]).mul_(lesions.noise[:, None, None, None])
        change = noise.add_(lesions.level[:, :, None, None])
    elif kind == "blurred":
        # Squares of a sixteenth of the image size.
        change = box_mean(current, max(1, current.shape[-1] // 32))
    else:
        change = _displaced(group, images, donors)
    return torch.lerp(current, change, group.blobs[:, None])


def _displaced(group: _Group, images: Tensor, donors: Tensor) -> Tensor:
    """The healthy images or their donors, shifted."""
    drawn = group.drawn
    chosen = zip(group.index.tolist(), drawn.from_donor.tolist(), drawn.shift.tolist(), strict=True)
    return torch.stack([(images, donors)[donated][row].roll(shift, (1, 2)) for row, donated, shift in chosen])


def swollen(images: Tensor, blobs: Tensor, centres: Tensor, swelling: Tensor) -> Tensor:
    """Every position shows what lies nearer to the centre by the share blob * swelling (further away: negative).

    images (M, C, S, S), blobs (M, S, S), centres (M, 2): row and column, swelling (M,).
    """
    size = images.shape[-1]
    y, x = _offsets(centres, size)
    pixels = torch.arange(size, dtype=torch.float32, device=images.device)
    nearer = swelling[:, None, None] * blobs
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and last pixel.
    columns = (2 * (pixels - nearer * x[:, None]) + 1) / size - 1
    rows = (2 * (pixels[:, None] - nearer * y[:, :, None]) + 1) / size - 1
    grid = torch.stack((columns, rows), -1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
