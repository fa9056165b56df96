"""Where results come from: what every run.json ends with."""

import shlex
import sys
from collections.abc import Sequence

from uad.checkpoints import versions
from uad.data.reading.checks import data_hash, file_hash
from uad.data.reading.opening import Folders
from uad.data.reading.settings import Reading, shown_channel
from uad.distributed import World


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["python", *sys.argv])


def provenance(reading: Reading, folders: Folders, world: World, channels: Sequence[str] | None = None) -> dict:
    """Which images these are, what their channels show, if that is known, hashes of the images' files, which one
    process reads for all, and of the table of patients, if any, versions, command.

    channels: what a model says of its channels, if it does; else the data set does, if it has a name.
    """
    names = channels or (reading.channel_names if reading.names_channels else None)
    return {
        **folders.facts,
        **({"display_channel": shown_channel(names), "channel_names": list(names)} if names else {}),
        "data_hash": world.told_by_main(lambda: data_hash(folders.images)),
        **({} if folders.patients is None else {"patients_hash": file_hash(folders.patients)}),
        "versions": versions(),
        "command": command_line(),
    }
