"""Synthetic lesions: where they lie, and what each kind does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from uad.data.training import corruption
from uad.data.training.corruption import RECIPES, corrupt


def disc(radius: float, size: int = 64) -> torch.Tensor:
    """1 within a radius of the centre, (S, S)."""
    y, x = np.mgrid[:size, :size] - size / 2
    return torch.from_numpy((np.hypot(x, y) < radius).astype(np.float32))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("seed", range(20))
def test_synthetic_lesions_stay_inside_the_tissue_and_the_range(seed, recipe):
    rng = np.random.default_rng(seed)
    tissue = disc(25)
    image = tissue * torch.tensor([0.5, 0.7])[:, None, None]
    donor = image * 0.5
    corrupted = corrupt(image, donor, rng, recipe)
    assert torch.equal(corrupted, corrupt(image, donor, np.random.default_rng(seed), recipe))
    assert corrupted.min() >= 0 and corrupted.max() <= 1
    assert torch.equal(corrupted[:, tissue == 0], image[:, tissue == 0])
    assert image.max() == pytest.approx(0.7)  # the input is left alone


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_empty_image_is_left_as_it_is(recipe):
    empty = torch.zeros(1, 32, 32)
    assert torch.equal(corrupt(empty, empty, np.random.default_rng(0), recipe), empty)


@pytest.mark.parametrize("kind", RECIPES["structure"].kinds)
def test_every_kind_of_lesion_changes_a_textured_image(kind, monkeypatch):
    monkeypatch.setitem(RECIPES, "only", replace(RECIPES["structure"], kinds={kind: 1.0}))
    image = 0.2 + 0.6 * torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    corrupted = corrupt(image, image.flip(1), np.random.default_rng(1), "only")
    changed = ((corrupted - image).abs() > 0.02).any(0).float().mean()
    assert 0.0005 < changed < 0.7


@pytest.mark.parametrize("size", [16, 64, 100])
def test_blurring_is_the_mean_of_what_lies_in_a_square(size):
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    reach = max(1, size // 32)
    pooled = torch.nn.functional.avg_pool2d(image[None], 2 * reach + 1, 1, reach, count_include_pad=False)[0]
    torch.testing.assert_close(corruption.blurred(image), pooled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("swelling", [-0.5, 0.0, 0.4])
def test_swelling_magnifies_around_the_centre(swelling):
    size, centre = 32, (12.0, 20.0)
    ramps = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    swollen = corruption.swollen(ramps, torch.ones(size, size), centre, swelling)
    for ramp, c, found in zip(ramps, centre, swollen, strict=True):
        # Beyond the border the border's values are repeated.
        torch.testing.assert_close(found, (c + (1 - swelling) * (ramp - c)).clamp(0, size - 1), atol=1e-4, rtol=0)


def test_swelling_keeps_what_is_outside_the_blob():
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    blob = disc(6, 32)
    swollen = corruption.swollen(image, blob, (16.0, 16.0), 0.5)
    outside = blob == 0
    torch.testing.assert_close(swollen[:, outside], image[:, outside], atol=1e-5, rtol=0)
    assert not torch.allclose(swollen[:, ~outside], image[:, ~outside], atol=0.05)


def test_lesions_lie_where_their_chances_are():
    rng = np.random.default_rng(0)
    chances = torch.zeros(16, 16)
    chances[3, 5], chances[12, 1] = 3, 1
    drawn = [corruption.drawn_by_chance(chances, rng) for _ in range(2000)]
    assert set(drawn) == {(3, 5), (12, 1)}
    assert np.mean([c == (3, 5) for c in drawn]) == pytest.approx(0.75, abs=0.04)


def test_the_recipe_for_structure_prefers_what_is_bright():
    """Bright below, dim above, as retina below noisy vitreous."""
    image = torch.full((1, 64, 64), 0.1)
    image[:, 32:] = torch.linspace(0.4, 0.8, 32 * 64).view(32, 64)
    shares = {}
    for recipe in RECIPES:
        lesioned = (corrupt(image, image, np.random.default_rng(seed), recipe) for seed in range(60))
        changed = sum((lesion - image).abs()[0].sum(1) for lesion in lesioned)
        shares[recipe] = changed[32:].sum() / changed.sum()
    assert shares["structure"] > 0.75 > shares["intensity"]


def test_faint_lesions_are_as_frequent_as_gross_ones_on_a_log_scale():
    rng = np.random.default_rng(0)
    sizes = corruption.changes_of(RECIPES["structure"], 4000, rng)
    least, greatest = RECIPES["structure"].change
    assert least <= sizes.min() and sizes.max() <= greatest
    assert np.median(sizes) == pytest.approx(np.sqrt(least * greatest), rel=0.05)
