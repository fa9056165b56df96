"""Held-out images by which a training is judged: a few, and the same with the same lesions in every evaluation."""

import hashlib
from dataclasses import dataclass

import numpy as np
from torch.utils.data import default_collate

from bernoulli_diffusion.latents import ViewedSlices, Views
from uad.data.reading.folder import SliceFolder
from uad.data.reading.listing import evenly_spread
from uad.data.training.loading import Variation

# So many images are judged, half of them diseased where there are enough of both kinds: of the small networks that
# takes a CPU 2.4 s, and the 100 steps between two evaluations 57 s.
MOST_IMAGES = 32
# So many images of a large folder, evenly spread, are looked at for lesions.
LOOKED_AT = 512
# An image counts as lesion where any channel was changed by more: half of what the faintest synthetic lesions change
# in their middle. Their soft outlines have no end.
CHANGED = 0.02
# Of synthetic lesions, whatever the seed of the training: trainings are compared by the same ones.
SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """Images to judge a training by.

    names: of the images, by which their noise is drawn; an image and its copy with lesions have the same. images:
    (N, C, S, S) float32 in [0, 1]; masks: (N, S, S) bool; affines: (N, 4, 4); lesions: the recipe of synthetic ones,
    see uad.data.training.lesions, None for those of the folder's own masks.
    """

    names: list[str]
    images: np.ndarray
    masks: np.ndarray
    affines: np.ndarray
    lesions: str | None

    @property
    def diseased(self) -> int:
        """How many of the images have a lesion."""
        return int(self.masks.any((1, 2)).sum())

    def digest(self, text: str) -> str:
        """SHA-256 over a text, names, images and masks, 16 hexadecimal digits."""
        digest = hashlib.sha256(repr((text, self.names, self.images.shape)).encode())
        digest.update(self.images.tobytes())
        digest.update(np.packbits(self.masks).tobytes())
        return digest.hexdigest()[:16]


def held_out_images(slices: SliceFolder, lesions: str) -> HeldOut:
    """At most MOST_IMAGES of a folder, evenly spread over its diseased and its healthy ones; or, where it has no
    diseased ones, half as many, each as it is and with synthetic lesions of the recipe `lesions`.

    InputError as SliceFolder.
    """
    looked_at = evenly_spread(range(len(slices)), LOOKED_AT)
    diseased = [index for index in looked_at if slices.has_lesion(index)]
    healthy = sorted(set(looked_at) - set(diseased))
    half = MOST_IMAGES // 2
    if not diseased:
        return _with_synthetic_lesions(slices, evenly_spread(healthy, half), lesions)
    chosen = evenly_spread(diseased, max(half, MOST_IMAGES - len(healthy)))
    chosen = sorted(chosen + evenly_spread(healthy, MOST_IMAGES - len(chosen)))
    items = [slices[index] for index in chosen]
    images = np.stack([item["image"].numpy() for item in items])
    masks = np.zeros((len(images), *images.shape[2:]), bool)
    for mask, item in zip(masks, items, strict=True):
        if "label" in item:  # else its last channel is none, as that of others here is
            mask[:] = item["label"].numpy() > 0
    return HeldOut([item["name"] for item in items], images, masks, _affines(items), None)


def _with_synthetic_lesions(slices: SliceFolder, chosen: list[int], lesions: str) -> HeldOut:
    """Slices as they are, followed by the same ones with lesions, which are drawn by (SEED, name of the image)."""
    views = ViewedSlices(slices, Views(Variation(False, 0.0, SEED), count=1, lesion_share=1.0, lesions=lesions))
    healthy, changed = views.prepared(default_collate([views[index] for index in chosen])).numpy().swapaxes(0, 1)
    masks = np.abs(changed - healthy).max(1) > CHANGED
    items = [slices[index] for index in chosen]
    return HeldOut(
        [item["name"] for item in items] * 2,
        np.concatenate([healthy, changed]),
        np.concatenate([np.zeros_like(masks), masks]),
        np.tile(_affines(items), (2, 1, 1)),
        lesions,
    )


def _affines(items: list[dict]) -> np.ndarray:
    return np.stack([item["affine"].numpy() for item in items])
