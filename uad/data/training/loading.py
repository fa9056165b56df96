"""Batches for training: which image comes at which step, and how it is varied, is a function of (seed, step) alone."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uad.data.reading.folder import SliceFolder, left_right_axis
from uad.data.training.augmentation import Augmentation, augmented, drawn_augmentation
from uad.data.training.cache import CachedSlices
from uad.randomness import derive_seed, keyed_generator

# The signals after which a training saves and ends.
STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class StepBatches:
    """A batch sampler over training steps, for one process of several.

    Position p = step * global_batch + i of the endless stream falls into epoch p // n and is item p % n of that epoch's
    own permutation. Each process takes a contiguous share of every global batch, so the global batch is the same for
    any number of processes. Yields lists of (index, position).
    """

    def __init__(self, items: int, global_batch: int, rank: int, size: int, seed: int, start: int, stop: int):
        self.items, self.global_batch, self.seed = items, global_batch, seed
        self.share, self.rank = global_batch // size, rank
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(self.start, self.stop):
            first = step * self.global_batch + self.rank * self.share
            batch = []
            for position in range(first, first + self.share):
                if position // self.items != epoch:
                    epoch = position // self.items
                    order = torch.randperm(self.items, generator=keyed_generator(self.seed, "order", epoch)).tolist()
                batch.append((order[position % self.items], position))
            yield batch


@dataclass(frozen=True)
class Variation:
    """How training images are varied: mirrored left-right, and augmented with this strength (0: not at all)."""

    horizontal_flip: bool
    augment: float
    seed: int

    def oriented(self, item: dict, *key: int | str) -> torch.Tensor:
        """The image (C, S, S) of a slice folder's item, mirrored or not, at random by (seed, key)."""
        if self.horizontal_flip and mirrored(self.seed, *key):
            return flipped(item)
        return item["image"]

    def augmentation(self, image: torch.Tensor, *key: int | str) -> Augmentation:
        """How an image (C, S, S) is to be augmented, at random by (seed, key)."""
        rng = np.random.default_rng(derive_seed(self.seed, "augmentation", *key))
        return drawn_augmentation(len(image), image.shape[-1], self.augment, rng)


class TrainingImages(Dataset):
    """Images of a folder for training; a key (index, position) gives a dict of image, name, index and position.

    An image is varied by (seed, position): it is mirrored here, and where it is to be augmented, `augmentation` says
    how to `with_augmentation`.
    """

    def __init__(self, slices: SliceFolder | CachedSlices, variation: Variation):
        self.slices, self.variation = slices, variation

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        item = self.slices[index]
        image = self.variation.oriented(item, position)
        drawn = {"augmentation": self.variation.augmentation(image, position)} if self.variation.augment else {}
        return {"image": image, "name": item["name"], "index": index, "position": position} | drawn


def with_augmentation(batch: dict) -> dict:
    """A collated batch of TrainingImages, whose images may be on any device, with these augmented as it says."""
    rest = dict(batch)
    drawn = rest.pop("augmentation", None)
    return rest if drawn is None else rest | {"image": augmented(rest["image"], drawn)}


def flipped(item: dict) -> torch.Tensor:
    """The image (C, S, S) of a slice folder's item, mirrored left-right; InputError where it has no left and right."""
    return item["image"].flip(1 + left_right_axis(item["affine"].numpy(), item["name"], "horizontal_flip"))


def mirrored(seed: int, *key: int | str) -> bool:
    """Whether an image is mirrored, by (seed, key): a fair coin."""
    return bool(np.random.default_rng(derive_seed(seed, "mirror", *key)).random() < 0.5)


def training_loader(dataset: Dataset, batches: StepBatches, workers: int, pin_memory: bool) -> DataLoader:
    """A loader that yields one batch per training step, from `batches.start` to `batches.stop`, as torch collates."""
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory, worker_init_fn=_go_on_when_stopped
    )


def _go_on_when_stopped(worker: int) -> None:
    """Leave the signals by which a training is stopped to the process that trains: schedulers and `timeout` send them
    to all processes, and without its workers it could not finish its step and save.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
