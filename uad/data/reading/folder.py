"""A folder of slices as a data set: the same for every method, format and stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch.utils.data import Dataset

from uad.data.reading.contrast import Contrast
from uad.data.reading.formats import RawSlice, read_mask, read_slice
from uad.data.reading.listing import evenly_spread
from uad.data.reading.normalise import normalise
from uad.data.reading.patients import patient_of
from uad.data.reading.released import Place, list_images
from uad.errors import InputError, ValueProblem, input_error


def read_labelled(path: Path, mask: Path | None, n_channels: int, empty: bool = False) -> RawSlice:
    """A slice with the label that it carries or that the mask file gives; empty: without these it has no lesion.

    Raises InputError as `read_slice` and `read_mask` do, for two labels, and for a mask of another size.
    """
    raw = read_slice(path, n_channels)
    if mask is None:
        healthy = np.zeros(raw.image.shape[1:], np.uint8) if empty and raw.label is None else raw.label
        return raw._replace(label=healthy)
    if raw.label is not None:
        raise input_error(
            path,
            f"a label as its last channel, and a mask file {mask}",
            "one label an image",
            "remove the mask file or the last channel",
        )
    label = read_mask(mask, path, raw.affine)
    if label.shape != raw.image.shape[1:]:
        raise input_error(
            mask,
            f"a mask of size {label.shape}",
            f"{raw.image.shape[1:]}, the size of {path}",
            "resample the mask to its image (nearest neighbour); check that the two are not transposed",
        )
    return raw._replace(label=label)


def normalised(path: Path, raw: RawSlice, how: str, contrast: Contrast | None = None) -> np.ndarray:
    """`normalise` for a slice that was read from `path`; InputError where the values do not allow it."""
    try:
        return normalise(raw.image, how, raw.full_scale, contrast)
    except ValueProblem as error:
        raise error.at(path) from error


def resized_affine(affine: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The affine after resampling an (H, W) image from size `old` to `new` over the same field of view.

    The centre of new pixel i lies at old index (i + 1/2) s - 1/2 with s = old / new.
    """
    step_h, step_w = old[0] / new[0], old[1] / new[1]
    to_old = np.diag([step_h, step_w, 1.0, 1.0])
    to_old[:2, 3] = (step_h - 1) / 2, (step_w - 1) / 2
    return affine @ to_old


def left_right_axis(affine: np.ndarray, name: str, flag: str) -> int:
    """The spatial axis (0 = H, 1 = W) of a slice nearest to the patient's left-right direction.

    Raises InputError, which names the slice, where that is not in its plane; flag: what needs it, and can be put off.
    """
    along_x = np.abs(affine[0, :3])
    axis = int(along_x.argmax())
    if axis == 2 or not along_x[axis] > 0:
        raise input_error(
            name,
            "a slice without a left-right direction in its plane, by its affine",
            f"an axial or coronal slice for --{flag}",
            f"pass --no-{flag}, with a new folder for what was begun, or correct the affine",
        )
    return axis


def resize_image(image: torch.Tensor, size: int) -> torch.Tensor:
    """Resize (C, H, W) to (C, size, size): bilinear with antialiasing; the aspect ratio is not kept."""
    if image.shape[1:] == (size, size):
        return image
    size_2d = (size, size)
    resized = F.interpolate(image[None], size_2d, mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.clamp(0, 1)


def resize_mask(mask: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resize (H, W) to `shape`: the old pixel at the centre of the new one."""
    rows, columns = (((torch.arange(new) + 0.5) * n / new).long() for n, new in zip(mask.shape, shape, strict=True))
    return mask[rows][:, columns]


def resize_label(label: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resize a lesion mask (H, W) uint8 to `shape` as resize_mask; of a lesion that lies between the centres of the new
    pixels the one that holds most of it stays, so that none vanishes.
    """
    resized = resize_mask(label, shape)
    if label.shape == resized.shape or not label.any():
        return resized
    lesions, _ = ndimage.label(label.numpy(), np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(lesions), 1):
        inside = np.argwhere(lesions[box] == number) + [each.start for each in box]
        pixels = torch.from_numpy(inside * np.array(shape) // np.array(label.shape))
        if not resized[pixels[:, 0], pixels[:, 1]].any():
            most = (pixels[:, 0] * shape[1] + pixels[:, 1]).bincount().argmax()
            resized[most // shape[1], most % shape[1]] = 1
    return resized


class SliceFolder(Dataset):
    """The slices of a folder or a part of a release, in the order of their names, normalised and resized to a square.

    Item `i` is a dict: image (C, S, S) float32 in [0, 1]; label (S, S) uint8 where the slice has one (as
    its last channel or in a mask file, see list_images); name and patient, str; index, int; affine (4, 4) float64 of
    the resized image.

    .diseased: by name, whether an image is, where its place in a release says it.

    limit: keep only so many slices, spread evenly over the folder; patients: see patient_of; contrast: see normalise.
    Raises InputError for an unusable folder at once, and for an unusable file when it is read.
    """

    def __init__(
        self,
        folder: Place,
        n_channels: int,
        img_size: int,
        normalise: str,
        limit: int | None = None,
        patients: Mapping[str, str] | None = None,
        contrast: Contrast | None = None,
    ):
        self.folder, self.n_channels, self.img_size = Path(folder), n_channels, img_size
        self.normalise, self.contrast = normalise, contrast
        listing = list_images(folder)
        if listing.problems:
            raise InputError(listing.problems)
        slices, self._masks, self._empty = listing.slices, listing.masks, listing.empty
        self.diseased = listing.diseased
        if limit is not None and limit < len(slices):
            chosen = evenly_spread(list(slices), limit)
            slices = {stem: slices[stem] for stem in chosen}
        self.names: list[str] = list(slices)
        self.paths: list[Path] = list(slices.values())
        self.patients: list[str] = [patient_of(name, patients) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def has_lesion(self, index: int) -> bool:
        """Whether the label of a slice shows one; of a slice with a mask file that alone is read."""
        mask = self._masks.get(self.names[index])
        label = self._raw(index).label if mask is None else read_mask(mask)
        return label is not None and bool(label.any())

    def _raw(self, index: int) -> RawSlice:
        name = self.names[index]
        return read_labelled(self.paths[index], self._masks.get(name), self.n_channels, name in self._empty)

    def __getitem__(self, index: int) -> dict:
        name, path = self.names[index], self.paths[index]
        raw = self._raw(index)
        size = raw.image.shape[1:]
        image = normalised(path, raw, self.normalise, self.contrast)
        item = {
            "image": resize_image(torch.from_numpy(image), self.img_size),
            "name": name,
            "patient": self.patients[index],
            "index": index,
            "affine": torch.from_numpy(resized_affine(raw.affine, size, (self.img_size, self.img_size))),
        }
        if raw.label is not None:
            item["label"] = resize_label(torch.from_numpy(raw.label), (self.img_size, self.img_size))
        return item


def collate_slices(items: Sequence[dict]) -> dict:
    """Items of SliceFolder as one batch.

    image (N, C, S, S), affine (N, 4, 4) and index (N,) int64 are tensors, name and patient lists; label is a list, too,
    of (S, S) each, None for an item without one.
    """
    batch = {key: torch.stack([item[key] for item in items]) for key in ("image", "affine")}
    batch["index"] = torch.tensor([item["index"] for item in items])
    return batch | {key: [item.get(key) for item in items] for key in ("name", "patient", "label")}
