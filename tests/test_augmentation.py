"""Augmentation: its limits, what it must not touch, and that it is a function of its generator."""

import numpy as np
import pytest
import torch

from uad.data.training.augmentation import augment


@pytest.fixture
def image() -> torch.Tensor:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    tissue = (np.hypot(x, y) < 0.7) * (0.4 + 0.1 * np.sin(7 * x))
    return torch.from_numpy(np.stack([tissue, 1.5 * tissue]).astype(np.float32))


def test_strength_zero_changes_nothing(image):
    changed = augment(image, 0.0, np.random.default_rng(0))
    torch.testing.assert_close(changed, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_range_air_and_repeatability(image, seed):
    before = image.clone()
    changed = augment(image, 1.0, np.random.default_rng(seed))
    assert torch.equal(changed, augment(image, 1.0, np.random.default_rng(seed)))
    assert not torch.equal(changed, augment(image, 1.0, np.random.default_rng(seed + 100)))
    assert changed.dtype == torch.float32 and changed.min() >= 0 and changed.max() <= 1
    assert (changed[:, :4, :4] == 0).all()  # air far from the body
    assert torch.equal(image, before)


def test_stronger_means_further_away(image):
    def distance(strength: float) -> float:
        return np.mean(
            [float((augment(image, strength, np.random.default_rng(s)) - image).abs().mean()) for s in range(20)]
        )

    assert 0 < distance(0.2) < 0.6 * distance(1.0)
