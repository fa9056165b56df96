"""Space of the brain phantoms: the BraTS grid, smooth random fields, and the warped MNI152 tissue maps.

All full-size arrays cover `BOX`, the part of the 240 x 240 x 155 volume that can hold the brain. Smooth
fields and displacements are made on coarse grids and brought to full size by trilinear interpolation, which
is what makes a patient cheap.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
from scipy import ndimage

VOLUME_SHAPE = (240, 240, 155)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
BOX_START = (32, 12, 0)
BOX = (176, 216, 155)
COARSE_MM = 4.0
# Volume voxel that shows MNI (0, -17, 0): slice 72 holds the commissures, as in the SRI24 space of BraTS.
CENTRE_VOXEL = np.array([120.0, 120.0, 72.0])
CENTRE_MNI = np.array([0.0, -17.0, 0.0])


class Template(NamedTuple):
    """MNI152 maps on one cropped 1 mm grid.

    maps: (4, X, Y, Z) float32: grey, white, CSF (fractions), periventricular weight (0..1);
    depth: (X, Y, Z) float32, mm below the brain's surface; origin: (3,) MNI mm of voxel (0, 0, 0).
    """

    maps: torch.Tensor
    depth: torch.Tensor
    origin: np.ndarray


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Tissue maps from the files inside the nilearn package; CSF is what grey and white leave of the brain
    mask.
    """
    grey_image = load_mni152_gm_template(resolution=1)
    grey = grey_image.get_fdata(dtype=np.float32)
    white = load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    mask = ndimage.binary_fill_holes(load_mni152_brain_mask(resolution=1).get_fdata(dtype=np.float32) > 0.5)
    crop = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in ndimage.find_objects(mask.astype(np.uint8))[0])
    grey, white, mask = grey[crop] * mask[crop], white[crop] * mask[crop], mask[crop]
    csf = np.clip(mask - grey - white, 0, 1)
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    # Deep CSF above the level of the cerebellum is the ventricular system; its rim carries the FLAIR-bright
    # caps.
    ventricles = (csf > 0.6) & (depth > 22)
    rim = ndimage.gaussian_filter(ventricles.astype(np.float32), 3.0)
    origin = grey_image.affine[:3, 3] + [s.start for s in crop]
    maps = np.stack([grey, white, csf, np.clip(2.0 * rim, 0, 1)]).astype(np.float32)
    return Template(torch.from_numpy(maps), torch.from_numpy(depth), origin)


def coarse_grid() -> np.ndarray:
    """Volume-voxel coordinates of the coarse nodes, (3, x, y, z) float32; the outermost nodes lie on the
    box's rim.
    """
    axes = [
        np.linspace(start, start + size - 1, int(np.ceil(size / COARSE_MM)), dtype=np.float32)
        for start, size in zip(BOX_START, BOX, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def enlarge(field: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Trilinear enlargement of a float32 field (x, y, z) to `shape`, corner nodes on corner voxels."""
    nodes = torch.from_numpy(field)[None, None]
    return F.interpolate(nodes, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def smooth_noise(
    rng: np.random.Generator, length_mm: float, shape: tuple[int, int, int], spacing_mm: float = 1.0
) -> np.ndarray:
    """Gaussian random field of unit variance and correlation length about `length_mm` on a grid of `shape`.

    spacing_mm: distance of the grid's nodes in mm.
    """
    step = max(length_mm / 2 / spacing_mm, 1.0)
    sigma = length_mm / 2 / spacing_mm / step
    nodes = tuple(int(np.ceil(n / step)) + 1 for n in shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(nodes, dtype=np.float32), sigma, mode="wrap", truncate=3)
    noise *= 1 / max(float(noise.std()), 1e-6)
    return enlarge(noise, shape) if nodes != shape else noise


def head_coordinates(rng: np.random.Generator) -> np.ndarray:
    """MNI mm coordinates seen at each coarse node for one patient, (3, x, y, z) float32.

    An affine map (rotation, anisotropic size), a brain torque (the hemispheres' opposite shift, which makes
    left and right differ) and two elastic fields: shape of the head, and course of gyri and nuclei.
    """
    nodes = coarse_grid()
    shape = nodes.shape[1:]
    offset = nodes - CENTRE_VOXEL[:, None, None, None]
    offset[:2] *= -1
    if rng.random() < 0.5:
        offset[0] *= -1
    angles = np.deg2rad(rng.normal(0, [2.5, 2.0, 3.0]))
    linear = _rotation(angles) @ np.diag(1 / rng.normal(1.0, [0.03, 0.03, 0.025]))
    points = np.einsum("ab,bxyz->axyz", linear, offset) + (CENTRE_MNI + rng.normal(0, [1, 2, 1.5]))[:, None, None, None]
    torque = rng.normal(0, 2.0)
    points[0] += torque * np.sin(points[1] / 70)
    points[1] += torque * np.tanh(points[0] / 15)
    for length, amplitude in ((45.0, 3.0), (18.0, 1.8)):
        for axis in range(3):
            points[axis] += amplitude * smooth_noise(rng, length, shape, COARSE_MM)
    return points.astype(np.float32)


def sample_template(
    maps: torch.Tensor, points: np.ndarray, origin: np.ndarray, shape: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Trilinear values of (C, X, Y, Z) maps at MNI mm points (3, x, y, z): (C, x, y, z); zero outside.

    shape: the points are first brought to this size (see `enlarge`), and so is the result.
    """
    size = torch.tensor(maps.shape[1:], dtype=torch.float32)[:, None, None, None]
    shift = torch.from_numpy(np.asarray(origin, dtype=np.float32))[:, None, None, None]
    grid = (torch.from_numpy(points) - shift) * (2 / (size - 1)) - 1
    # grid_sample counts the coordinates from the last axis to the first.
    grid = grid.flip(0)[None]
    if shape is not None:
        grid = F.interpolate(grid, size=shape, mode="trilinear", align_corners=True)
    return F.grid_sample(maps[None], grid.movedim(1, -1), mode="bilinear", align_corners=True)[0].numpy()


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix of three angles in radians about the x, y and z axes, applied in this order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
