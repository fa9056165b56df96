"""Images that are read once and held, and maps of them that are scored without a result folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder
from uad.evaluation.contenders import SAVED, Contender
from uad.evaluation.study import Study
from uad.inference import known_of
from uad.results import Result
from uad.suited import suited_to


@dataclass(frozen=True)
class HeldImages:
    """The images of a folder, in its order.

    dataset: one of uad.data.reading.settings.DATASETS, by which images are scored; images: (N, C, S, S) float32 in
    [0, 1], 4 C S^2 bytes each; affines: (4, 4) each; labels: (S, S) uint8, None without a mask; records: name, patient
    and what evaluation has to know of each, as in a result folder.
    """

    folder: Path
    dataset: str
    names: tuple[str, ...]
    images: np.ndarray
    affines: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray | None, ...]
    records: tuple[dict, ...]

    @property
    def with_lesion(self) -> int:
        """How many have a mask that is not empty."""
        return sum(label is not None and bool(label.any()) for label in self.labels)


def read_images(slices: SliceFolder, dataset: str, workers: int) -> HeldImages:
    """Read every image of a folder; dataset: see HeldImages; workers: processes that read. InputError for a file that
    cannot be used.
    """
    images = np.empty((len(slices), slices.n_channels, slices.img_size, slices.img_size), np.float32)
    affines, labels, records = [], [], []
    loader = DataLoader(slices, batch_size=None, num_workers=workers)
    for item in tqdm(loader, desc=f"reading {slices.folder.name}", unit="image", leave=False):
        images[item["index"]] = item["image"].numpy()
        affine, label = item["affine"].numpy(), item.get("label")
        affines.append(affine)
        labels.append(None if label is None else label.numpy())
        head = {"name": item["name"], "patient": item["patient"], "has_label": label is not None, "extras": []}
        records.append(head | known_of(slices, item["index"], affine))
    names = tuple(slices.names)
    return HeldImages(slices.folder, dataset, names, images, tuple(affines), tuple(labels), tuple(records))


class HeldMaps:
    """Maps (N, S, S) of held images, with the interface of uad.results.ResultFolder; inputs are not scored.

    run: what run.json would say, at least `method`.
    """

    has_inputs, has_neighbours = False, True

    def __init__(self, held: HeldImages, maps: np.ndarray, run: dict):
        self.folder, self.run, self.incomplete = held.folder, run, []
        self._held, self._maps = held, maps
        self._place = {name: place for place, name in enumerate(held.names)}
        self.names = sorted(held.names)

    def record(self, name: str) -> dict:
        """The record of one image."""
        return self._held.records[self._place[name]]

    def load(self, name: str, extras: Sequence[str] = ()) -> Result:
        """One image with its map; there are no extras."""
        place, held = self._place[name], self._held
        record = held.records[place]
        label, affine = held.labels[place], held.affines[place]
        return Result(name, record["patient"], affine, None, None, self._maps[place], label, {}, record)


def study_of(held: HeldImages, maps: np.ndarray, run: dict) -> Study:
    """A study of maps (N, S, S) of the images, with the method as its only row."""
    row = Contender(run["method"], "method", SAVED, image_score=suited_to(held.dataset).image_score)
    return Study(HeldMaps(held, maps, run), (row,))
