"""A folder of random slices and the views of them, for the tests of what stage 2 learns from."""

from pathlib import Path

import numpy as np

from bernoulli_diffusion.latents import Views
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.training.loading import Variation


def random_slices(folder: Path) -> SliceFolder:
    """Seven slices of 2 x 20 x 20 pixels, each of a patient of its own."""
    rng = np.random.default_rng(0)
    for index in range(7):
        image = rng.random((2, 20, 20)).repeat(2, axis=0)[:2]
        write_slice(folder / f"P{index}_000.nii.gz", image, np.eye(4))
    return SliceFolder(folder, 2, 20, "joint")


def views(flip: bool, count: int, share: float = 0.0, augment: float = 0.0, lesions: str = "intensity") -> Views:
    """So many views of every slice."""
    return Views(Variation(flip, augment, seed=1), count, share, lesions)
