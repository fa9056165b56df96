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


def resample(values: np.ndarray, affine: np.ndarray, grid: Grid, nearest: bool = False) -> np.ndarray:
    """Values (X, Y, Z) at the voxels of another grid: linear, or the nearest; outside the field of view 0, or the
    lowest value where that is negative.
    """
    to_index = np.linalg.inv(affine) @ grid.affine
    order, outside = (0 if nearest else 1), min(0.0, float(values.min()))
    return ndimage.affine_transform(
        values, to_index[:3, :3], to_index[:3, 3], grid.shape, order=order, mode="constant", cval=outside
    )
