"""Training batches: mirroring and its axis, and augmentation that rides with them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.training.loading import (
    StepBatches,
    TrainingImages,
    Variation,
    mirrored,
    training_loader,
    with_augmentation,
)
from uad.errors import InputError

RAS = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def brains(tmp_path):
    """Four slices, two channels, 16 x 16 NIfTI; axis H runs left-right."""
    rng = np.random.default_rng(0)
    for index in range(4):
        write_slice(tmp_path / "brains" / f"P0_{index:03d}.nii.gz", rng.random((2, 16, 16)), RAS)
    return SliceFolder(tmp_path / "brains", 2, 16, "joint")


def test_mirroring_is_a_fair_coin_keyed_by_seed_and_position():
    first = [mirrored(1, p) for p in range(400)]
    assert 160 < sum(first) < 240  # 400 fair coins: 200 +- 4 standard deviations
    assert first == [mirrored(1, p) for p in range(400)]
    assert first != [mirrored(2, p) for p in range(400)]


def test_mirroring_runs_along_the_patients_left_right_axis(brains, tmp_path):
    position = next(p for p in range(50) if mirrored(1, p))
    item = TrainingImages(brains, Variation(True, 0, 1))[2, position]
    assert torch.equal(item["image"], brains[2]["image"].flip(1))
    assert (item["index"], item["position"]) == (2, position)
    assert torch.equal(TrainingImages(brains, Variation(False, 0, 1))[2, position]["image"], brains[2]["image"])
    (tmp_path / "oct").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)).save(
        tmp_path / "oct" / "a.png"
    )
    png = SliceFolder(tmp_path / "oct", 1, 16, "joint")
    assert torch.equal(TrainingImages(png, Variation(True, 0, 1))[0, position]["image"], png[0]["image"].flip(2))


def test_a_sagittal_slice_is_not_mirrored_silently(tmp_path):
    write_slice(tmp_path / "a.nii.gz", np.eye(8), np.eye(4)[[2, 1, 0, 3]])
    images = TrainingImages(SliceFolder(tmp_path, 1, 8, "joint"), Variation(True, 0, 1))
    with pytest.raises(InputError, match="left-right"):
        images[0, next(p for p in range(50) if mirrored(1, p))]


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_is_a_function_of_the_position(brains, workers):
    """Whatever the batch and whoever reads it."""
    images = TrainingImages(brains, Variation(True, 1.0, 1))

    def batches(size: int, workers: int) -> torch.Tensor:
        keys = StepBatches(len(images), size, rank=0, size=1, seed=3, start=0, stop=12 // size)
        loader = training_loader(images, keys, workers, pin_memory=False)
        return torch.cat([with_augmentation(batch)["image"] for batch in loader])

    alone = batches(1, 0)
    torch.testing.assert_close(batches(6, workers), alone, atol=1e-6, rtol=0)
    plain = torch.stack([images[index, p]["image"] for [(index, p)] in StepBatches(4, 1, 0, 1, 3, 0, 12)])
    assert all(not torch.allclose(*pair, atol=1e-3) for pair in zip(alone, plain, strict=True))


def test_images_are_augmented_once(brains):
    images = TrainingImages(brains, Variation(False, 1.0, 1))
    batch = with_augmentation(default_collate([images[0, 0], images[1, 1]]))
    assert with_augmentation(batch)["image"] is batch["image"]
