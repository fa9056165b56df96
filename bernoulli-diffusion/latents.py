"""The views in which stage 2 sees its training images: varied, mirrored, with synthetic lesions or without."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from uad.data.reading.folder import SliceFolder
from uad.data.training.augmentation import augmented
from uad.data.training.cache import CachedSlices
from uad.data.training.corruption import corrupted
from uad.data.training.lesions import RECIPES, Lesions, drawn_lesions
from uad.data.training.loading import Variation, flipped, with_augmentation
from uad.data.training.parameters import Rows, each
from uad.randomness import derive_seed

# Raised with every change of what a view shows (reading, augmentation, lesions) beyond rounding, so that older caches
# are not used.
VERSION = 2
# As many views of every image as make this many of the data set, within bounds: with fewer, small data sets are learnt
# by heart; more cost time and space.
WANTED_VIEWS, FEWEST_VIEWS, MOST_VIEWS = 20_000, 4, 32


@dataclass(frozen=True)
class Views:
    """The ways in which every slice is encoded: `count` variations of it (see uad.data.training.loading), each of them
    with synthetic lesions too where `lesion_share`, the share of training codes that show lesions, is above 0. lesions:
    which ones, a name of uad.data.training.lesions.RECIPES.
    """

    variation: Variation
    count: int
    lesion_share: float
    lesions: str

    @property
    def codes(self) -> int:
        """Codes per slice: of the healthy views, then of the same views with lesions."""
        return self.count * (2 if self.lesion_share else 1)

    def oriented(self, item: dict, number: int) -> Tensor:
        """The image (C, S, S) of a slice folder's item that view number 0, 1, ... is made of: itself, or mirrored."""
        if self.mirrored(number):
            return flipped(item)
        return item["image"]

    def mirrored(self, number: int) -> bool:
        """Whether a view is mirrored: such views alternate with others."""
        return self.variation.horizontal_flip and number % 2 == 1

    def drawn_lesions(self, item: dict, number: int) -> Lesions:
        """The lesions of a view of a slice folder's item, by (seed, name, number)."""
        image = item["image"]
        rng = np.random.default_rng(derive_seed(self.variation.seed, "lesions", item["name"], number))
        return drawn_lesions(len(image), image.shape[-1], RECIPES[self.lesions], rng)

    def lesioned(self, images: Tensor, donors: Tensor, lesions: Lesions) -> Tensor:
        """Views (N, C, S, S) with their lesions, on the device of the images; donors: other slices, as many."""
        return corrupted(images, donors, lesions, RECIPES[self.lesions])

    def chosen(self, position: int) -> tuple[int, bool]:
        """View shown at a position of the training stream, and whether with lesions, by (seed, position)."""
        rng = np.random.default_rng(derive_seed(self.variation.seed, "view", position))
        return int(rng.integers(self.count)), bool(rng.random() < self.lesion_share)


@dataclass(frozen=True)
class ViewPlan:
    """Views before slices are known. count None: as many as fit their number; lesions None: not chosen. See Views."""

    count: int | None
    lesion_share: float
    lesions: str | None

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


class LiveViews(Dataset):
    """A new view of a slice at every position of the stream, for codes that are not cached.

    A key (index, position) gives a dict of image (C, S, S), name, index and position, and of what `prepared` makes the
    view of: `augmentation` and `lesions` where the views have any, with `donor`, an image that lesions take tissue of.
    """

    def __init__(self, slices: SliceFolder | CachedSlices, views: Views):
        self.slices, self.views = slices, views

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, position = key
        item, views = self.slices[index], self.views
        image = views.oriented(item, position)
        view = {"image": image, "name": item["name"], "index": index, "position": position}
        if views.variation.augment:
            view["augmentation"] = views.variation.augmentation(image, item["name"], position)
        if views.lesion_share:
            lesions = views.drawn_lesions(item, position)
            view["lesions"] = lesions if views.chosen(position)[1] else lesions.absent()
            # Another slice is read only where it is needed.
            view["donor"] = donor_of(self.slices, index) if view["lesions"].needs_donor() else image
        return view

    def prepared(self, batch: dict) -> dict:
        """A collated batch, on any device, with image, the healthy views (N, C, S, S), and shown_image, the same with
        lesions or without."""
        batch = with_augmentation(batch)
        image, lesions, donor = batch["image"], batch.pop("lesions", None), batch.pop("donor", None)
        return batch | {"shown_image": image if lesions is None else self.views.lesioned(image, donor, lesions)}


class ViewedSlices(Dataset):
    """The slices of a folder with all that their views are made of.

    An item is a dict of index, orientations (1 or 2, C, S, S): the slice and the mirrored one, and where the views have
    any, of `augmentation` (count - 1), of all views but view 0, `lesions` (count), and `donor` (C, S, S): another
    slice.
    """

    def __init__(self, slices: SliceFolder | CachedSlices, views: Views):
        self.slices, self.views = slices, views

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict:
        item, views = self.slices[index], self.views
        numbers = range(views.count)
        orientations = [views.oriented(item, number) for number in numbers[: 1 + views.mirrored(1)]]
        parts = {"index": index, "orientations": torch.stack(orientations)}
        if views.variation.augment and views.count > 1:
            drawn = (views.variation.augmentation(item["image"], item["name"], number) for number in numbers[1:])
            parts["augmentation"] = default_collate(list(drawn))
        if views.lesion_share:
            parts["lesions"] = default_collate([views.drawn_lesions(item, number) for number in numbers])
            parts["donor"] = donor_of(self.slices, index)
        return parts

    def prepared(self, batch: dict) -> Tensor:
        """The images (N, codes, C, S, S) of a collated batch, whose tensors may be on any device: every view, and every
        view with lesions. View 0 is the slice itself."""
        count = self.views.count
        images = torch.stack([batch["orientations"][:, int(self.views.mirrored(n))] for n in range(count)], 1)
        if "augmentation" in batch:
            others = augmented(images[:, 1:].flatten(0, 1), _of_views(batch["augmentation"]))
            images[:, 1:] = others.unflatten(0, (-1, count - 1))
        if "lesions" not in batch:
            return images
        donors = batch["donor"].repeat_interleave(count, 0)
        shown = self.views.lesioned(images.flatten(0, 1), donors, _of_views(batch["lesions"]))
        return torch.cat([images, shown.unflatten(0, (-1, count))], 1)


def _of_views(parameters: Rows) -> Rows:
    """Parameters of slices and their views, (N, V, ...), as those of N V images."""
    return each(lambda value: value.flatten(0, 1), parameters)
