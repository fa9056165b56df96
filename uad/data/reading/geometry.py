"""Grids of voxels in the patient's space: orientation, spacing, and whether two grids are one.

Every volume is brought to one orientation by its affine, that of the BraTS release: axes to the patient's left, to the
back and to the head (LPS). It takes flips and exchanges of axes only, so that no value changes.
"""

from itertools import product
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

CANONICAL = "LPS"
# Two grids are one where no voxel lies further from its partner than this share of the smallest voxel side.
SAME_GRID = 0.5
# From which angle between voxel axes and the patient's axes a volume is called oblique, in degrees.
OBLIQUE = 1.0
# Voxel sides in millimetres, from ex vivo microscopy of mice to thick slices: others are in metres or microns.
SIDES = (0.01, 50.0)
# By so much, in voxels, a place may miss a border by rounding.
ROUNDING = 1e-3


class Grid(NamedTuple):
    """Where voxels lie. shape: voxels along the three axes; affine: (4, 4), voxel index to millimetres in RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sides in millimetres."""
        return tuple(float(side) for side in nib.affines.voxel_sizes(self.affine))

    @property
    def orientation(self) -> str:
        """Where the axes run to, in the nearest directions of the patient, such as "LAS"."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def obliquity(self) -> float:
        """The greatest angle between a voxel axis and the patient's axis nearest to it, in degrees."""
        return float(np.degrees(nib.affines.obliquity(self.affine)).max())

    def __str__(self) -> str:
        corner = ", ".join(f"{value:.4g}" for value in self.affine[:3, 3])
        tilt = f", oblique by {self.obliquity:.1f} degrees" if self.obliquity >= OBLIQUE else ""
        return (
            f"{by(self.shape)} voxels of {by(self.spacing)} mm, axes {self.orientation}{tilt}, "
            f"the first voxel at ({corner})"
        )


def by(numbers) -> str:
    """Numbers as "240 x 240 x 155"."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def affine_fault(affine: np.ndarray) -> str | None:
    """Why an affine places no voxels, None where it does."""
    if not np.isfinite(affine).all():
        return "an affine with NaN or infinite entries"
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not (columns > 0).all() or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        return "an affine whose axes do not span the space"
    return None


def size_fault(grid: Grid) -> str | None:
    """Why voxels cannot be of a scan, by their sides in millimetres (see SIDES); None where they can."""
    low, high = SIDES
    return None if all(low <= side <= high for side in grid.spacing) else f"voxels of {by(grid.spacing)} mm"


def to_canonical(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view of values (X, Y, Z, ...) with their first three axes turned to LPS, and the affine there."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), _canonical())
    turned = nib.orientations.apply_orientation(values, turn)
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, values.shape[:3])


def canonical_axes(affine: np.ndarray) -> tuple[tuple[int, bool], ...]:
    """Of each axis that `to_canonical` gives: which of the volume's it was, and whether it runs the other way now."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), _canonical())
    axes = {int(onto): (axis, direction < 0) for axis, (onto, direction) in enumerate(turn)}
    return tuple((axis, bool(turned)) for _, (axis, turned) in sorted(axes.items()))


def from_canonical(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The inverse of `to_canonical` for values on the grid that it gave; affine: that of the volume before it."""
    turn = nib.orientations.ornt_transform(_canonical(), nib.io_orientation(affine))
    return nib.orientations.apply_orientation(values, turn)


def _canonical() -> np.ndarray:
    return nib.orientations.axcodes2ornt(CANONICAL)


def canonical_grid(grid: Grid) -> Grid:
    """The grid after `to_canonical`."""
    values = np.broadcast_to(np.uint8(0), grid.shape)
    turned, affine = to_canonical(values, grid.affine)
    return Grid(turned.shape, affine)


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether voxels of the same index lie at the same place (see SAME_GRID); shapes must be equal."""
    return one.shape == other.shape and displacement(one, other) <= SAME_GRID * min(one.spacing)


def displacement(one: Grid, other: Grid) -> float:
    """How far apart, in millimetres, two grids place a voxel of `one`, at most."""
    corners = np.array([[*corner, 1] for corner in product(*((0, size - 1) for size in one.shape))], dtype=float)
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())


def reach(own: Grid, grid: Grid) -> np.ndarray:
    """Where the voxels of one grid reach on another: (X, Y, Z) bool of `grid`, True where a voxel's centre lies in the
    field of view of `own`, whose border is that of its outermost voxels.
    """
    to_index = np.linalg.inv(own.affine) @ grid.affine
    places = np.ogrid[tuple(slice(size) for size in grid.shape)]
    inside = np.ones(grid.shape, dtype=bool)
    for row, size in zip(to_index[:3], own.shape, strict=True):
        index = row[0] * places[0] + row[1] * places[1] + row[2] * places[2] + row[3]
        inside &= (index >= -0.5 - ROUNDING) & (index <= size - 0.5 + ROUNDING)
    return inside


def resample(values: np.ndarray, affine: np.ndarray, grid: Grid, nearest: bool = False) -> np.ndarray:
    """Values (X, Y, Z) at the voxels of another grid: linear, or the nearest; beyond their reach that of their
    background, 0 unless half of the volume's border is below 0.
    """
    to_index = np.linalg.inv(affine) @ grid.affine
    placed = ndimage.affine_transform(
        values, to_index[:3, :3], to_index[:3, 3], grid.shape, order=0 if nearest else 1, mode="nearest"
    )
    # Interpolation leaves a few values below 0 in raw images, too: the lowest value is no background.
    border = np.concatenate([np.take(values, (0, -1), axis).ravel() for axis in range(3)])
    placed[~reach(Grid(values.shape, affine), grid)] = min(0.0, float(np.median(border)))
    return placed


def touched(mask: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """The voxels of another grid in which something of a mask (X, Y, Z) lies: (X, Y, Z) bool of `grid`.

    Sampling a mask at the centres of larger voxels misses what lies between them. Here every marked voxel marks the
    voxels nearest to points within it, a quarter of its sides from its centre, and those whose centre it holds.
    """
    to_index = np.linalg.inv(grid.affine) @ affine
    found = resample(mask, affine, grid, nearest=True) > 0
    marked = np.argwhere(mask)
    for point in product((-0.25, 0.25), repeat=3):
        index = np.rint((marked + point) @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
        inside = ((index >= 0) & (index < grid.shape)).all(1)
        found[tuple(index[inside].T)] = True
    return found
