"""The codes of the training images in all their views: encoded once, packed to one bit a bit, in a cache of shards.
Those of images that detection shows again and again: kept in memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bernoulli_diffusion.latents import VERSION, ViewedSlices, Views
from uad.data.reading.folder import SliceFolder
from uad.data.training.cache import CachedSlices
from uad.data.training.shards import OpenShards, ShardFolder, digest_of
from uad.distributed import World

PREFIX = "codes-"
# Images that are encoded together, or all views of one slice. Neither --batch_size nor the number of processes counts:
# rounding may change a bit whose probability is about one half, and the bytes must be the same whoever makes them.
TOGETHER = 32


class CodeFiles(ShardFolder):
    """The files of a cache of codes (K, h, w), in a folder of the run.

    Its name changes with the autoencoder's weights, the images, how they are read and varied, and with the code that
    does so, where VERSION says it.
    """

    def __init__(
        self,
        place: Path,
        slices: SliceFolder,
        autoencoder_hash: str,
        code_shape: tuple[int, int, int],
        views: Views,
    ):
        made_by = (
            VERSION,
            autoencoder_hash,
            slices.normalise,
            slices.img_size,
            views.variation,
            views.count,
            views.lesions if views.lesion_share else None,
        )
        super().__init__(
            place,
            PREFIX,
            digest_of(made_by, slices.paths),
            np.dtype([("codes", np.uint8, (views.codes, packed_bytes(code_shape)))]),
            len(slices),
            "packed codes of the training images",
            "or take fewer --code_views",
        )
        self.slices, self.code_shape, self.views = slices, code_shape, views

    def batches_of(self, number: int) -> list[list[int]]:
        """The slices of a shard as they are encoded together."""
        rows, size = self.rows_of(number), max(1, TOGETHER // self.views.codes)
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


class CodeCache(Dataset):
    """Packed codes of all slices of a folder in all views, from a complete cache; InputError for a damaged one.

    A key (index, position) gives a dict of code, the healthy code (K, h, w) float32 in {0, 1}; shown, the one that
    noise is added to (of the image with lesions, or the same); name, index and position.
    """

    def __init__(self, files: CodeFiles):
        self.names, self.code_shape, self.views = files.slices.names, files.code_shape, files.views
        self.records = OpenShards(files)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        view, lesions = self.views.chosen(position)
        code = self._code(index, view)
        return {
            "code": code,
            "shown": self._code(index, self.views.count + view) if lesions else code,
            "name": self.names[index],
            "index": index,
            "position": position,
        }

    def _code(self, index: int, number: int) -> Tensor:
        bits = np.unpackbits(self.records[index]["codes"][number], count=int(np.prod(self.code_shape)))
        return torch.from_numpy(bits.reshape(self.code_shape).astype(np.float32))


def cached_codes(
    files: CodeFiles,
    images: SliceFolder | CachedSlices,
    encode: Callable[[Tensor], Tensor],
    world: World,
    workers: int,
) -> CodeCache:
    """The codes of all slices from a cache that is built, or completed, where it is not there.

    images: where the slices are read from; encode: images (N, C, S, S) on the process's device -> bits (N, K, h, w) in
    {0, 1}. A shard is written by one process; they take turns in the order of the missing ones.
    """
    # One answer for all: on a network file system the processes may see different folders for a while.
    missing = world.told_by_main(lambda: files.prepare(shared=False))
    own = missing[world.rank :: world.size]
    viewed = ViewedSlices(images, files.views)
    loader = DataLoader(
        viewed,
        batch_sampler=[batch for number in own for batch in files.batches_of(number)],
        num_workers=workers if own else 0,
    )
    prepared = (_prepared(viewed, batch, world.device) for batch in loader)
    already = files.count - sum(len(files.rows_of(number)) for number in missing)
    words = f"encoding {files.views.codes} views of each image" if files.views.codes > 1 else "encoding"
    with tqdm(
        desc=words, unit="image", total=files.count, initial=already, disable=not world.is_main or not missing
    ) as bar:
        for start in range(0, len(missing), world.size):
            # All meet after every shard, so that an error of one ends all at once.
            together = missing[start : start + world.size]
            mine = together[world.rank : world.rank + 1]
            world.together(partial(_write, files, mine, prepared, encode))
            bar.update(sum(len(files.rows_of(number)) for number in together))
    return CodeCache(files)


def _prepared(viewed: ViewedSlices, batch: dict, device: torch.device) -> tuple[np.ndarray, Tensor]:
    """The numbers of the slices of a batch and their views (N, codes, C, S, S), made on the device."""
    moved = {key: batch[key].to(device) for key in ("orientations", "donor") if key in batch}
    return batch["index"].numpy(), viewed.prepared(batch | moved)


def _write(
    files: CodeFiles, numbers: list[int], prepared: Iterator[tuple[np.ndarray, Tensor]], encode: Callable
) -> None:
    """Write the shards of these numbers, at most one, with the next batches."""
    for number in numbers:
        first = files.rows_of(number).start
        with files.writing(number) as shard:
            for _ in files.batches_of(number):
                rows, images = next(prepared)
                codes = pack(encode(images.flatten(0, 1))).reshape(*images.shape[:2], -1)
                shard["codes"][rows - first] = codes


class KeptCodes:
    """An encoder that encodes an image in the first pass over all images, and later gives what it gave then.

    Of codes that are thresholded the bits are kept, packed to K h w / 8 bytes for each shifted copy of an image; of
    those that are drawn, the probabilities as the encoder gives them, since every setting draws its own.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], code_bits: str):
        self._encode, self._packs = encode, code_bits == "threshold"
        self._kept: dict[tuple[int, int], tuple[np.ndarray, torch.Size, tuple[int, ...]] | Tensor] = {}
        self.begin(0)

    def begin(self, batch: int = 0) -> None:
        """Say which batch comes next; its shifted copies are encoded in their order. All images may be one batch, where
        every pass shows the same in the same order.
        """
        self._batch, self._copy = batch, 0
        # The code of the first copy, which is not shifted.
        self.own = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        """Bit probabilities (N, K, h, w) of the next copy (N, C, S, S), or bits in {0, 1} where these are kept."""
        key = self._batch, self._copy
        if key not in self._kept:
            probability = self._encode(images)
            # The order in memory is kept, too: kernels, and with them rounding, are chosen by it.
            layout = probability.shape, probability.stride()
            self._kept[key] = (pack(probability > 0.5), *layout) if self._packs else probability.cpu()
        code = self._unpacked(key).to(images.device)
        if self._copy == 0:
            self.own = code
        self._copy += 1
        return code

    def _unpacked(self, key: tuple[int, int]) -> Tensor:
        if not self._packs:
            return self._kept[key]
        rows, shape, strides = self._kept[key]
        bits = np.unpackbits(rows, axis=1, count=shape[1:].numel())
        return torch.empty_strided(shape, strides).copy_(torch.from_numpy(bits).reshape(shape))


def packed_bytes(code_shape: tuple[int, int, int]) -> int:
    """Bytes of a packed code (K, h, w)."""
    return (int(np.prod(code_shape)) + 7) // 8


def pack(bits: Tensor) -> np.ndarray:
    """Bits (N, K, h, w) -> packed rows (N, ceil(K h w / 8)) uint8."""
    return np.packbits(bits.flatten(1).to("cpu", torch.uint8).numpy(), axis=1)
