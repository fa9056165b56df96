"""Errors that a user can act on: what was found, where, what was expected, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# So many kinds of problems are listed, and so many places of each.
MAX_LISTED, PLACES = 25, 3


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input.

    where: file, folder or flag; found: what is there; expected: what should be; remedy: what to do about it.
    """

    where: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}\n{self.what}"

    @property
    def what(self) -> str:
        """All but the place, in lines."""
        return f"    found:    {self.found}\n    expected: {self.expected}\n    remedy:   {self.remedy}"


class InputError(Exception):
    """The input cannot be used; carries every problem found, so that all can be mended at once.

    Made from a text, it is one that another process raised: only the text crosses over.
    """

    def __init__(self, problems: Problem | Sequence[Problem] | str):
        if isinstance(problems, str):
            self.problems = []
            super().__init__(problems)
            return
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__(_listed(self.problems))


class ValueProblem(ValueError):  # noqa: N818 - it is to an InputError what a Problem is
    """Values that cannot be used, wherever they came from: a Problem that lacks its place."""

    def __init__(self, found: str, expected: str, remedy: str):
        super().__init__(found)
        self.found, self.expected, self.remedy = found, expected, remedy

    def at(self, where) -> InputError:
        """The InputError of a file that holds the values."""
        return input_error(where, self.found, self.expected, self.remedy)


def _listed(problems: Sequence[Problem]) -> str:
    """All problems in the order in which each kind was first found; those of files that are alike but for their place
    are one entry. Every flag is named.
    """
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(str(problem) if problem.where.startswith("--") else problem.what, []).append(problem)
    shown = list(kinds.values())[:MAX_LISTED]
    lines = [f"{i}. {_first([each.where for each in alike])}\n{alike[0].what}" for i, alike in enumerate(shown, 1)]
    count, hidden = len(problems), len(problems) - sum(map(len, shown))
    if hidden:
        lines.append(f"... and {hidden:,} more")
    return f"{count:,} problem{'s' if count != 1 else ''} with the input:\n" + "\n".join(lines)


def _first(places: Sequence[str]) -> str:
    """The first places, a line each, and how many more there are."""
    more = [f"and {len(places) - PLACES:,} more"] if len(places) > PLACES else []
    return "\n   ".join([*places[:PLACES], *more])


def missing_flag(name: str) -> Problem:
    """That a flag, named without its dashes, was not given."""
    return Problem(f"--{name}", "not given", "a value", f"pass --{name}; --help explains it")


def with_remedy(error: InputError, named: str, remedy: str) -> InputError:
    """The same problems, with another remedy where theirs names a flag that the command at hand does not have."""
    return InputError([replace(each, remedy=remedy) if named in each.remedy else each for each in error.problems])


def input_error(where, found: str, expected: str, remedy: str) -> InputError:
    """An InputError with a single problem."""
    return InputError(Problem(str(where), found, expected, remedy))
