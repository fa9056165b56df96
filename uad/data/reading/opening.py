"""Opening folders of slices: checked first, all problems at once, by one process for all."""

from dataclasses import dataclass
from pathlib import Path

from uad.configuration import check_values
from uad.data.reading.checks import check_disjoint, check_folder
from uad.data.reading.folder import SliceFolder
from uad.data.reading.settings import Reading
from uad.distributed import World
from uad.errors import InputError, Problem, missing_flag


@dataclass(frozen=True)
class Folders:
    """The folders of a command.

    data_dir: the images; val_dir: healthy ones to validate on; test_dir: its patients must not be in data_dir;
    num_samples: only so many images of data_dir and val_dir, evenly spread (0: all).
    """

    data_dir: str | None
    val_dir: str | None = None
    test_dir: str | None = None
    num_samples: int = 0

    def __post_init__(self):
        """InputError for a number that means nothing."""
        check_values([("--num_samples", self.num_samples, "0 or more", self.num_samples >= 0)])

    def open(self, reading: Reading) -> SliceFolder:
        """The images of data_dir as a data set."""
        return open_slices(self.data_dir, reading, self.num_samples)

    def open_validation(self, reading: Reading) -> SliceFolder:
        """Those of val_dir."""
        return open_slices(self.val_dir, reading, self.num_samples)


def open_slices(folder: Path | str, reading: Reading, num_samples: int = 0) -> SliceFolder:
    """A folder as a data set, read with the settings given; num_samples: see Folders."""
    return SliceFolder(folder, reading.n_channels, reading.img_size, reading.normalise, limit=num_samples or None)


def check_folders(folders: Folders, reading: Reading, batch_size: int | None, healthy: bool, workers: int) -> list[str]:
    """Check all folders; one InputError with all their problems, else a line on each.

    batch_size: at least so many images are needed in data_dir; healthy: lesions there are a problem.
    """
    if folders.data_dir is None:
        raise InputError(missing_flag("data_dir"))
    problems: list[Problem] = []
    summaries: list[str] = []
    how = {"n_channels": reading.n_channels, "img_size": reading.img_size, "normalise": reading.normalise}
    for folder, needed, is_healthy in ((folders.data_dir, batch_size, healthy), (folders.val_dir, None, True)):
        if folder is None:
            continue
        try:
            summary = check_folder(folder, **how, batch_size=needed, healthy=is_healthy, workers=max(1, workers))
            summaries.append(str(summary))
        except InputError as error:
            problems += error.problems
    for other in (folders.val_dir, folders.test_dir):
        if other is None:
            continue
        try:
            check_disjoint(folders.data_dir, other)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return summaries


def check_once(
    folders: Folders, reading: Reading, batch_size: int | None, healthy: bool, workers: int, world: World
) -> list[str]:
    """`check_folders` in the main process; the others wait, and end with it where it fails."""
    return world.on_main(lambda: check_folders(folders, reading, batch_size, healthy, workers)) or []
