"""The code cache and the synthetic lesions of stage 2."""

import numpy as np
import pytest
import torch

from bernoulli_diffusion.latents import CodeCache, LiveViews, ViewedSlices, Views, build_cache, cache_path
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.training.loading import Variation, collate_training
from uad.distributed import World

# 3 x 5 x 5 bits do not fill whole bytes.
CODE_SHAPE = (3, 5, 5)
ALONE = World(0, 1, torch.device("cpu"))


def encode(images: torch.Tensor) -> torch.Tensor:
    """A stand-in for the autoencoder: thresholded means of patches."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images, 5)
    return torch.cat([pooled > 0.3, pooled[:, :1] > 0.6], dim=1).float()


@pytest.fixture
def slices(tmp_path) -> SliceFolder:
    rng = np.random.default_rng(0)
    for index in range(7):
        image = rng.random((2, 20, 20)).repeat(2, axis=0)[:2]
        write_slice(tmp_path / "healthy" / f"P{index}_000.nii.gz", image, np.eye(4))
    return SliceFolder(tmp_path / "healthy", 2, 20, "joint")


def views(flip: bool, count: int, share: float = 0.0, augment: float = 0.0, lesions: str = "intensity") -> Views:
    return Views(Variation(flip, augment, seed=1), count, share, lesions)


def cache(slices, tmp_path, views, batch_size=3) -> CodeCache:
    path = cache_path(tmp_path / "log", slices, "hash", views)
    build_cache(path, slices, encode, CODE_SHAPE, views, ALONE, batch_size, workers=0)
    return CodeCache(path, slices, CODE_SHAPE, views)


def test_cached_codes_are_those_of_the_encoder(slices, tmp_path):
    codes = cache(slices, tmp_path, views(True, 2))
    seen = set()
    for position in range(30):
        index = position % 7
        item = codes[index, position]
        view, _ = codes.views.chosen(position)
        image = slices[index]["image"]
        # The affine is the identity: axis H runs from left to right.
        expected = encode((image.flip(1) if view else image)[None])[0]
        assert torch.equal(item["code"], expected) and torch.equal(item["shown"], expected)
        assert (item["name"], item["index"], item["position"]) == (slices.names[index], index, position)
        seen.add(view)
    assert seen == {0, 1}


def test_augmented_views_differ_and_view_0_is_the_slice_itself(slices, tmp_path):
    images = all_views(slices, views(False, 4, augment=1.0), [0])[0]
    assert torch.equal(images[0], slices[0]["image"])
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def all_views(slices, views: Views, indices) -> torch.Tensor:
    """Every view of some slices (N, codes, C, S, S)."""
    viewed = ViewedSlices(slices, views)
    return viewed.prepared(collate_training([viewed[index] for index in indices]))


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
        return live.prepared(collate_training([live[key] for key in keys]))

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
    batch = live.prepared(collate_training([live[2, 5], live[4, 6]]))
    assert torch.equal(batch["image"], torch.stack([slices[i]["image"] for i in (2, 4)]))
    assert torch.equal(batch["shown_image"], batch["image"])


def test_lesions_change_what_is_shown_and_not_what_is_asked(slices, tmp_path):
    codes = cache(slices, tmp_path, views(False, 3, share=0.5))
    changed = [not torch.equal(*(codes[p % 7, p][key] for key in ("code", "shown"))) for p in range(200)]
    assert 0.05 < np.mean(changed) <= 0.6  # half of them show lesions, few of which cross a threshold
    assert all(torch.equal(codes[p % 7, p]["code"], encode(slices[p % 7]["image"][None])[0]) for p in range(20))


def test_cache_does_not_depend_on_batches_and_follows_its_sources(slices, tmp_path):
    several = views(True, 4, share=0.5, augment=0.5)
    first = cache(slices, tmp_path / "a", several, batch_size=1)
    second = cache(slices, tmp_path / "b", several, batch_size=100)
    assert np.array_equal(first.packed, second.packed)
    others = (
        several,
        views(False, 4, 0.5, 0.5),
        views(True, 4, 0.5, 0.6),
        views(True, 5, 0.5, 0.5),
        views(True, 4, 0, 0.5),
    )
    assert len({cache_path(tmp_path, slices, weights, v).name for weights in "xy" for v in others}) == 10


def test_cache_follows_the_lesions_where_there_are_any(slices, tmp_path):
    for share, names in ((0.5, 2), (0, 1)):
        kinds = (views(True, 4, share, lesions=lesions) for lesions in ("intensity", "structure"))
        assert len({cache_path(tmp_path, slices, "x", kind).name for kind in kinds}) == names
