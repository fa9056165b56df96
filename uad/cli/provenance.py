"""Where results come from: what every run.json ends with."""

import shlex
import sys

from uad.checkpoints import versions
from uad.data.reading.checks import data_hash
from uad.data.reading.settings import CHANNEL_NAMES, DISPLAY_CHANNEL, Reading


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["python", *sys.argv])


def provenance(reading: Reading, data_dir: str) -> dict:
    """Display channel and channel names of the data set, if any, hash of the folder's files, versions, command."""
    channel, names = DISPLAY_CHANNEL.get(reading.dataset), CHANNEL_NAMES.get(reading.dataset)
    return {
        **({} if channel is None else {"display_channel": channel}),
        **({} if names is None else {"channel_names": list(names)}),
        "data_hash": data_hash(data_dir),
        "versions": versions(),
        "command": command_line(),
    }
