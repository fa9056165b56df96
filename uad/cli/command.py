"""How every command ends: exit code 0, or 2 with a message that names what is wrong with the input."""

import sys
from collections.abc import Callable

from uad.errors import InputError


def run_command(main: Callable[[], None]) -> None:
    """Run a command; an InputError becomes a readable message on standard error and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
