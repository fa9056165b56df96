"""What the page's viewer is given: an index of cases and methods, and each case's content inside the page or beside it.

A case beside the page is a script that hands its content over, report_cases/NNNN.js: browsers load scripts, but no
other files, also into a page that was opened from a disk.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
import numpy as np

from uad.report.packing import json_in_page

# So many bytes of cases lie in the page itself.
EMBEDDED_BYTES = 16 * 2**20
CASES = "report_cases"
_CASE_FILE = re.compile(r"\d{4,}\.js")
# Colour maps that are told apart without colour vision, the first is the one to begin with.
COLOUR_MAPS = ("inferno", "viridis", "cividis", "gray")


@dataclass(frozen=True)
class Mark:
    """A threshold with a meaning: the lowest bin that it calls positive, its meaning, its value as tables show it."""

    bin: int
    meaning: str
    value: str


@dataclass(frozen=True)
class MethodShown:
    """A method in the viewer.

    scale: a bin stands for its float16 number over it; bins: first and last place of the threshold; colours: the scores
    at the ends of the colour scale; marks: thresholds with a meaning; curve: pooled Dice by bin, for orientation.
    """

    name: str
    scale: float
    bins: tuple[int, int]
    colours: tuple[float, float]
    marks: tuple[Mark, ...] = ()
    curve: list = field(default_factory=list)


@dataclass(frozen=True)
class Viewer:
    """kind: "slices" or "volumes"; channels, shown_channel: of the input, and which to begin with; cases: plain values
    of each, whose content is in `embedded` under its number or in a file beside the page; left_out: images that are
    not in the viewer; note: what else to know of the maps; leading: number of the method by whose numbers cases are
    chosen, sorted and described.
    """

    kind: str
    channels: tuple[str, ...]
    shown_channel: int
    methods: tuple[MethodShown, ...]
    cases: tuple[dict, ...]
    embedded: Mapping[int, str]
    left_out: int = 0
    note: str = ""
    leading: int = 0

    def index(self) -> dict:
        """Plain values for the page, without the cases' content."""
        return {
            "kind": self.kind,
            "channels": list(self.channels),
            "shown_channel": self.shown_channel,
            "methods": [asdict(method) for method in self.methods],
            "cases": list(self.cases),
            "left_out": self.left_out,
            "note": self.note,
            "leading": self.leading,
            "folder": CASES,
            "colour_maps": {name: colours_of(name) for name in COLOUR_MAPS},
        }


def colours_of(name: str) -> str:
    """A colour map's 256 colours as one string of hexadecimal digits, six a colour."""
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return np.rint(255 * colours).astype(np.uint8).tobytes().hex()


def embedded_within(sizes: Sequence[tuple[int, int]], most: int, least: int = 0) -> list[int]:
    """Which cases lie in the page: in their order, as long as all together have at most so many bytes, but never fewer
    than `least`.

    sizes: number and bytes of each.
    """
    chosen, total = [], 0
    for number, size in sizes:
        total += size
        if total > most and len(chosen) >= least:
            break
        chosen.append(number)
    return chosen


def case_file(number: int) -> str:
    """The name of a case's file beside the page."""
    return f"{number:04d}.js"


def case_script(file: str, content: str) -> str:
    """The script that hands a case's content, JSON, to the page that asked for it; file: its name."""
    return f"reportCase({json_in_page(file)},{content});\n"


def case_content(file: str, script: str) -> str:
    """What `case_script` was given."""
    return script.removeprefix(f"reportCase({json_in_page(file)},").removesuffix(");\n")


def remove_cases(folder: Path) -> None:
    """Remove the cases of an earlier page in the same folder: under the same numbers there will be others."""
    for path in (folder / CASES).glob("*.js"):
        if _CASE_FILE.fullmatch(path.name):
            path.unlink()
