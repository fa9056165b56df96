"""The codes of the training images: encoded once, packed to one bit a bit, memory-mapped."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from uad.data.corruption import corrupt
from uad.data.folder import SliceFolder, collate_slices
from uad.data.loading import flip_axis, mirrored
from uad.distributed import World
from uad.files import put_in_place
from uad.randomness import derive_seed


@dataclass(frozen=True)
class Variants:
    """What is encoded of every slice: itself, its mirror image too if `horizontal_flip`, and each of these with
    `corruptions` different sets of synthetic lesions. A training image shows lesions with probability `share`.
    """

    horizontal_flip: bool
    corruptions: int
    share: float
    seed: int

    @property
    def orientations(self) -> int:
        return 2 if self.horizontal_flip else 1

    @property
    def count(self) -> int:
        """Codes per slice."""
        return self.orientations * (1 + self.corruptions)

    def index(self, orientation: int, corruption: int) -> int:
        """Number of a variant in 0..count - 1; corruption 0 is the slice without lesions."""
        return orientation * (1 + self.corruptions) + corruption

    def chosen(self, position: int) -> tuple[int, int]:
        """Orientation and corruption shown at a position of the training stream, by (seed, position)."""
        orientation = int(self.horizontal_flip and mirrored(self.seed, position))
        rng = np.random.default_rng(derive_seed(self.seed, "corruption", position))
        corrupted = self.corruptions > 0 and rng.random() < self.share
        return orientation, int(rng.integers(1, self.corruptions + 1)) if corrupted else 0


class CodeCache(Dataset):
    """Packed codes of all slices of a folder in all variants.

    A key (index, position) gives a dict of code, the healthy code (K, h, w) float32 in {0, 1}; shown, the one that
    noise is added to (of the image with lesions, or the same); name, index and position.
    """

    def __init__(self, path: Path, slices: SliceFolder, code_shape: tuple[int, int, int], variants: Variants):
        self.slices, self.code_shape, self.variants = slices, code_shape, variants
        self.packed = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        orientation, corruption = self.variants.chosen(position)
        return {
            "code": self._code(index, self.variants.index(orientation, 0)),
            "shown": self._code(index, self.variants.index(orientation, corruption)),
            "name": self.slices.names[index],
            "index": index,
            "position": position,
        }

    def _code(self, index: int, variant: int) -> Tensor:
        bits = np.unpackbits(self.packed[index, variant], count=int(np.prod(self.code_shape)))
        return torch.from_numpy(bits.reshape(self.code_shape).astype(np.float32))


def cache_path(folder: Path, slices: SliceFolder, autoencoder_hash: str, variants: Variants) -> Path:
    """The cache file's name: it changes with the autoencoder's weights, the images, how they are read and varied."""
    lesions = (variants.corruptions, variants.seed if variants.corruptions else 0)
    made_by = (autoencoder_hash, slices.normalise, slices.img_size, variants.horizontal_flip, *lesions)
    digest = hashlib.sha256(repr(made_by).encode())
    for path in slices.paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return folder / f"codes-{digest.hexdigest()[:16]}.npy"


def build_cache(
    path: Path,
    slices: SliceFolder,
    encode: Callable[[Tensor], Tensor],
    code_shape: tuple[int, int, int],
    variants: Variants,
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
    temporary = path.with_name(f".tmp-{path.name}")
    if world.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        width = (int(np.prod(code_shape)) + 7) // 8
        np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(slices), variants.count, width)).flush()
    world.barrier()
    packed = np.lib.format.open_memmap(temporary, "r+")
    own = Subset(VariedSlices(slices, variants), range(world.rank, len(slices), world.size))
    loader = DataLoader(own, batch_size, num_workers=workers, collate_fn=collate_slices)
    for batch in tqdm(loader, desc="encoding", unit="batch", disable=not world.is_main):
        for variant, images in enumerate(batch["image"].unbind(1)):
            packed[batch["index"].numpy(), variant] = pack(encode(images.to(world.device)))
    packed.flush()
    world.barrier()
    if world.is_main:
        put_in_place(temporary, path)
    world.barrier()


class VariedSlices(Dataset):
    """The slices of a folder with `image` (variants, C, S, S): every variant in the order of Variants.index."""

    def __init__(self, slices: SliceFolder, variants: Variants):
        self.slices, self.variants = slices, variants

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict:
        item = self.slices[index]
        images = [item["image"]]
        if self.variants.horizontal_flip:
            images.append(item["image"].flip(1 + flip_axis(item["affine"], item["name"])))
        if self.variants.corruptions:
            # Half a folder away, a slice belongs to another patient unless the folder holds one patient only.
            donor = self.slices[(index + len(self) // 2) % len(self)]["image"]
            images = [varied for i, image in enumerate(images) for varied in self._corrupted(image, donor, index, i)]
        return item | {"image": torch.stack(images)}

    def _corrupted(self, image: Tensor, donor: Tensor, index: int, orientation: int) -> list[Tensor]:
        key = (self.variants.seed, "lesions", self.slices.names[index], orientation)
        rng = np.random.default_rng(derive_seed(*key))
        return [image, *(corrupt(image, donor, rng) for _ in range(self.variants.corruptions))]


def pack(bits: Tensor) -> np.ndarray:
    """Bits (N, K, h, w) -> packed rows (N, ceil(K h w / 8)) uint8."""
    return np.packbits(bits.flatten(1).to("cpu", torch.uint8).numpy(), axis=1)
