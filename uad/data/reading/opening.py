"""Opening a folder of slices as the flags say: checked first, all problems at once."""

import argparse

from uad.cli.flags import require
from uad.data.reading.checks import check_disjoint, check_folder
from uad.data.reading.folder import SliceFolder
from uad.distributed import World
from uad.errors import InputError, Problem


def check_inputs(args: argparse.Namespace, data: dict, batch_size: int | None, healthy: bool) -> list[str]:
    """Check --data_dir, --val_dir and --test_dir; one InputError with all their problems, else a line on each.

    data: n_channels, img_size and normalise of the images; batch_size: at least so many images are needed; healthy:
    lesions in --data_dir are a problem.
    """
    require(args, "data_dir")
    problems: list[Problem] = []
    summaries: list[str] = []
    reading = {key: data[key] for key in ("n_channels", "img_size", "normalise")}
    for folder, needed, is_healthy in ((args.data_dir, batch_size, healthy), (args.val_dir, None, True)):
        if folder is None:
            continue
        try:
            summary = check_folder(
                folder, **reading, batch_size=needed, healthy=is_healthy, workers=max(1, args.workers)
            )
            summaries.append(str(summary))
        except InputError as error:
            problems += error.problems
    for other in (args.val_dir, args.test_dir):
        if other is None:
            continue
        try:
            check_disjoint(args.data_dir, other)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return summaries


def check_once(args: argparse.Namespace, data: dict, batch_size: int | None, healthy: bool, world: World) -> list[str]:
    """`check_inputs` in the main process; the others wait, and end with it where it fails."""
    error, summaries = None, []
    if world.is_main:
        try:
            summaries = check_inputs(args, data, batch_size, healthy)
        except InputError as caught:
            error = caught
    if world.any(error is not None):
        raise error or InputError(Problem("data", "problems", "none", "see the message of the first process"))
    return summaries


def open_slices(args: argparse.Namespace, data: dict, folder: str) -> SliceFolder:
    """The folder as a data set, read with the settings given."""
    return SliceFolder(folder, data["n_channels"], data["img_size"], data["normalise"], limit=args.num_samples or None)
