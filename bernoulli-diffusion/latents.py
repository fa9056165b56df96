"""The codes of the training images: encoded once, packed to one bit a bit, memory-mapped."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from uad.data.folder import SliceFolder, collate_slices
from uad.data.loading import flip_axis, mirrored
from uad.distributed import World
from uad.files import put_in_place


class CodeCache(Dataset):
    """Packed codes of all slices of a folder, of their mirror images too if `horizontal_flip`.

    A key (index, position) gives a dict of code (K, h, w) float32 in {0, 1}, name, index and position, as
    uad.data.loading.TrainingImages does for images.
    """

    def __init__(self, path: Path, slices: SliceFolder, code_shape: tuple[int, int, int], horizontal_flip, seed: int):
        self.slices, self.code_shape, self.horizontal_flip, self.seed = slices, code_shape, horizontal_flip, seed
        self.packed = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        row = index + len(self) * (self.horizontal_flip and mirrored(self.seed, position))
        bits = np.unpackbits(self.packed[row], count=int(np.prod(self.code_shape))).reshape(self.code_shape)
        code = torch.from_numpy(bits.astype(np.float32))
        return {"code": code, "name": self.slices.names[index], "index": index, "position": position}


def cache_path(folder: Path, slices: SliceFolder, autoencoder_hash: str, horizontal_flip: bool) -> Path:
    """The cache file's name: it changes with the autoencoder's weights, the images and how they are read."""
    digest = hashlib.sha256(f"{autoencoder_hash} {slices.normalise} {slices.img_size} {horizontal_flip}".encode())
    for path in slices.paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return folder / f"codes-{digest.hexdigest()[:16]}.npy"


def build_cache(
    path: Path,
    slices: SliceFolder,
    encode: Callable[[Tensor], Tensor],
    code_shape: tuple[int, int, int],
    horizontal_flip: bool,
    world: World,
    batch_size: int,
    workers: int,
) -> None:
    """Encode all slices, each process its share, into `path`; nothing is done where it exists.

    encode: images (N, C, S, S) on the process's device -> bits (N, K, h, w) in {0, 1}. All processes write into one
    temporary file, which gets its name when all are done.
    """
    if path.exists():
        return
    rows = len(slices) * (2 if horizontal_flip else 1)
    temporary = path.with_name(f".tmp-{path.name}")
    if world.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        width = (int(np.prod(code_shape)) + 7) // 8
        np.lib.format.open_memmap(temporary, "w+", np.uint8, (rows, width)).flush()
    world.barrier()
    packed = np.lib.format.open_memmap(temporary, "r+")
    own = Subset(slices, range(world.rank, len(slices), world.size))
    loader = DataLoader(own, batch_size, num_workers=workers, collate_fn=collate_slices)
    for batch in tqdm(loader, desc="encoding", unit="batch", disable=not world.is_main):
        images, index = batch["image"].to(world.device), batch["index"].numpy()
        packed[index] = pack(encode(images))
        if horizontal_flip:
            axes = map(flip_axis, batch["affine"], batch["name"])
            turned = torch.stack([image.flip(1 + axis) for image, axis in zip(images, axes, strict=True)])
            packed[index + len(slices)] = pack(encode(turned))
    packed.flush()
    world.barrier()
    if world.is_main:
        put_in_place(temporary, path)
    world.barrier()


def pack(bits: Tensor) -> np.ndarray:
    """Bits (N, K, h, w) -> packed rows (N, ceil(K h w / 8)) uint8."""
    return np.packbits(bits.flatten(1).to("cpu", torch.uint8).numpy(), axis=1)
