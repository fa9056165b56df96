"""Tables of the protocols of published benchmarks, of one result folder and over several."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.published import Published
from uad.evaluation.tables import Table


def published_table(found: Published) -> Table:
    """One row a contender, and what the protocol's numbers are, in words."""
    cells = [[name, *(_shown(metric, row[metric]) for metric in found.columns)] for name, row in found.rows.items()]
    return Table(
        f"Protocol {found.protocol}, {_in_words(found.counts)}", ["", *found.columns.values()], cells, _note(found)
    )


def repeats_table(found: Mapping[str, Published]) -> Table:
    """The method in each result folder, and over these mean and sample standard deviation; found: by folder."""
    first = next(iter(found.values()))
    cells = []
    for number, of_first in enumerate(first.method):
        rows = {folder: each.rows[each.method[number]] for folder, each in found.items()}
        for folder, row in rows.items():
            name = found[folder].method[number]
            cells.append([f"{name} ({folder})", *(_shown(metric, row[metric]) for metric in first.columns)])
        if len({each.method[number] for each in found.values()}) == 1:
            spread = [_mean_of_repeats([row[metric] for row in rows.values()]) for metric in first.columns]
            cells.append([f"{of_first}, mean ± standard deviation", *spread])
    title = f"Protocol {first.protocol}, {len(found)} result folders"
    note = f"Standard deviation over result folders, divisor n - 1. {_note(first)}"
    return Table(title, ["", *first.columns.values()], cells, note)


def _mean_of_repeats(estimates: Sequence[Estimate]) -> str:
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if len(values) < len(estimates):
        return "n/a (undefined in a folder)"
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def _shown(metric: str, estimate: Estimate) -> str:
    """As text; thresholds are on the scale of the maps, whatever that is."""
    return f"{estimate.value:.4g}" if metric.endswith("threshold") and estimate.value is not None else str(estimate)


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key.replace('_', ' ')}: {count}" for key, count in counts.items())


def _note(found: Published) -> str:
    return " ".join(f"{key[0].upper()}{key[1:]}: {text}." for key, text in found.definition.items())
