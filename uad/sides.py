"""Left and right: healthy anatomy is much alike on both sides of the body, a lesion is mostly on one.

What a map finds at a place counts by its share of what it finds there and at the mirrored place together (equation 22
of docs/METHOD.md): all of it where the other side shows nothing, half of it where both sides show the same, as
ventricles and the skull's base do. The mirror is the line through the middle of the body.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from uad.data.reading.folder import left_right_axis
from uad.data.reading.tissue import AIR


def one_sided(maps: Tensor, images: Tensor, affines: Sequence[np.ndarray], names: Sequence[str]) -> Tensor:
    """Maps (N, S, S) >= 0 of images (N, C, S, S) in [0, 1], less where the other side shows as much; zeros stay so.

    affines: (4, 4) of each image, which tell along which of its axes left and right lie. A place whose mirrored one
    lies outside the image keeps its value. A map does not depend on the others. Raises InputError that names an image
    without left and right.
    """
    axes = [left_right_axis(affine, name, "compare_sides") for affine, name in zip(affines, names, strict=True)]
    if 0 not in axes:
        return _across_columns(maps, images)
    if 1 not in axes:
        return _across_columns(maps.mT, images.mT).mT
    alone = zip(maps.split(1), images.split(1), affines, names, strict=True)
    return torch.cat([one_sided(*one, [affine], [name]) for *one, affine, name in alone])


def _across_columns(maps: Tensor, images: Tensor) -> Tensor:
    """one_sided, with left and right along the columns of every image."""
    columns = torch.arange(maps.shape[-1], device=maps.device)
    mirrored = _columns_mirrored_to_first(images)[:, None] - columns
    inside = (mirrored >= 0) & (mirrored < len(columns))
    chosen = mirrored.clamp(0, len(columns) - 1)[:, None].expand_as(maps)
    other = maps.gather(2, chosen) * inside[:, None]
    return maps * (maps / (maps + other).clamp_min(torch.finfo(maps.dtype).tiny))


def _columns_mirrored_to_first(images: Tensor) -> Tensor:
    """Of each image (N,) int64: the column that mirrors column 0, twice the mean column of its body, rounded.

    Counts are integers, so that no order of a sum decides; where there is no body, the image's own middle mirrors.
    """
    counts = (images > AIR).any(1).sum(1)
    columns = torch.arange(images.shape[-1], device=images.device)
    total = counts.sum(1)
    mirrored = (2 * (counts * columns).sum(1) + total // 2) // total.clamp_min(1)
    return torch.where(total > 0, mirrored, images.shape[-1] - 1)
