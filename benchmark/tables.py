"""Markdown tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers are shown with three significant digits."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines)


def exponents(found: Mapping[tuple[str, int], Mapping[str, float]], counts: Sequence[int]) -> str:
    """How "seconds" and "mib" of (what, number of images) grow from each number to the next, a line each."""
    lines = []
    for what in dict.fromkeys(what for what, _ in found):
        for fewer, more in pairwise(counts):
            ratio = {key: found[what, more][key] / found[what, fewer][key] for key in ("seconds", "mib")}
            growth = {key: math.log(value) / math.log(more / fewer) for key, value in ratio.items()}
            lines.append(
                f"{what}, {fewer} to {more}: seconds grow with exponent {growth['seconds']:.2f}, "
                f"memory with {growth['mib']:.2f}"
            )
    return "\n".join(lines)
