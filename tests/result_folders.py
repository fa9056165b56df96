"""Small synthetic result folders for the tests of evaluation."""

import numpy as np
import torch

from uad.results import ImageResult, ResultWriter
from uad.scores import anomaly_map

SIZE = 32
AFFINE = np.diag([-2.0, -2.0, 1.0, 1.0])


def run_info(**changes) -> dict:
    info = {"method": "planted", "dataset": "custom", "n_channels": 1, "img_size": SIZE, "normalise": "none", "seed": 0}
    return {**info, "score": "paper", "flags": {"noise_level": 200}, **changes}


def save(writer: ResultWriter, *args, **kwargs) -> None:
    """Save one image, given as the fields of ImageResult."""
    writer.save_all([ImageResult(*args, **kwargs)])


def slice_with_lesion(generator, lesion: bool, n_channels: int = 1):
    """(image, reconstruction, label): the reconstruction lacks the bright square that is the lesion."""
    texture = 0.3 + 0.05 * generator.standard_normal((n_channels, SIZE, SIZE))
    label = np.zeros((SIZE, SIZE), np.uint8)
    if lesion:
        top, left = generator.integers(4, SIZE - 12, 2)
        label[top : top + 8, left : left + 8] = 1
    image = np.clip(texture + 0.4 * label, 0, 1).astype(np.float32)
    reconstruction = np.full_like(image, 0.3)
    return image, reconstruction, label


def cells(label: np.ndarray) -> np.ndarray:
    """A flip probability (2, 8, 8): the share of a cell that is lesion."""
    share = label.reshape(8, SIZE // 8, 8, SIZE // 8).mean((1, 3), dtype=np.float32)
    return np.stack([share, share])


def write_folder(
    folder,
    patients=4,
    slices=2,
    lesion=True,
    masks=True,
    autoencoder=True,
    first=0,
    evidence=False,
    numbers=None,
    **run,
):
    """A result folder of `patients` * `slices` images; without lesions the patients have other names; numbers: in the
    record of each.
    """
    generator = np.random.default_rng(1 + lesion)
    info = run_info(**run)
    writer = ResultWriter(folder, info)
    for patient in range(first, first + patients):
        for number in range(slices):
            image, reconstruction, label = slice_with_lesion(generator, lesion, info["n_channels"])
            tensors = torch.from_numpy(image)[None], torch.from_numpy(reconstruction)[None]
            name = f"{'diseased' if lesion else 'healthy'}{patient}_{number:03d}"
            save(
                writer,
                name,
                name.rsplit("_", 1)[0],
                AFFINE,
                image,
                reconstruction,
                anomaly_map(*tensors)[0].numpy(),
                label if masks else None,
                ({"autoencoder": image} if autoencoder else {})
                | ({"flip_probability": cells(label)} if evidence else {}),
                numbers or {},
            )
    return folder
