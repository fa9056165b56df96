"""How every command ends: 0, or a message that stands once on standard error, whatever the number of processes.

Exit codes: 2 for what the user can mend (an InputError, a flag), 130 after Ctrl-C, 1 for a bug, with its traceback.

Under torchrun the first process of a host speaks at once. The others wait: the launcher ends them, silently, as soon as
the first one has ended. So they speak only where the first had nothing to say, for instance of a file that only they
read. That an error in another process breaks the connection to the first is no news: such errors wait as well.
"""

import json
import os
import re
import signal
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from uad.errors import InputError

# In seconds. For how much later than the others the first process may find the same error: it starts while others do.
FIRST_COMES_WITHIN = 5.0
# By so much each further process waits longer, so that the launcher hears of one before the next speaks.
BETWEEN_PROCESSES = 0.5
# In which the launcher, which looks every 0.1 s, has ended this process if the error is another one's.
LAUNCHER_ENDS_WITHIN = 2.0
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_command(main: Callable[[], None]) -> None:
    """Run a command; errors end it as this module describes. A bug in a single process is raised as it is."""
    try:
        main()
    except InputError as error:
        fail(f"error: {error}")
    except KeyboardInterrupt:
        if first_process():
            print("interrupted", file=sys.stderr)
        _end(130)
    except Exception:
        if "RANK" not in os.environ:
            raise
        if first_process():
            _wait(LAUNCHER_ENDS_WITHIN)
        fail(traceback.format_exc(), code=1)


def command_of(get_args_parser: Callable[[], ArgumentParser], main: Callable[[Namespace], None]) -> Callable[[], None]:
    """The command that parses its flags and runs `main` with them, and ends as this module describes."""
    return lambda: run_command(lambda: main(get_args_parser().parse_args()))


def first_process() -> bool:
    """Whether this process is the only one or the first that the launcher started on this host."""
    return _place() == 0


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with a message on standard error, which several processes that fail alike print once."""
    if not first_process():
        _wait(FIRST_COMES_WITHIN + BETWEEN_PROCESSES * _place())
    message = _TERMINAL_CODES.sub("", message).rstrip()
    print(message, file=sys.stderr)
    _tell_launcher(message)
    _end(code)


def _place() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def _wait(seconds: float) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # which ends the process without a word
    time.sleep(seconds)


def _tell_launcher(message: str) -> None:
    """Have torchrun's closing report, which would advise to decorate the program, point at the message instead."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        shown = {"py_callstack": "see the message above this report", "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": shown}}), encoding="utf-8")


def _end(code: int) -> NoReturn:
    """Exit. A process group that an error left is not taken down: that waits for processes that may never answer."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
