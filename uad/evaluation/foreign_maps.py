"""Maps that any other software made, with the labels of their images, read like a result folder.

A file is a slice or a volume; a volume counts as its axial slices, every one of them, also those outside the body: each
voxel is scored, and each slice is an image. There is neither input nor reconstruction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from uad.data.reading.patients import patient_of, patient_of_scan, scan_of
from uad.errors import InputError, Problem, input_error
from uad.evaluation.contenders import SAVED, Contender
from uad.evaluation.foreign_files import Planes, read_planes
from uad.evaluation.pairing import Pair, pairs_of
from uad.evaluation.study import Study
from uad.neighbours import slice_number
from uad.results import Result

METHOD = "anomaly map"


@dataclass(frozen=True)
class Contents:
    """What a map's file holds: its slices, and whether it and its label were paired by index."""

    slices: int
    by_index: bool


class MapFolder:
    """A folder of maps, with the interface of uad.results.ResultFolder; there are no inputs, and each slice
    is by itself.

    .run: where the maps and the labels lie, how many files there are, how many of them were paired by index, and of how
    many the table names the patient; .names: of slices, and `<volume>_<slice>` of volumes; .incomplete: empty.
    """

    has_inputs = has_neighbours = False

    def __init__(
        self,
        folder: Path,
        labels: Path | None,
        files: Mapping[Pair, Contents],
        patients: Mapping[str, str] | None = None,
    ):
        """files: what was found in every pair; patients: see open_maps. InputError for two images of one name."""
        self.folder, self.incomplete = folder, []
        self._patients = dict(patients or {})
        self.run = {
            "method": METHOD,
            "maps": str(folder),
            "labels": str(labels) if labels else None,
            "files": len(files),
            "paired_by_index": sum(contents.by_index for contents in files.values()),
            "volumes_paired_by_index": sum(each.by_index and each.slices > 1 for each in files.values()),
            "patients_from_table": sum(
                pair.name in self._patients or scan_of(pair.name) in self._patients for pair in files
            ),
        }
        self._slices = {pair.name: pair for pair, contents in files.items() if contents.slices == 1}
        self._volumes = {pair.name: pair for pair, contents in files.items() if contents.slices > 1}
        of_volumes = [
            f"{pair.name}_{level:03d}" for pair, contents in files.items() if contents.slices > 1
            for level in range(contents.slices)
        ]  # fmt: skip
        shared = [name for name in of_volumes if name in self._slices]
        if shared:
            found = f"a slice {shared[0]}, and a volume with a slice of this name"
            raise input_error(folder, found, "one map per image", "keep slices and volumes in folders of their own")
        # Slices of one volume follow each other, so that each is read once.
        self.names = sorted([*self._slices, *of_volumes])

    def record(self, name: str) -> dict:
        """name, patient, has_label and extras of one image, its scan and its number in this."""
        return self._record(name, self._place(name)[0])

    def load(self, name: str, extras: Sequence[str] = ()) -> Result:
        """Read one image; InputError as read_planes, where a file has changed since it was checked."""
        pair, level = self._place(name)
        planes = _read_once(pair, tuple(_changed(path) for path in (pair.map, pair.label)))
        label = None if planes.labels is None else planes.labels[level]
        record = self._record(name, pair)
        return Result(name, record["patient"], planes.affine, None, None, planes.maps[level], label, {}, record)

    def _place(self, name: str) -> tuple[Pair, int]:
        """The files of an image and its plane in them."""
        if name in self._slices:
            return self._slices[name], 0
        volume, level = name.rsplit("_", 1)
        return self._volumes[volume], int(level)

    def _record(self, name: str, pair: Pair) -> dict:
        if pair.name in self._slices:
            patient = patient_of(name, self._patients)
            scan, number = scan_of(name), slice_number(name) or 0
        else:
            patient = self._patients.get(pair.name) or patient_of_scan(pair.name)
            # Names of volumes may be any, so that those of their slices do not tell.
            scan, number = pair.name, self._place(name)[1]
        place = {"scan": scan, "slice": number}
        return {"name": name, "patient": patient, "has_label": pair.label is not None, "extras": [], **place}


def open_maps(
    folder: Path | str,
    labels: Path | str | None,
    patients: Mapping[str, str] | None = None,
    mapper: Callable = map,
) -> Study:
    """Match, read and check every map of a folder.

    labels: the folder of their labels, None for maps of healthy images; patients: name of a slice or a volume ->
    patient, for others the name tells; mapper: see uad.evaluation.study.mapping. Raises InputError with all that is
    wrong.
    """
    folder, labels = Path(folder), Path(labels) if labels else None
    pairs = pairs_of(folder, labels)
    checked = list(mapper(_check, pairs))
    problems = [problem for found in checked if isinstance(found, list) for problem in found]
    if problems:
        raise InputError(problems)
    maps = MapFolder(folder, labels, dict(zip(pairs, checked, strict=True)), patients)
    return Study(maps, (Contender(METHOD, "method", SAVED),))


def _check(pair: Pair) -> Contents | list[Problem]:
    """What a pair holds, or what is wrong with it: an exception would reach another process as a text."""
    try:
        planes = read_planes(pair)
    except InputError as error:
        return error.problems
    return Contents(len(planes.maps), planes.by_index)


# One volume of the scored images and one of the healthy ones: whole data sets do not fit into memory.
@lru_cache(maxsize=2)
def _read_once(pair: Pair, changed: tuple[int, ...]) -> Planes:
    return read_planes(pair)


def _changed(path: Path | None) -> int:
    """When a file was changed last, 0 where there is none."""
    return path.stat().st_mtime_ns if path and path.exists() else 0
