"""The code cache and the synthetic lesions of stage 2."""

import numpy as np
import pytest
import torch

from bernoulli_diffusion.latents import CodeCache, Variants, build_cache, cache_path
from uad.data.corruption import corrupt
from uad.data.folder import SliceFolder
from uad.data.formats import write_slice
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


def cache(slices, tmp_path, variants, batch_size=3) -> CodeCache:
    path = cache_path(tmp_path / "log", slices, "hash", variants)
    build_cache(path, slices, encode, CODE_SHAPE, variants, ALONE, batch_size, workers=0)
    return CodeCache(path, slices, CODE_SHAPE, variants)


def test_cached_codes_are_those_of_the_encoder(slices, tmp_path):
    codes = cache(slices, tmp_path, Variants(True, 0, 0.5, seed=1))
    seen = set()
    for position in range(30):
        index = position % 7
        item = codes[index, position]
        orientation, _ = codes.variants.chosen(position)
        image = slices[index]["image"]
        # The affine is the identity: axis H runs from left to right.
        expected = encode((image.flip(1) if orientation else image)[None])[0]
        assert torch.equal(item["code"], expected) and torch.equal(item["shown"], expected)
        assert (item["name"], item["index"], item["position"]) == (slices.names[index], index, position)
        seen.add(orientation)
    assert seen == {0, 1}


def test_lesions_change_what_is_shown_and_not_what_is_asked(slices, tmp_path):
    codes = cache(slices, tmp_path, Variants(False, 3, 0.5, seed=1))
    changed = [not torch.equal(*(codes[p % 7, p][key] for key in ("code", "shown"))) for p in range(200)]
    assert 0.05 < np.mean(changed) <= 0.6  # half of them show lesions, few of which cross a threshold
    assert all(torch.equal(codes[p % 7, p]["code"], encode(slices[p % 7]["image"][None])[0]) for p in range(20))


def test_cache_does_not_depend_on_batches_and_follows_its_sources(slices, tmp_path):
    variants = Variants(True, 2, 0.5, seed=1)
    first = cache(slices, tmp_path / "a", variants, batch_size=1)
    second = cache(slices, tmp_path / "b", variants, batch_size=7)
    assert np.array_equal(first.packed, second.packed)
    names = {
        cache_path(tmp_path, slices, weights, v).name for weights in "xy" for v in (variants, Variants(False, 0, 0, 1))
    }
    assert len(names) == 4


@pytest.mark.parametrize("seed", range(20))
def test_synthetic_lesions_stay_inside_the_tissue_and_the_range(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] - 32
    tissue = torch.from_numpy((np.hypot(x, y) < 25).astype(np.float32))
    image = tissue * torch.tensor([0.5, 0.7])[:, None, None]
    donor = image * 0.5
    corrupted = corrupt(image, donor, rng)
    assert torch.equal(corrupted, corrupt(image, donor, np.random.default_rng(seed)))
    assert corrupted.min() >= 0 and corrupted.max() <= 1
    assert torch.equal(corrupted[:, tissue == 0], image[:, tissue == 0])
    assert image.max() == pytest.approx(0.7)  # the input is left alone


def test_an_empty_image_is_left_as_it_is():
    empty = torch.zeros(1, 32, 32)
    assert torch.equal(corrupt(empty, empty, np.random.default_rng(0)), empty)
