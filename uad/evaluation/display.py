"""How a slice is turned for display: the radiological convention, read off the affine."""

import numpy as np


def for_display(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn (..., H, W) so that rows run down and columns across as a radiologist expects; returns (...,
    rows, columns).

    affine: (4, 4), indices (h, w, 0) to millimetres in RAS+ coordinates (x to the patient's right, y
    forwards, z up). Each array axis is taken for the world axis that it mainly follows. Axial: x across
    with the patient's right on the left side, anterior up. Coronal: the same with the head up. Sagittal:
    anterior on the left, head up. So every displayed axis runs against its world axis. No voxel is
    interpolated.
    """
    directions = np.asarray(affine, dtype=np.float64)[:3, :2]
    directions = directions / np.maximum(np.linalg.norm(directions, axis=0), np.finfo(float).tiny)
    along_h, along_w = _world_axes(np.abs(directions))
    array = np.asarray(array)
    if directions[along_h, 0] > 0:
        array = np.flip(array, axis=-2)
    if directions[along_w, 1] > 0:
        array = np.flip(array, axis=-1)
    return np.swapaxes(array, -2, -1) if along_h < along_w else array


def _world_axes(shares: np.ndarray) -> tuple[int, int]:
    """The two different world axes that array axes H and W follow best; shares: (3, 2), absolute cosines."""
    pairs = [(h, w) for h in range(3) for w in range(3) if h != w]
    return max(pairs, key=lambda pair: shares[pair[0], 0] + shares[pair[1], 1])
