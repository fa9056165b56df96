"""Augmentation: its limits, what it must not touch, and that an image's is a function of its own parameters."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from uad.data.training import augmentation, parameters
from uad.data.training.augmentation import Augmentation, augmented, drawn_augmentation
from uad.data.training.parameters import each

SEEDS = range(10)


@pytest.fixture
def image() -> torch.Tensor:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    tissue = (np.hypot(x, y) < 0.7) * (0.4 + 0.1 * np.sin(7 * x))
    return torch.from_numpy(np.stack([tissue, 1.5 * tissue]).astype(np.float32))


def drawn(strength: float, seeds=SEEDS) -> Augmentation:
    """What is drawn for so many images of two channels."""
    return default_collate([drawn_augmentation(2, 64, strength, np.random.default_rng(seed)) for seed in seeds])


def repeated(image: torch.Tensor, count: int = len(SEEDS)) -> torch.Tensor:
    return image.repeat(count, 1, 1, 1)


def test_strength_zero_changes_nothing(image):
    images = repeated(image)
    torch.testing.assert_close(augmented(images, drawn(0.0)), images, atol=1e-5, rtol=0)


def test_range_air_and_repeatability(image):
    images = repeated(image)
    changed = augmented(images, drawn(1.0))
    assert torch.equal(changed, augmented(images, drawn(1.0)))
    assert all(not torch.equal(a, b) for i, a in enumerate(changed) for b in changed[:i])
    assert changed.dtype == torch.float32 and changed.min() >= 0 and changed.max() <= 1
    assert (changed[:, :, :4, :4] == 0).all()  # air far from the body
    assert torch.equal(images, repeated(image))


def test_stronger_means_further_away(image):
    images = repeated(image, 20)

    def distance(strength: float) -> float:
        return float((augmented(images, drawn(strength, range(20))) - images).abs().mean())

    assert 0 < distance(0.2) < 0.6 * distance(1.0)


def test_an_image_depends_neither_on_the_others_nor_on_their_order_and_number(image, monkeypatch):
    images = torch.rand(len(SEEDS), 2, 64, 64, generator=torch.Generator().manual_seed(0)) * (image > 0)
    together = augmented(images, drawn(1.0))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    mixed = augmented(images[order], each(lambda value: value[order], drawn(1.0)))
    torch.testing.assert_close(mixed, together[order], atol=1e-6, rtol=0)
    for pieces in (1, 3 * images[0].numel()):
        monkeypatch.setitem(parameters.PIECE, "cpu", pieces)
        torch.testing.assert_close(augmented(images, drawn(1.0)), together, atol=1e-6, rtol=0)


def test_some_images_lose_sharpness():
    """A share of them, which is known to be resampled, and only those: noise is what shows it."""
    several = drawn(1.0, range(200))
    assert (several.coarse > 0).float().mean() == pytest.approx(augmentation.BLURRED_SHARE, abs=0.1)
    noise = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    unchanged = drawn(0.0, range(2))._replace(coarse=torch.tensor([0, 32]))
    same, smooth = augmented(noise, unchanged)
    assert smooth.std() < 0.7 * same.std()
