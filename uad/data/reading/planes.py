"""Axial slices of volumes as squares of pixels of one size, and what was found there back on the volume's grid.

Volumes are in the orientation of uad.data.reading.geometry: the first axis becomes the slice's H, the second its W.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from uad.data.reading.geometry import by
from uad.data.reading.normalise import foreground_of
from uad.data.reading.tissue import BRIGHT_PERCENTILE, SHARE_OF_THRESHOLD, body_mask, otsu
from uad.errors import ValueProblem

# Pixels of the plane before any reduction, as in the authors' line of work: BraTS's 240 with 8 more on each side.
PLANE = 256
# A spacing that differs by less than this share is taken for the stated one: rounding of headers.
SAME_SPACING = 1e-3
# A slice with less than this share of bright pixels does not show the patient.
LEAST_SIGNAL = 0.005
# A body of so many times the bright pixels is noise; of 1,866 slices of real heads none had twice as many.
MOST_OF_BRIGHT = 4


@dataclass(frozen=True)
class Framing:
    """How planes become squares: what a prepared folder states and a model needs again.

    spacing: millimetres of a pixel of the plane, None to keep each volume's own; img_size: the square's side, PLANE or
    PLANE over a whole number, which takes the mean over blocks of pixels.
    """

    spacing: float | None = 1.0
    img_size: int = PLANE

    @property
    def factor(self) -> int:
        """The side of a block."""
        return PLANE // self.img_size


@dataclass(frozen=True)
class Plane:
    """One volume's planes (X, Y) and their square (S, S).

    shape: (X, Y); step: voxels a pixel of the plane, along X and Y; start: the plane's pixel at which the resampled
    volume begins, along each; negative where its border is cut off.
    """

    framing: Framing
    shape: tuple[int, int]
    step: tuple[float, float]
    start: tuple[int, int]

    def squares(self, planes: np.ndarray) -> np.ndarray:
        """(C, X, Y) to (C, S, S) float32: resampled with a triangle filter, as wide as the larger pixel of both grids,
        padded with the intensity of no signal (0, unless standardised) or cropped, and reduced to the mean over blocks.
        """
        values = planes.astype(np.float32)
        no_signal = foreground_of(values)[1]
        if self.step != (1.0, 1.0):
            rows, columns = (_triangles(*each) for each in zip(self.shape, self.step, strict=True))
            values = (rows @ values.astype(np.float64) @ columns.T).astype(np.float32)
        values = values[:, max(0, -self.start[0]) :, max(0, -self.start[1]) :]
        before = [max(0, start) for start in self.start]
        values = values[:, : PLANE - before[0], : PLANE - before[1]]
        framed = np.broadcast_to(no_signal[:, None, None], (len(values), PLANE, PLANE)).astype(np.float32)
        height, width = values.shape[1:]
        framed[:, before[0] : before[0] + height, before[1] : before[1] + width] = values
        size, factor = self.framing.img_size, self.framing.factor
        return framed.reshape(len(values), size, factor, size, factor).mean((2, 4), dtype=np.float32)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(X, Y) bool to (S, S) uint8: 1 where at least half of a pixel is marked."""
        return (self.squares(mask[None])[0] >= 0.5).astype(np.uint8)

    def back(self, squares: np.ndarray) -> np.ndarray:
        """(..., S, S) to (..., X, Y): linear between the pixels' centres, 0 where the square does not reach."""
        rows, columns = (self._weights_back(axis) for axis in (0, 1))
        return (rows @ squares.astype(np.float64) @ columns.T).astype(np.float32)

    def affine(self, affine: np.ndarray, level: int) -> np.ndarray:
        """(4, 4) of the square of slice `level`, for the volume's: (h, w, 0) to where the pixel's centre lies."""
        step = [each * self.framing.factor for each in self.step]
        to_volume = np.diag([*step, 1.0, 1.0])
        to_volume[:3, 3] = [*(self._voxel(0, axis) for axis in (0, 1)), level]
        return affine @ to_volume

    def notices(self, spacing: Sequence[float]) -> list[str]:
        """What becomes of the slices beyond padding, in words; spacing: of the volume's voxels, in millimetres."""
        notices = []
        if self.step != (1.0, 1.0):
            notices.append(f"slices of {by(spacing[:2])} mm pixels resampled to {self.framing.spacing:g} mm")
        if min(self.start) < 0:
            notices.append(f"cropped to the {PLANE} x {PLANE} pixels around the body")
        return notices

    def _voxel(self, pixel: float, axis: int) -> float:
        """Where along X or Y, in voxels, the centre of a square's pixel lies."""
        factor, step = self.framing.factor, self.step[axis]
        return (pixel * factor + (factor - 1) / 2 - self.start[axis]) * step + (step - 1) / 2

    def _weights_back(self, axis: int) -> np.ndarray:
        """(X, S): how each voxel along an axis is made of the square's pixels."""
        size = self.framing.img_size
        pixels = (np.arange(self.shape[axis]) - self._voxel(0, axis)) / (self.step[axis] * self.framing.factor)
        inside = (pixels >= -0.5) & (pixels <= size - 0.5)
        lower = np.clip(np.floor(pixels).astype(int), 0, size - 2)
        upper_share = np.clip(pixels - lower, 0, 1) * inside
        weights = np.zeros((len(pixels), size))
        voxels = np.arange(len(pixels))
        weights[voxels, lower] = inside - upper_share
        weights[voxels, lower + 1] = upper_share
        return weights


def plane_of(brains: np.ndarray, spacing: tuple[float, float], framing: Framing) -> Plane:
    """How the slices of a volume are framed: its centre in the plane's, moved where the plane is smaller and would cut
    the patient.

    brains: (X, Y, Z) bool, see brains_of; spacing: millimetres of a voxel along X and Y. Raises ValueProblem where
    the body is larger than the plane.
    """
    step = tuple(_step(side, framing.spacing) for side in spacing)
    shape = brains.shape[:2]
    resampled = [_resampled_size(*each) for each in zip(shape, step, strict=True)]
    start = [(PLANE - size) // 2 for size in resampled]
    if max(resampled) > PLANE:
        for axis, (low, high) in enumerate(_body_extent(brains)):
            first, last = int(low / step[axis]), int(np.ceil(high / step[axis]))
            if last - first > PLANE:
                pixel = spacing[axis] * step[axis]
                found = f"a body of {last - first} pixels of {pixel:g} mm, more than the {PLANE} of a slice"
                remedy = f"pass a larger --spacing, so that {PLANE} pixels hold the body"
                raise ValueProblem(found, "slices that hold the body", remedy)
            if resampled[axis] > PLANE:
                start[axis] = min(max(start[axis], -first), PLANE - last)
    return Plane(framing, tuple(shape), step, tuple(start))


def _step(side: float, spacing: float | None) -> float:
    if spacing is None or abs(spacing / side - 1) < SAME_SPACING:
        return 1.0
    return spacing / side


def _resampled_size(size: int, step: float) -> int:
    """Pixels of `step` voxels that cover `size` voxels; a sliver of less than a tenth of a pixel needs none."""
    return size if step == 1.0 else max(1, int(np.ceil(size / step - 0.1)))


def _triangles(size: int, step: float) -> np.ndarray:
    """(N, size): how each pixel of `step` voxels is made of voxels, by a triangle around its centre."""
    centres = (np.arange(_resampled_size(size, step)) + 0.5) * step - 0.5
    distances = np.abs(np.arange(size)[None, :] - centres.clip(0, size - 1)[:, None])
    weights = (1 - distances / max(1.0, step)).clip(0)
    return weights / weights.sum(1, keepdims=True)


def _body_extent(brains: np.ndarray) -> list[tuple[int, int]]:
    """First and past-the-last voxel of the patient (X, Y, Z) along X and Y; all where there is none."""
    inside = brains.any(2)
    extent = []
    for axis in (1, 0):
        there = np.flatnonzero(inside.any(axis))
        extent.append((int(there[0]), int(there[-1]) + 1) if there.size else (0, inside.shape[1 - axis]))
    return extent


def brains_of(images: np.ndarray) -> np.ndarray:
    """The patient in a volume (C, X, Y, Z), (X, Y, Z) bool: what is no background where that was removed (see
    foreground_of, asked of the whole volume), else the body in every slice that shows some of it.

    A slice with little or nothing of the patient holds noise, in which a slice alone would see a body: what is bright
    is judged by the whole volume.
    """
    size = images.shape[1:]
    foreground = foreground_of(images.reshape(len(images), size[0], -1))[0].reshape(size)
    if not foreground.all():
        return foreground
    scaled = []
    for channel in images:
        top = np.percentile(channel, BRIGHT_PERCENTILE)
        scaled.append((channel / top).clip(0, 1) if top > 0 else np.zeros(size, dtype=np.float32))
    typical = ndimage.uniform_filter(np.median(scaled, axis=0), (3, 3, 1))
    bright = typical > SHARE_OF_THRESHOLD * otsu(typical[typical > 0]) if typical.max() > 0 else typical > 0
    brains = np.zeros(size, dtype=bool)
    for level in np.flatnonzero(bright.mean((0, 1)) >= LEAST_SIGNAL):
        body, there = body_mask(images[..., level].clip(0)), bright[..., level]
        brains[..., level] = body if body.sum() <= MOST_OF_BRIGHT * there.sum() else there
    return brains
