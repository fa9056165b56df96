"""The parser of every command: no abbreviations, defaults in rows of tables, help that shows what holds.

A flag's default may come from a row of a table that another flag chooses (`--preset`, `--size`), or from a file that
one names (`--settings`). A flag that a stage only compares with a checkpoint has the default None: it says nothing
unless it is given.
"""

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches

from uad.cli.command import fail, first_process
from uad.errors import InputError, input_error, missing_flag

# What stands between a flag's help and its default.
DEFAULT = " (default: "
ROWS_HELP = "sets the defaults of other flags, shown with each; a flag on the command line takes precedence"
WIDTH = 100
# How alike a mistyped flag and the one that is proposed are at least.
NEAR = 0.8


class Flags(argparse.ArgumentParser):
    """A parser that knows no abbreviations, so that a mistyped flag is an error, and shows defaults.

    tables: flag -> row -> defaults of other flags, the same flags in each row; the first row holds unless the flag
    names another.
    """

    def __init__(self, description: str, **tables: Mapping[str, Mapping]):
        super().__init__(description=description, allow_abbrev=False)
        self.tables = tables
        self.readers: dict[str, Callable[[str], Mapping]] = {}
        for name, table in tables.items():
            add(self, f"--{name}", default=next(iter(table)), choices=tuple(table), help=ROWS_HELP)

    def read_defaults(self, name: str, read: Callable[[str], Mapping]) -> None:
        """Have the flag `name`, which names a file, choose defaults: read gives those of the file."""
        self.readers[name] = read

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, with the defaults of the chosen rows and files; InputError for a file that cannot be used,
        and for both a row and a file."""
        self.choose_rows(args)
        return super().parse_known_args(args, namespace)

    def choose_rows(self, args: Sequence[str] | None) -> None:
        """Take the defaults of the rows and files that the words of a command line choose."""
        chosen = {name: _chosen(name, args) for name in (*self.tables, *self.readers)}
        for name, table in self.tables.items():
            # An unknown row changes nothing here and is refused below.
            row = self.get_default(name) if chosen[name] is None else chosen[name]
            self.default_to(table.get(row, {}))
        for name, read in self.readers.items():
            if chosen[name] is None:
                continue
            for other in self.tables:
                if chosen[other] is not None:
                    found = f"{chosen[name]}, with --{other} {chosen[other]}"
                    raise input_error(f"--{name}", found, "one of the two: both choose defaults", "leave one out")
            self.default_to(read(chosen[name]))

    def default_to(self, values: Mapping) -> None:
        """Give flags other defaults, and show these in their help."""
        actions = {action.dest: action for action in self._actions}
        for name, value in values.items():
            actions[name].default = value
            if value is not None:  # else what the flag's help says holds
                actions[name].help = actions[name].help.rsplit(DEFAULT, 1)[0] + f"{DEFAULT}{words_of(value)})"

    def error(self, message: str):
        """End with exit code 2 and the message; a flag that is nearly right is named."""
        words = message.split() if message.startswith("unrecognized") else []
        unknown = [word.split("=")[0] for word in words if word.startswith("--")]
        known = [name for action in self._actions for name in action.option_strings]
        near = [match for word in unknown if word not in known for match in get_close_matches(word, known, 1, NEAR)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        fail(f"error: {message}{hint}\n{self.prog} --help lists the flags that it has")

    def print_help(self, file=None):
        """Show the help, once where there are several processes."""
        if first_process():
            super().print_help(file)

    def format_help(self) -> str:
        """The description, then by group every flag with its values, its help and its default."""
        blocks = [self.description.strip()]
        for group in self._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if shown:
                about = [f"  {group.description}"] if group.description else []
                blocks.append("\n".join([f"{group.title}:", *about, *map(_explained, shown)]))
        return "\n\n".join(blocks) + "\n"


def _chosen(name: str, args: Sequence[str] | None) -> str | None:
    """What the words of a command line give the flag; None where it is not there, or without a value."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    chooser.add_argument(f"--{name}")
    with suppress(argparse.ArgumentError):
        return getattr(chooser.parse_known_args(args)[0], name)
    return None


def _explained(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or action.dest
    value = _value_of(action) if action.option_strings else "..."
    text = textwrap.fill(action.help.replace("%%", "%"), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {names}{' ' if value else ''}{value}\n{text}"


def _value_of(action: argparse.Action) -> str:
    """How the value of a flag is written, empty for a switch."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    name = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else NAMES.get(action.type, "TEXT")
    if action.nargs == "?":
        return f"[{name}]"
    if action.nargs in ("+", "*"):
        return f"{name} ..."
    return " ".join([name] * (action.nargs or 1))


def number_or_all(text: str) -> int | str:
    """The type of a flag that takes a number or the word `all`."""
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `all`") from None


NAMES = {int: "N", float: "X", number_or_all: "{N,all}"}


def words_of(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def add(group, *names: str, default=None, help: str, shown=None, **options) -> None:
    """Add a flag whose help ends with its default (`shown` where that is not the parser's)."""
    if options.get("required"):
        shown = "required"
    text = words_of(shown if shown is not None else default)
    group.add_argument(*names, default=default, help=f"{help}{DEFAULT}{text})", **options)


def add_switch(group, name: str, help: str) -> None:
    """Add a flag without a value, off by default."""
    group.add_argument(name, action="store_true", help=f"{help}{DEFAULT}off)")


def given(args: argparse.Namespace, names: Sequence[str]) -> dict:
    """Those of the flags that were given, by name; lists become tuples."""
    values = {name: getattr(args, name) for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def require(args: argparse.Namespace, *names: str) -> None:
    """An InputError naming every one of these flags that is missing."""
    problems = [missing_flag(name) for name in names if getattr(args, name) is None]
    if problems:
        raise InputError(problems)
