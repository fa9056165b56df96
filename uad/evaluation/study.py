"""A result folder with its masks, read image by image, by one process or several."""

import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from uad.data.reading.folder import resize_label
from uad.data.reading.formats import EXTENSIONS, read_mask, slice_stem
from uad.data.reading.patients import scan_of
from uad.errors import InputError, Problem, input_error
from uad.evaluation.contenders import AUTOENCODER, Contender, contenders
from uad.neighbours import DISTANCE_KEY, UNKNOWN_DISTANCE, neighbours_of
from uad.results import DISEASED_KEY, VOLATILE_KEYS, Result, ResultFolder, flattened
from uad.scores import EVIDENCE_EXTRA

# What may differ between the runs on diseased and on healthy images: their maps are on one scale all the same, of amp
# but for rounding.
FREE_KEYS = VOLATILE_KEYS | {
    "data_dir",
    "data_hash",
    "num_samples",
    "split",
    "layout",
    "seed",
    "out_dir",
    "save",
    "amp",
}


# How `Study.load` gives masks, for the notes of tables.
MASKS = (
    "lesion where the label is above 0, on the grid of the map; masks of another size by nearest neighbour, and of a "
    "lesion that would vanish a pixel stays"
)
# So many slices keep what they are judged by themselves: more than a slice has neighbours of 1 mm.
RECENT = 24


class Neighbour(NamedTuple):
    """A slice of the same scan, in the same result folder or another one, and its weight."""

    folder: ResultFolder
    name: str
    weight: float


@dataclass(frozen=True)
class Study:
    """A result folder, what to score in it, and masks kept elsewhere (name -> file) that hold in place of its own, None
    where its own do.

    folder: a ResultFolder, or what has its interface, see uad.evaluation.foreign_maps and held_maps; near: slice -> the
    slices of its scan with their weights, where maps are averaged across slices, see with_neighbours.
    """

    folder: ResultFolder
    rows: tuple[Contender, ...]
    masks: Mapping[str, Path] | None = None
    near: Mapping[str, tuple[Neighbour, ...]] | None = None
    # Never handed on to a copy, which has other rows or other neighbours under the same names.
    _recent: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        return self.folder.names

    @property
    def display_channel(self) -> int:
        """The channel that is shown of its images: as run.json says, else the first."""
        return self.folder.run.get("display_channel", 0)

    @property
    def extras(self) -> list[str]:
        """What has to be loaded with every image."""
        return sorted({extra for row in self.rows for extra in row.extras})

    def maps(self, result: Result) -> dict[str, np.ndarray]:
        """Every row's map of one image, by the row's name: that of the image itself, or averaged with those of its
        neighbours.
        """
        if self.near is None:
            return {row.name: row.map(result) for row in self.rows}
        near = self.near[result.name]
        alone = [self._alone(each, result) for each in near]
        weights = [each.weight for each in near]
        return {row.name: _averaged([found[row.name] for found in alone], weights) for row in self.rows}

    def _alone(self, neighbour: Neighbour, result: Result) -> dict[str, np.ndarray]:
        """The maps of a neighbour by itself; the last ones are kept, since slices come in their order."""
        name = neighbour.name
        if name not in self._recent:
            if name != result.name:
                result = neighbour.folder.load(name, self.extras)
            while len(self._recent) >= RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[name] = {row.name: row.map(result) for row in self.rows}
        return self._recent[name]

    def load(self, name: str) -> Result:
        """One image, with its mask of `masks`, if there is one, where these hold.

        A NIfTI mask of a NIfTI image is turned as that lies; one of another size is resized to the map's, and
        small lesions stay. Raises InputError for a lesion in the mask of an image that its release calls healthy.
        """
        result = self.folder.load(name, self.extras)
        if self.masks is None:
            return result
        if name not in self.masks:
            return result._replace(label=None)
        # Only of NIfTI images it is known how they lie, and only theirs state a distance.
        lying = result.record.get(DISTANCE_KEY) is not None
        mask = read_mask(self.masks[name], self.folder.map_path(name) if lying else None, result.affine)
        if mask.any() and result.record.get(DISEASED_KEY) == 0:
            found = f"{int(mask.sum())} lesion pixels, and the release calls the image healthy"
            remedy = "correct the mask, or move the image to its class and run the inference again"
            raise input_error(self.masks[name], found, "no lesion in an image of a healthy class", remedy)
        return result._replace(label=resize_label(torch.from_numpy(mask), result.anomaly_map.shape).numpy())

    def each(self, function: Callable[["Study", str], object], mapper: Callable = map) -> Iterable:
        """function(study, name) of every image, in the order of .names; mapper: map, or one that `mapping` gives."""
        return mapper(partial(function, self), self.names)


@contextmanager
def mapping(workers: int) -> Iterator[Callable[[str], Callable]]:
    """What gives a map for the words beside its progress bar: map over a sized collection, which spreads calls over
    `workers` further processes and keeps their order; 0: in this one.
    """
    if workers == 0:
        yield partial(_with_bar, map)
        return
    # Forking a process in which torch has started threads can deadlock; fresh interpreters cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # Slices in their order, so that neighbours are read once; what is sent with a chunk is as long as the folder.
        yield partial(_with_bar, partial(pool.map, chunksize=16))


def _with_bar(mapper: Callable, words: str) -> Callable[[Callable, Collection], Iterable]:
    return lambda function, items: tqdm(mapper(function, items), total=len(items), desc=words, leave=False)


def open_study(
    folder: Path | str,
    score: str,
    labels: Path | str | None = None,
    polarity: tuple[int, ...] | None = None,
) -> Study:
    """A study of the result folder `folder`; labels: folder of masks named as the images, in place of its own; score,
    polarity: see contenders. Raises InputError.
    """
    results = ResultFolder(folder)
    records = [results.record(name) for name in results.names]
    everywhere = tuple(extra for extra in (AUTOENCODER, EVIDENCE_EXTRA) if _stored(extra, results, records))
    rows = contenders(results.run, everywhere, score, polarity, results.has_inputs)
    return Study(results, rows, _find_masks(Path(labels), results.names) if labels else None)


def method_alone(study: Study, name: str | None = None) -> Study:
    """The study with its method as the only row, called `name` where that is given."""
    first = study.rows[0]
    return replace(study, rows=(replace(first, name=name or first.name),))


def with_neighbours(studies: Sequence[Study], sigma: float) -> list[Study]:
    """The studies, on images of the same patients, with maps averaged across the slices of a scan that any of them has.

    sigma: of the Gaussian in millimetres, see uad.neighbours; 0, and studies of maps made elsewhere, stay as they are.
    """
    if not sigma or not all(study.folder.has_neighbours for study in studies):
        return list(studies)
    folders = {name: study.folder for study in studies for name in study.names}
    first = {scan_of(name): name for name in folders}
    distances = {scan: folders[name].record(name).get(DISTANCE_KEY, UNKNOWN_DISTANCE) for scan, name in first.items()}
    weights = neighbours_of(folders, distances, sigma)
    found = []
    for study in studies:
        # A name that is in several folders is this one's own image here.
        held = folders | dict.fromkeys(study.names, study.folder)
        near = {name: tuple(Neighbour(held[each], each, w) for each, w in weights[name]) for name in study.names}
        found.append(replace(study, near=near))
    return found


def _averaged(maps: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of maps; that of a single slice stays the same bit for bit."""
    return maps[0] if len(maps) == 1 else sum(w * one for w, one in zip(weights, maps, strict=True))


def _stored(extra: str, results: ResultFolder, records: Sequence[Mapping]) -> bool:
    """Whether every image has this extra; InputError where only some have."""
    stored = [extra in record["extras"] for record in records]
    if any(stored) and not all(stored):
        missing = [name for name, has in zip(results.names, stored, strict=True) if not has]
        problem = f"{extra} stored for {sum(stored)} of {len(stored)} images, not for {missing[0]}"
        raise input_error(results.folder, problem, "the same extras for every image", "run the inference again")
    return all(stored)


def check_comparable(study: Study, healthy: Study) -> None:
    """Raises InputError, with every difference, unless both folders' maps are on one scale: the same
    method, checkpoints and settings.
    """
    here, there = (flattened(each.folder.run, FREE_KEYS) for each in (study, healthy))
    here["rows"], there["rows"] = ([row.name for row in each.rows] for each in (study, healthy))
    problems = [
        Problem(
            f"{healthy.folder.folder}, {key}",
            repr(there.get(key)),
            f"{here.get(key)!r} as in {study.folder.folder}",
            "run the inference on the healthy images with the same settings",
        )
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if problems:
        raise InputError(problems)


def check_no_image_twice(study: Study, healthy: Study) -> None:
    """InputError for images that are in both folders: diseased ones, that would count as healthy, or healthy ones, that
    would count twice. They are told by their inputs or, where only maps were kept, by their maps; those of one value
    tell nothing.
    """
    folders = (study.folder, healthy.folder)
    kind = "image" if all(folder.has_inputs for folder in folders) else "anomaly_map"
    shared = {}
    for names in _alike(study.names, healthy.names):
        here, there = (getattr(folder.load(name), kind) for folder, name in zip(folders, names, strict=True))
        if np.array_equal(here, there) and here.max() > here.min():
            shared[names[1]] = names[0]
    if shared:
        there, here = next(iter(shared.items()))
        found = f"{len(shared)} images that are in {study.folder.folder}, too: {there} is {here} there, for instance"
        expected, remedy = "healthy images that are not among those scored", "leave them out of one of the two"
        raise input_error(healthy.folder.folder, found, expected, remedy)


def _alike(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a name of each that may be of one image: they are the same, or one is `<class>_` and the other, as a
    part of a release calls an image whose name two classes have.
    """
    ends = {
        name: [name, *(name[i:] for i, before in enumerate(name, 1) if before == "_")] for name in {*first, *second}
    }
    known = set(first), set(second)
    pairs = {(name, end) for name in first for end in ends[name] if end in known[1]}
    return sorted(pairs | {(end, name) for name in second for end in ends[name] if end in known[0]})


def _find_masks(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise input_error(folder, "no such folder", "a folder of masks", "give the folder that holds the masks")
    files = {slice_stem(path): path for path in sorted(folder.iterdir()) if path.name.lower().endswith(EXTENSIONS)}
    found = {name: files[name] for name in names if name in files}
    if not found:
        example = names[0]
        raise input_error(
            folder,
            f"{len(files)} masks, none named as an image",
            f"files such as {example}.nii.gz or {example}.png",
            "name the masks as the images",
        )
    return found
