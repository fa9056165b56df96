"""Comparing methods trained for seconds on tiny images: discs of tissue, with or without a bright lesion."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from uad.randomness import keyed_generator


def discs(count: int, size: int, seed: int, lesion: bool = False) -> tuple[Tensor, Tensor]:
    """Images (count, 2, size, size) of a disc with a brighter core, and masks (count, size, size) of their lesions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    images = np.zeros((count, 2, size, size), np.float32)
    masks = np.zeros((count, size, size), bool)
    for image, mask in zip(images, masks, strict=True):
        radius = np.hypot(x, y * rng.uniform(0.9, 1.1)) / (0.4 * size)
        tissue = (radius < 1) * (0.4 + 0.15 * (radius < rng.uniform(0.45, 0.55)))
        image[:] = tissue * np.array([1.0, 0.7])[:, None, None]
        if lesion:
            row, column = rng.integers(size // 4, size // 2, 2)
            mask[row : row + size // 5, column : column + size // 5] = True
            image[:, mask] = 0.95
        image += rng.normal(0, 0.01, image.shape) * (tissue > 0)
    return torch.from_numpy(images).clamp(0, 1), torch.from_numpy(masks)


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """The images in batches."""
    return iter(images.split(size))


def train(method, config: dict, images: Tensor, steps: dict[str, int], batch: int = 8) -> tuple[dict, dict]:
    """Train all stages for `steps`; returns the configuration with what was calibrated, and the networks."""
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = method.build(config)
    for stage in method.STAGES:
        if hasattr(method, "calibrate"):
            config = config | method.calibrate(stage, config, modules, batches(images, batch), torch.device("cpu"))
        network, rate = modules[stage], config["training"][stage]["lr"]
        optimizer = torch.optim.AdamW(network.parameters(), rate)
        for step in range(steps[stage]):
            chosen = torch.randint(len(images), (batch,), generator=keyed_generator("batch", step))
            generators = [keyed_generator("step", step, i) for i in range(batch)]
            error, _ = method.loss(stage, config, modules, network, {"image": images[chosen]}, generators)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        network.eval().requires_grad_(False)
    return config, modules


def image_generators(names: Sequence[int]) -> list[torch.Generator]:
    """One generator per image, keyed by the image."""
    return [keyed_generator("image", name) for name in names]


def mean_auroc(maps: Tensor, masks: Tensor) -> float:
    """Mean over images of the area under the ROC curve of their pixels."""
    return float(np.mean([roc_auc_score(mask.flatten(), m.flatten()) for mask, m in zip(masks, maps, strict=True)]))


def check_lesions_are_found_whatever_the_batch(detector, size: int) -> None:
    """A detector in which nothing is random finds the lesions of discs, and the same in each alone, in any order."""
    images, masks = discs(4, size, seed=1, lesion=True)
    together = detector.reconstruct(images, []).anomaly_map
    assert mean_auroc(together, masks) > 0.8
    alone = torch.cat([detector.reconstruct(image[None], []).anomaly_map for image in images.flip(0)])
    torch.testing.assert_close(alone.flip(0), together, rtol=1e-3, atol=1e-5)
