"""Where results come from: what every run.json ends with."""

import shlex
import sys

from uad.checkpoints import versions
from uad.data.reading.checks import data_hash, file_hash
from uad.data.reading.opening import Folders
from uad.data.reading.settings import CHANNEL_NAMES, DISPLAY_CHANNEL, Reading
from uad.distributed import World


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["python", *sys.argv])


def provenance(reading: Reading, folders: Folders, world: World) -> dict:
    """Which images these are, display channel and channel names of the data set, if any, hashes of the images' files,
    which one process reads for all, and of the table of patients, if any, versions, command.
    """
    channel, names = DISPLAY_CHANNEL.get(reading.dataset), CHANNEL_NAMES.get(reading.dataset)
    return {
        **folders.facts,
        **({} if channel is None else {"display_channel": channel}),
        **({} if names is None else {"channel_names": list(names)}),
        "data_hash": world.told_by_main(lambda: data_hash(folders.images)),
        **({} if folders.patients is None else {"patients_hash": file_hash(folders.patients)}),
        "versions": versions(),
        "command": command_line(),
    }
