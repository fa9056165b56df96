"""Synthetic lesions: where they lie, what each kind does, and that an image's do not depend on other images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from uad.data.training import corruption, parameters
from uad.data.training.corruption import corrupted
from uad.data.training.lesions import KINDS, NONE, RECIPES, Lesions, drawn_lesions, signed_changes
from uad.data.training.parameters import each


def disc(radius: float, size: int = 64) -> torch.Tensor:
    """1 within a radius of the centre, (S, S)."""
    y, x = np.mgrid[:size, :size] - size / 2
    return torch.from_numpy((np.hypot(x, y) < radius).astype(np.float32))


def drawn(recipe, count: int, channels: int = 2, size: int = 64) -> Lesions:
    """Lesions of so many images, of seeds 0, 1, ..."""
    return default_collate([drawn_lesions(channels, size, recipe, np.random.default_rng(i)) for i in range(count)])


def texture(count: int, size: int = 64) -> torch.Tensor:
    """Images (N, 2, S, S) without air, each of its own."""
    return 0.2 + 0.6 * torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_synthetic_lesions_stay_inside_the_tissue_and_the_range(recipe):
    tissue = disc(25)
    images = (tissue * torch.tensor([0.5, 0.7])[:, None, None]).repeat(20, 1, 1, 1)
    shown = corrupted(images, images * 0.5, drawn(recipe, 20), recipe)
    assert torch.equal(shown, corrupted(images, images * 0.5, drawn(recipe, 20), recipe))
    assert shown.min() >= 0 and shown.max() <= 1
    assert torch.equal(shown[..., tissue == 0], images[..., tissue == 0])
    assert images.max() == pytest.approx(0.7)  # the input is left alone


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_empty_images_and_images_without_lesions_are_left_as_they_are(recipe):
    empty = torch.zeros(3, 2, 64, 64)
    assert torch.equal(corrupted(empty, empty, drawn(recipe, 3), recipe), empty)
    images = texture(3)
    assert torch.equal(corrupted(images, images.flip(2), drawn(recipe, 3).absent(), recipe), images)
    kind = drawn(recipe, 3).kind
    kind[1] = NONE
    shown = corrupted(images, images.flip(2), drawn(recipe, 3)._replace(kind=kind), recipe)
    assert [torch.equal(*pair) for pair in zip(shown, images, strict=True)] == [False, True, False]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_an_image_depends_neither_on_the_others_nor_on_their_order_and_number(recipe, monkeypatch):
    images = texture(12) * disc(25)
    donors, lesions = images.flip(0), drawn(recipe, 12)
    together = corrupted(images, donors, lesions, recipe)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    mixed = corrupted(images[order], donors[order], each(lambda value: value[order], lesions), recipe)
    torch.testing.assert_close(mixed, together[order], atol=1e-6, rtol=0)
    for pieces in (1, 5 * images[0].numel()):
        monkeypatch.setitem(parameters.PIECE, "cpu", pieces)
        torch.testing.assert_close(corrupted(images, donors, lesions, recipe), together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_lesion_changes_a_textured_image(kind):
    only = replace(RECIPES["structure"], kinds={kind: 1.0})
    images = texture(4)
    shown = corrupted(images, images.flip(2), drawn(only, 4), only)
    changed = ((shown - images).abs() > 0.02).any(1).float().mean((1, 2))
    assert changed.min() > 0.0005 and changed.max() < 0.7


def test_the_lesions_of_an_image_are_painted_in_turn():
    """Blurred after it was shifted is not the same as the other way round: slots count, not kinds."""
    recipe, images = RECIPES["intensity"], texture(1) * disc(25)
    lesions = each(lambda value: value[:, :1].repeat(1, 2, *[1] * (value.dim() - 2)), drawn(recipe, 1))
    lesions = lesions._replace(change=torch.full_like(lesions.change, 0.3))
    shown = [
        corrupted(images, images, lesions._replace(kind=torch.tensor([[KINDS.index(k) for k in kinds]])), recipe)
        for kinds in (("shifted", "blurred"), ("blurred", "shifted"), ("shifted",) * 2)
    ]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(shown) for b in shown[:i])


def test_donors_are_asked_for_where_tissue_is_taken_from_them():
    kinds = torch.tensor([KINDS.index("displaced"), KINDS.index("shifted"), NONE])
    lesions = drawn_lesions(2, 64, RECIPES["intensity"], np.random.default_rng(0))._replace(kind=kinds)
    for donated, needed in (((True, False, False), True), ((False, True, True), False)):
        assert lesions._replace(from_donor=torch.tensor(donated)).needs_donor() == needed
    assert not lesions.absent().needs_donor()


@pytest.mark.parametrize("swelling", [-0.5, 0.0, 0.4])
def test_swelling_magnifies_around_the_centre(swelling):
    size, centre = 32, (12.0, 20.0)
    ramps = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    blobs, centres = torch.ones(1, size, size), torch.tensor([centre])
    swollen = corruption.swollen(ramps[None], blobs, centres, torch.tensor([swelling]))[0]
    for ramp, c, found in zip(ramps, centre, swollen, strict=True):
        # Beyond the border the border's values are repeated.
        torch.testing.assert_close(found, (c + (1 - swelling) * (ramp - c)).clamp(0, size - 1), atol=1e-4, rtol=0)


def test_swelling_keeps_what_is_outside_the_blob():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    blob = disc(6, 32)
    swollen = corruption.swollen(image, blob[None], torch.tensor([[16.0, 16.0]]), torch.tensor([0.5]))
    outside = blob == 0
    torch.testing.assert_close(swollen[..., outside], image[..., outside], atol=1e-5, rtol=0)
    assert not torch.allclose(swollen[..., ~outside], image[..., ~outside], atol=0.05)


def test_lesions_lie_where_their_chances_are():
    chances = torch.zeros(2, 16, 16)
    chances[0, 3, 5], chances[0, 12, 1], chances[1, 15, 15] = 0.75, 0.25, 0.5
    place = torch.from_numpy(np.random.default_rng(0).random((2, 2000)))
    first, second = corruption.drawn_by_chance(chances, place).tolist()
    assert {tuple(c) for c in first} == {(3, 5), (12, 1)} and {tuple(c) for c in second} == {(15, 15)}
    assert np.mean([c == [3, 5] for c in first]) == pytest.approx(0.75, abs=0.04)
    extremes = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert corruption.drawn_by_chance(chances[:1], extremes).tolist() == [[[3, 5], [12, 1]]]


def test_the_recipe_for_structure_prefers_what_is_bright():
    """Bright below, dim above, as retina below noisy vitreous."""
    image = torch.full((1, 64, 64), 0.1)
    image[:, 32:] = torch.linspace(0.4, 0.8, 32 * 64).view(32, 64)
    images, shares = image.repeat(60, 1, 1, 1), {}
    for name, recipe in RECIPES.items():
        changed = (corrupted(images, images, drawn(recipe, 60, channels=1), recipe) - images).abs().sum((0, 1, 3))
        shares[name] = changed[32:].sum() / changed.sum()
    assert shares["structure"] > 0.75 > shares["intensity"]


def test_faint_lesions_are_as_frequent_as_gross_ones_on_a_log_scale():
    sizes = np.abs(signed_changes(RECIPES["structure"], (1000, 4), np.random.default_rng(0)))
    shown, (least, greatest) = sizes[sizes > 0], RECIPES["structure"].change
    assert len(shown) == pytest.approx(0.8 * sizes.size, rel=0.05)
    assert least <= shown.min() and shown.max() <= greatest
    assert np.median(shown) == pytest.approx(np.sqrt(least * greatest), rel=0.05)
