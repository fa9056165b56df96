"""Opening folders of slices: checked first, all problems at once, by one process for all."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uad.configuration import check_values
from uad.data.reading.checks import check_disjoint, check_folder, check_split
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import slice_stem
from uad.data.reading.patients import read_patients, read_split, scan_of
from uad.data.reading.prepared import manifest_of
from uad.data.reading.released import Place, Released, list_images, told_patients
from uad.data.reading.settings import Reading
from uad.distributed import World
from uad.errors import InputError, Problem, input_error, missing_flag


@dataclass(frozen=True)
class Folders:
    """The folders of a command.

    data_dir: the images; val_dir: those to validate on, healthy ones unless val_lesions; test_dir: its patients must
    not be in data_dir; num_samples: only so many images of data_dir and val_dir, evenly spread (0: all); patients:
    table of the patients, see read_patients; split: table of the parts that patients belong to, see read_split; part,
    layout, contrast: where data_dir is a release, what of it is read, see Released.
    """

    data_dir: str | None
    val_dir: str | None = None
    test_dir: str | None = None
    num_samples: int = 0
    patients: str | None = None
    split: str | None = None
    part: str | None = None
    layout: str | None = None
    contrast: str | None = None
    val_lesions: bool = False

    def __post_init__(self):
        """InputError for a number that means nothing, and for flags of a release without its part."""
        check_values([("--num_samples", self.num_samples, "0 or more", self.num_samples >= 0)])
        check_part_given(self.layout, self.contrast, self.part, "--split")

    @property
    def images(self) -> Place:
        """The images of data_dir: a folder of slices, or a part of a release."""
        if self.part is None:
            return self.data_dir
        return Released(str(self.data_dir), self.part, self.layout, self.contrast)

    @property
    def name(self) -> str:
        """What the images are called where results are kept: by the folder and the part."""
        return "_".join([Path(self.data_dir or "").name, *filter(None, [self.part])])

    @property
    def facts(self) -> dict:
        """What run.json says of them."""
        chosen = {"split": self.part, "layout": self.layout, "contrast": self.contrast}
        return {"data_dir": str(self.data_dir), "num_samples": self.num_samples} | {
            name: value for name, value in chosen.items() if value is not None
        }

    def open(self, reading: Reading) -> SliceFolder:
        """The images of data_dir as a data set."""
        return open_slices(self.images, reading, self.num_samples, self.patients)

    def open_validation(self, reading: Reading) -> SliceFolder:
        """Those of val_dir."""
        return open_slices(self.val_dir, reading, self.num_samples, self.patients)


def check_part_given(layout: str | None, contrast: str | None, release: str | None, flag: str) -> None:
    """An InputError where flags of a release are given, but not the one that says that it is one, or which part."""
    for name, value in (("--layout", layout), ("--contrast", contrast)):
        if value is not None and release is None:
            expected = f"{flag} beside it: folders of slices have no layout"
            raise input_error(name, f"{value}, without {flag}", expected, f"pass {flag}, or leave {name} out")


def open_slices(
    folder: Place, reading: Reading, num_samples: int = 0, patients: Path | str | None = None
) -> SliceFolder:
    """A folder as a data set, read with the settings given; num_samples, patients: see Folders."""
    table = patients_of(folder, patients)
    how = (reading.n_channels, reading.img_size, reading.normalise)
    return SliceFolder(folder, *how, num_samples or None, table, reading.matched_to)


def patients_of(folder: Place, table: Path | str | None) -> dict[str, str] | None:
    """What says whose slices these are where not their names: the table, else the files' own names of a release, or
    what a preparation left beside the folder; None where there is nothing. InputError as read_patients and list_images.
    """
    if table is None and isinstance(folder, Released):
        return told_patients(folder)
    table = table or manifest_of(Path(folder))
    return read_patients(table) if table else None


def patients_of_all(folders: Iterable[Place | None], table: Path | str | None) -> dict[str, str]:
    """What patients_of tells of all of these folders together."""
    return {
        name: patient
        for folder in folders
        if folder is not None
        for name, patient in (patients_of(folder, table) or {}).items()
    }


def check_folders(folders: Folders, reading: Reading, batch_size: int | None, healthy: bool, workers: int) -> list[str]:
    """Check all folders and tables; one InputError with all their problems, else a line on each folder.

    batch_size: at least so many images are needed in data_dir; healthy: lesions there are a problem, as they are in
    val_dir unless it may have them.
    """
    if folders.data_dir is None:
        raise InputError(missing_flag("data_dir"))
    problems: list[Problem] = []
    summaries: list[str] = []
    patients = split = None
    with _collecting(problems):
        patients = patients_of_all((folders.images, folders.val_dir, folders.test_dir), folders.patients)
    with _collecting(problems):
        split = read_split(folders.split) if folders.split else None
    how = {"n_channels": reading.n_channels, "img_size": reading.img_size, "normalise": reading.normalise}
    how |= {"workers": max(1, workers), "patients": patients}
    for folder, needed, is_healthy in (
        (folders.images, batch_size, healthy),
        (folders.val_dir, None, not folders.val_lesions),
    ):
        if folder is not None:
            with _collecting(problems):
                summaries.append(str(check_folder(folder, **how, batch_size=needed, healthy=is_healthy)))
    others = [folder for folder in (folders.val_dir, folders.test_dir) if folder is not None]
    for other in others:
        with _collecting(problems):
            check_disjoint(folders.images, other, patients)
    if split is not None:
        for folder, training in ((folders.images, True), *((other, False) for other in others)):
            with _collecting(problems):
                check_split(folder, split, training, patients)
    if folders.patients and patients is not None:
        with _collecting(problems):
            _check_names(folders.patients, patients, (folders.images, *others))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return summaries


def check_apart(healthy: Folders, judged: Folders) -> None:
    """InputError where slices of a patient lie in both folders, see check_disjoint; parts of one release are as it was
    split.

    healthy: images that results depend on; judged: those that are judged, with the table of patients.
    """
    if healthy.part is None:
        both = healthy.images, judged.images
        check_disjoint(*both, patients_of_all(both, judged.patients))


@contextmanager
def _collecting(problems: list[Problem]) -> Iterator[None]:
    """Add the problems of an InputError in the block, which ends there, to those found already."""
    try:
        yield
    except InputError as error:
        problems += error.problems


def _check_names(table: Path | str, patients: Mapping[str, str], folders: Iterable[Place]) -> None:
    """InputError for names in a table of patients that are files here, for they would match no slice."""
    names = {name for folder in folders for name in list_images(folder).slices}
    names |= {scan_of(name) for name in names}
    files = [name for name in patients if name not in names and slice_stem(name) in names]
    if files:
        raise input_error(
            table,
            f"{len(files)} names of files, e.g. {files[0]}",
            f"names of slices or scans, e.g. {slice_stem(files[0])}",
            "leave out folders and extensions",
        )


def check_once(
    folders: Folders, reading: Reading, batch_size: int | None, healthy: bool, workers: int, world: World
) -> list[str]:
    """`check_folders` in the main process; the others wait, and end with it where it fails."""
    return world.on_main(lambda: check_folders(folders, reading, batch_size, healthy, workers)) or []
