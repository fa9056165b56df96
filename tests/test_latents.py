"""The views in which stage 2 sees a slice."""

import pytest
import torch
from random_slices import random_slices, views
from torch.utils.data import default_collate

from bernoulli_diffusion.latents import LiveViews, ViewedSlices, Views
from uad.data.reading.folder import SliceFolder


@pytest.fixture
def slices(tmp_path) -> SliceFolder:
    return random_slices(tmp_path / "healthy")


def test_augmented_views_differ_and_view_0_is_the_slice_itself(slices):
    images = all_views(slices, views(False, 4, augment=1.0), [0])[0]
    assert torch.equal(images[0], slices[0]["image"])
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def all_views(slices, views: Views, indices) -> torch.Tensor:
    """Every view of some slices (N, codes, C, S, S)."""
    viewed = ViewedSlices(slices, views)
    return viewed.prepared(default_collate([viewed[index] for index in indices]))


def test_views_do_not_depend_on_the_slices_beside_them(slices):
    several = views(True, 4, share=0.5, augment=1.0)
    together = all_views(slices, several, range(7))
    assert together.shape == (7, 8, 2, 20, 20)
    for indices in ([3], [6, 0, 3]):
        torch.testing.assert_close(all_views(slices, several, indices), together[indices], atol=1e-6, rtol=0)
    # Mirrored ones alternate; those with lesions are of the same views, in the same order.
    plain = all_views(slices, views(True, 4), range(7))
    assert torch.equal(plain[:, 1], plain[:, 0].flip(2)) and torch.equal(plain[:, 3], plain[:, 1])
    changed = (together[:, 4:] != together[:, :4]).flatten(3).float().mean(-1)
    assert changed.mean() > 0 and (together[:, 4:] - together[:, :4]).abs().mean() < 0.1


@pytest.mark.parametrize("lesions", ["intensity", "structure"])
def test_live_views_are_a_function_of_the_position(slices, lesions):
    live = LiveViews(slices, views(True, 4, share=0.5, augment=1.0, lesions=lesions))
    keys = [(position % 7, position) for position in range(12)]

    def prepared(keys) -> dict:
        return live.prepared(default_collate([live[key] for key in keys]))

    together = prepared(keys)
    assert set(together) == {"image", "shown_image", "name", "index", "position"}
    for first, end in ((0, 1), (1, 6), (6, 12)):
        some = prepared(keys[first:end])
        for key in ("image", "shown_image"):
            torch.testing.assert_close(some[key], together[key][first:end], atol=1e-6, rtol=0)
    healthy = [not live.views.chosen(position)[1] for _, position in keys]
    same = [torch.equal(*pair) for pair in zip(together["image"], together["shown_image"], strict=True)]
    assert same == healthy and 0 < sum(healthy) < 12


def test_live_views_without_variation_are_the_slices(slices):
    live = LiveViews(slices, views(False, 1))
    batch = live.prepared(default_collate([live[2, 5], live[4, 6]]))
    assert torch.equal(batch["image"], torch.stack([slices[i]["image"] for i in (2, 4)]))
    assert torch.equal(batch["shown_image"], batch["image"])
