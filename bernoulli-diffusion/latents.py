"""The codes of the training images: encoded once, packed to one bit a bit, memory-mapped."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder, collate_slices
from uad.data.training.cache import CachedSlices, allocated, digest_of
from uad.data.training.corruption import corrupt
from uad.data.training.loading import Variation, flip_axis
from uad.distributed import World
from uad.errors import input_error
from uad.files import put_in_place
from uad.randomness import derive_seed

# Raised with every change of what a view shows (reading, augmentation, lesions) beyond rounding, so that older caches
# are not used.
VERSION = 1
# As many views of every image as make this many of the data set, within bounds: with fewer, small data sets are learnt
# by heart; more cost time and space.
WANTED_VIEWS, FEWEST_VIEWS, MOST_VIEWS = 20_000, 4, 32


@dataclass(frozen=True)
class Views:
    """The ways in which every slice is encoded: `count` variations of it (see uad.data.training.loading), each of them
    with synthetic lesions too where `lesion_share`, the share of training codes that show lesions, is above 0. lesions:
    which ones, a name of uad.data.training.corruption.RECIPES.
    """

    variation: Variation
    count: int
    lesion_share: float
    lesions: str

    @property
    def codes(self) -> int:
        """Codes per slice: of the healthy views, then of the same views with lesions."""
        return self.count * (2 if self.lesion_share else 1)

    def healthy(self, item: dict, number: int) -> Tensor:
        """View number 0, 1, ... of a slice folder's item. Mirrored views alternate with others."""
        image = item["image"]
        if self.variation.horizontal_flip and number % 2:
            image = image.flip(1 + flip_axis(item["affine"], item["name"]))
        # View 0 is the slice itself.
        return self.variation.augmented(image, item["name"], number) if number else image

    def lesioned(self, image: Tensor, donor: Tensor, name: str, number: int) -> Tensor:
        """The same view, `image`, with lesions; donor: another slice."""
        rng = np.random.default_rng(derive_seed(self.variation.seed, "lesions", name, number))
        return corrupt(image, donor, rng, self.lesions)

    def chosen(self, position: int) -> tuple[int, bool]:
        """View shown at a position of the training stream, and whether with lesions, by (seed, position)."""
        rng = np.random.default_rng(derive_seed(self.variation.seed, "view", position))
        return int(rng.integers(self.count)), bool(rng.random() < self.lesion_share)


@dataclass(frozen=True)
class ViewPlan:
    """Views before the number of slices is known; count None: as many as fit it. See Views."""

    count: int | None
    lesion_share: float
    lesions: str

    def views(self, variation: Variation, slices: int) -> Views:
        """The views of each of so many slices."""
        default = 1 + variation.horizontal_flip
        if variation.augment or self.lesion_share:
            default = min(max(-(-WANTED_VIEWS // slices), FEWEST_VIEWS), MOST_VIEWS)
        return Views(variation, self.count or default, self.lesion_share, self.lesions)


def donor_of(slices: SliceFolder | CachedSlices, index: int) -> Tensor:
    """Another image, from which slice `index` may get tissue: half a folder away it belongs to another patient, unless
    the folder holds one patient only.
    """
    return slices[(index + len(slices) // 2) % len(slices)]["image"]


class CodeCache(Dataset):
    """Packed codes of all slices of a folder in all views.

    A key (index, position) gives a dict of code, the healthy code (K, h, w) float32 in {0, 1}; shown, the one that
    noise is added to (of the image with lesions, or the same); name, index and position.
    """

    def __init__(self, path: Path, slices: SliceFolder, code_shape: tuple[int, int, int], views: Views):
        self.slices, self.code_shape, self.views = slices, code_shape, views
        try:
            self.packed = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            found = f"unreadable ({error})"
            raise input_error(path, found, "packed codes", "delete it: the same command makes it anew") from error

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        view, lesions = self.views.chosen(position)
        code = self._code(index, view)
        return {
            "code": code,
            "shown": self._code(index, self.views.count + view) if lesions else code,
            "name": self.slices.names[index],
            "index": index,
            "position": position,
        }

    def _code(self, index: int, number: int) -> Tensor:
        bits = np.unpackbits(self.packed[index, number], count=int(np.prod(self.code_shape)))
        return torch.from_numpy(bits.reshape(self.code_shape).astype(np.float32))


class LiveViews(Dataset):
    """A new view of a slice at every position of the stream, for codes that are not cached.

    A key (index, position) gives a dict of image, the healthy view (C, S, S); shown_image, the same with lesions or
    without; name, index and position.
    """

    def __init__(self, slices: SliceFolder | CachedSlices, views: Views):
        self.slices, self.views = slices, views

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        item = self.slices[index]
        image = self.views.healthy(item, position)
        _, lesions = self.views.chosen(position)
        shown = image
        if lesions:
            shown = self.views.lesioned(image, donor_of(self.slices, index), item["name"], position)
        return {"image": image, "shown_image": shown, "name": item["name"], "index": index, "position": position}


def cache_path(folder: Path, slices: SliceFolder, autoencoder_hash: str, views: Views) -> Path:
    """The cache file's name: it changes with the autoencoder's weights, the images, how they are read and varied, and
    with the code that does so, where VERSION says it."""
    made_by = (
        VERSION,
        autoencoder_hash,
        slices.normalise,
        slices.img_size,
        views.variation,
        views.count,
        views.lesions if views.lesion_share else None,
    )
    return folder / f"codes-{digest_of(made_by, slices.paths)}.npy"


def build_cache(
    path: Path,
    slices: SliceFolder | CachedSlices,
    encode: Callable[[Tensor], Tensor],
    code_shape: tuple[int, int, int],
    views: Views,
    world: World,
    batch_size: int,
    workers: int,
) -> None:
    """Encode all slices, each process its share, into `path`; nothing is done where it exists.

    encode: images (N, C, S, S) on the process's device -> bits (N, K, h, w) in {0, 1}. All processes write into one
    temporary file, which gets its name when all are done.
    """
    # One answer for all: on a network file system the processes may see different folders for a while.
    if world.from_main(int(path.exists())):
        return
    temporary = path.with_name(f".tmp-{path.name}")
    width = (int(np.prod(code_shape)) + 7) // 8
    world.on_main(lambda: allocated(temporary, np.uint8, (len(slices), views.codes, width)))
    packed = np.lib.format.open_memmap(temporary, "r+")
    own = Subset(ViewedSlices(slices, views), range(world.rank, len(slices), world.size))
    loader = DataLoader(own, max(1, batch_size // views.codes), num_workers=workers, collate_fn=collate_slices)
    for batch in tqdm(loader, desc="encoding", unit="batch", disable=not world.is_main):
        images = batch["image"].to(world.device)
        packed[batch["index"].numpy()] = pack(encode(images.flatten(0, 1))).reshape(*images.shape[:2], -1)
    packed.flush()
    world.barrier()
    world.on_main(lambda: put_in_place(temporary, path))


class ViewedSlices(Dataset):
    """The slices of a folder with `image` (codes, C, S, S): every view, and every view with lesions."""

    def __init__(self, slices: SliceFolder | CachedSlices, views: Views):
        self.slices, self.views = slices, views

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict:
        item = self.slices[index]
        images = [self.views.healthy(item, number) for number in range(self.views.count)]
        if self.views.lesion_share:
            donor = donor_of(self.slices, index)
            images += [self.views.lesioned(image, donor, item["name"], i) for i, image in enumerate(images)]
        return item | {"image": torch.stack(images)}


def pack(bits: Tensor) -> np.ndarray:
    """Bits (N, K, h, w) -> packed rows (N, ceil(K h w / 8)) uint8."""
    return np.packbits(bits.flatten(1).to("cpu", torch.uint8).numpy(), axis=1)
