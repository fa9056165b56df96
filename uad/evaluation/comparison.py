"""Several methods on the same images: one table with intervals, paired differences and costs, and one figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uad.errors import InputError, Problem, input_error
from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.display import for_display
from uad.evaluation.figures import COLOURS
from uad.evaluation.panels import Case
from uad.evaluation.study import Study
from uad.evaluation.tables import REPORTED, Scope, Table, headline_table
from uad.lettering import as_written

# Keys of run.json that say how images were read.
READING = ("n_channels", "img_size", "normalise", "match_contrast")
COST = {
    "parameters": "parameters",
    "network_evaluations": "network evaluations",
    "seconds": "seconds",
    "peak_memory_mib": "peak memory (MiB)",
}
MATCHED_TO = "matched_to"
# Around the figure, as a share of it.
MARGIN = 0.008
# Inputs of two runs may differ by this much: resizing rounds differently on different machines.
SAME_INPUT = 1e-4
# And by so much in the mean where their contrast was matched to different training images: between real images of two
# patients it is 0.06 and more.
MATCHED_INPUT = 0.04
# Settings of the maps that favour a method where the others are without.
FAVOURS = ("compare_sides", "polarity")


@dataclass(frozen=True)
class Cost:
    """What a method costs: each a number, or the reason why it is not known."""

    parameters: int | str
    network_evaluations: float | str
    seconds: float | str
    peak_memory_mib: float | str


def method_names(studies: Sequence[Study]) -> list[str]:
    """The methods' names as the runs give them; where several are the same, with what tells their folders apart.

    That is the last part of the paths in which all of them differ: seed1 of seed1/val_diseased beside
    seed2/val_diseased. Raises InputError where there is none.
    """
    names = [str(study.folder.run["method"]) for study in studies]
    folders: dict[str, list[Path]] = {}
    for name, study in zip(names, studies, strict=True):
        folders.setdefault(name, []).append(study.folder.folder.resolve())
    parts = {name: iter(_distinct_parts(same)) for name, same in folders.items() if len(same) > 1}
    return [f"{name} ({next(parts[name])})" if name in parts else name for name in names]


def _distinct_parts(folders: Sequence[Path]) -> list[str]:
    for parts in zip(*(folder.parts[::-1] for folder in folders), strict=False):
        if len(set(parts)) == len(parts):
            return list(parts)
    named = ", ".join(map(str, folders))
    raise input_error(named, "the same method and no part of the paths that differs", "names that differ", "rename one")


def check_same_images(studies: Sequence[Study]) -> None:
    """Raises InputError, with every difference, unless all folders hold the same images, read in the same way, with the
    same masks: otherwise differences between methods would not be paired.

    Contrasts may be matched to different training images, as those of folds are: see notices_on.
    """
    first, *others = studies
    problems = [problem for other in others for problem in _other_sets(first, other)]
    if not problems:
        problems = [problem for other in others for name in first.names for problem in _other_image(first, other, name)]
    if problems:
        raise InputError(problems)


def _other_sets(first: Study, other: Study) -> list[Problem]:
    where, here = str(other.folder.folder), f"as in {first.folder.folder}"
    remedy = "run every method on the same folder with the same settings"
    problems = [
        Problem(f"{where}, {key}", repr(other.folder.run[key]), f"{first.folder.run[key]!r} {here}", remedy)
        for key in READING
        if other.folder.run[key] != first.folder.run[key]
    ]
    missing, further = (sorted(set(a) - set(b)) for a, b in ((first.names, other.names), (other.names, first.names)))
    if missing or further:
        lacking = f"{len(missing)} images are missing" + (f", e.g. {missing[0]}" if missing else "")
        added = f"{len(further)} are others" + (f", e.g. {further[0]}" if further else "")
        problems.append(Problem(where, f"{lacking}; {added}", f"the {len(first.names)} images {here}", remedy))
    return problems


def _other_image(first: Study, other: Study, name: str) -> list[Problem]:
    a, b = first.load(name), other.load(name)
    where, remedy = f"{other.folder.folder}, {name}", "run every method on the same folder"
    expected = f"that of {first.folder.folder}"
    # Names, sizes and masks have to do where inputs were not kept.
    other_image = a.anomaly_map.shape != b.anomaly_map.shape
    if not other_image and a.image is not None and b.image is not None:
        difference = np.abs(a.image - b.image)
        matched = not _matched_alike(first, other)
        other_image = difference.mean() > MATCHED_INPUT if matched else difference.max() > SAME_INPUT
    if other_image:
        return [Problem(where, "another image", expected, remedy)]
    if (a.label is None) != (b.label is None) or (a.label is not None and not np.array_equal(a.label, b.label)):
        return [Problem(where, "another mask", expected, remedy)]
    if a.patient != b.patient:
        return [Problem(where, f"patient {b.patient}", f"patient {a.patient}, {expected}", remedy)]
    return []


def notices_on(studies: Sequence[Study]) -> list[str]:
    """What to know of folders beside the first: whose contrast was matched to other training images, by how much their
    inputs, in [0, 1], differ from those at most; whose images could not be compared though their files differ; whose
    maps were made with other settings that any method could have.
    """
    first, *others = studies
    said = [_contrast_notice(first, other) for other in others if not _matched_alike(first, other)]
    return [*said, *(notice for other in others for notice in _otherwise(first, other))]


def _otherwise(first: Study, other: Study) -> list[str]:
    said, (here, there) = [], (each.folder.run for each in (first, other))
    folders = f"{other.folder.folder} and {first.folder.folder}"
    kept = first.folder.has_inputs and other.folder.has_inputs
    if not kept and here.get("data_hash") != there.get("data_hash"):
        said.append(
            f"{folders} are of files that differ, and inputs were not kept: look whether the images are the same."
        )
    for key in FAVOURS:
        if (here.get(key) or None) != (there.get(key) or None):
            said.append(f"{folders} have other values of --{key}: {there.get(key)} and {here.get(key)}.")
    return said


def _matched_alike(first: Study, other: Study) -> bool:
    return first.folder.run.get(MATCHED_TO) == other.folder.run.get(MATCHED_TO)


def _contrast_notice(first: Study, other: Study) -> str:
    said = f"{other.folder.folder} and {first.folder.folder} were matched to the contrast of different training images"
    if not (first.folder.has_inputs and other.folder.has_inputs):
        return f"{said}; how much their images differ is not known, for inputs were not kept."
    largest = max(float(np.abs(first.load(name).image - other.load(name).image).max()) for name in first.names)
    return f"{said}: the methods saw images that differ by up to {largest:.2g}."


def cost_of(study: Study) -> Cost:
    """What run.json and the records of a result folder say of the method's cost.

    Means over images, but the peak memory is the largest. A number that any image lacks is refused.
    """
    run = study.folder.run
    records = [study.folder.record(name) for name in study.names]

    def recorded(key: str, summary: Callable) -> float | str:
        values = [record[key] for record in records if key in record]
        if not values:
            return "not recorded"
        return float(summary(values)) if len(values) == len(records) else f"recorded for {len(values)} images only"

    return Cost(
        parameters=run.get("parameters", "not recorded"),
        network_evaluations=recorded("network_evaluations", np.mean),
        seconds=recorded("seconds", np.mean),
        peak_memory_mib=recorded("peak_memory_mib", np.max),
    )


def comparison_table(
    rows: Mapping[str, Row], costs: Mapping[str, Cost], scope: Scope, notices: Sequence[str] = ()
) -> Table:
    """One row a method: the metrics of the scope with their intervals, and the costs; notices end the note."""
    found = headline_table(rows, scope, "Comparison")
    header = ["method", *found.header[1:], *COST.values()]
    cells = [[*line, *cost_cells(costs[name]).values()] for name, line in zip(rows, found.rows, strict=True)]
    note = (
        f"{found.note} Network evaluations and seconds are per image, seconds at the batch size of the run; times and "
        "memory compare on one machine only."
    )
    return Table(found.title, header, cells, " ".join([note, *notices]))


def cost_cells(cost: Cost) -> dict[str, str]:
    """What COST names, as text."""
    forms = {"parameters": "{:,}", "network_evaluations": "{:.0f}", "seconds": "{:.3g}", "peak_memory_mib": "{:.0f}"}
    return {
        key: f"n/a ({value})" if isinstance(value, str) else forms[key].format(value)
        for key, value in vars(cost).items()
    }


def comparison_rows(rows: Mapping[str, Row], costs: Mapping[str, Cost]) -> list[dict]:
    """The table as plain numbers for CSV: value, low and high of each metric, its paired difference (first method minus
    this one) alike, and the costs; what is undefined is left out."""
    first = next(iter(rows.values()))
    lines = []
    for name, row in rows.items():
        line = {"method": name}
        for metric in REPORTED:
            for prefix, estimate in (("", row.estimates[metric]), ("difference_", difference(first, row, metric))):
                numbers = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
                line |= {f"{prefix}{metric}{end}": "" if n is None else n for end, n in numbers.items()}
        line |= {key: "" if isinstance(value, str) else value for key, value in vars(costs[name]).items()}
        lines.append(line)
    return lines


def latex(table: Table) -> str:
    """The table as a LaTeX tabular, with booktabs' rules; the title and the note are comments."""
    lines = [f"% {table.title}"] + ([f"% {table.note}"] if table.note else [])
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule"]
    body = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (table.header, *table.rows)]
    lines += [body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def comparison_figure(
    studies: Mapping[str, Study], clinical: Mapping[str, Clinical], cases: Sequence[Case], leading: str
) -> Figure:
    """Input, truth and one map per method on the same images, and below AP with its interval per method.

    leading: the method by whose numbers the cases were chosen, which the figure names. Each method's maps share one
    scale, from 0 to their 99.8th percentile over the images shown: scales of different methods mean nothing to each
    other.
    """
    width, columns = 1.6, len(studies) + 2
    height = 1.75 * len(cases) + 0.5 + 0.34 * len(studies) + 0.9
    figure = Figure(figsize=(max(6.0, width * columns), height), layout="constrained")
    figure.get_layout_engine().set(rect=(MARGIN, MARGIN, 1 - 2 * MARGIN, 1 - 2 * MARGIN))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.75 * len(cases) + 0.5, 0.34 * len(studies) + 0.9])
    grid = top.subplots(len(cases), columns, squeeze=False)
    _draw_inputs(grid[:, :2], _with_inputs(studies.values()), cases)
    if len(studies) > 1:
        top.supxlabel(as_written(f"Images: chosen by the numbers of {leading}"), fontsize=7, x=MARGIN, ha="left")
    for column, (name, study) in zip(grid[:, 2:].T, studies.items(), strict=True):
        results = [study.load(case.name) for case in cases]
        maps = [study.maps(result)[study.rows[0].name] for result in results]
        highest = float(np.quantile(maps, 0.998)) or 1.0
        for axes, result, scores in zip(column, results, maps, strict=True):
            axes.imshow(for_display(scores, result.affine), cmap="inferno", vmin=0, vmax=highest)
        column[0].set_title(as_written(_wrapped(name)), fontsize=7)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    _forest(bottom.subplots(), {name: each.rows[name] for name, each in clinical.items()})
    return figure


def _with_inputs(studies: Iterable[Study]) -> Study:
    """The first study with stored inputs, the first one where there is none."""
    studies = list(studies)
    return next((study for study in studies if study.folder.has_inputs), studies[0])


def _draw_inputs(columns: np.ndarray, study: Study, cases: Sequence[Case]) -> None:
    """The first two columns of axes (K, 2): the image, and the image with its mask; black where no inputs are."""
    for (plain, marked), case in zip(columns, cases, strict=True):
        result = study.load(case.name)
        shown = np.zeros_like(result.anomaly_map) if result.image is None else result.image[study.display_channel]
        image = for_display(shown, result.affine)
        for axes in (plain, marked):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        if result.label is not None and result.label.any():
            marked.contour(for_display(result.label, result.affine), levels=[0.5], colors="#00B4A0", linewidths=1)
        plain.set_ylabel(as_written(case.caption), fontsize=6)
    columns[0, 0].set_title("input", fontsize=7)
    columns[0, 1].set_title("truth", fontsize=7)


def _forest(axes: Axes, rows: Mapping[str, Row]) -> None:
    """AP as a dot with its 95 % interval, one line a method, the first on top."""
    for place, (name, row) in enumerate(rows.items()):
        found = row.estimates["ap"]
        if found.value is None:
            axes.text(0, place, f"n/a ({found.reason})", fontsize=7, va="center")
            continue
        colour = COLOURS[place % len(COLOURS)]
        if found.low is not None:
            axes.plot([found.low, found.high], [place, place], color=colour, lw=2)
        axes.plot(found.value, place, "o", color=colour, ms=5, label=name)
        axes.annotate(f"{found.value:.3f}", (found.value, place), (0, 4), textcoords="offset points", fontsize=7)
    axes.set_yticks(range(len(rows)), [as_written(name) for name in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel("average precision (95 % interval over patients)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _wrapped(name: str) -> str:
    """A name over two lines where it is long."""
    middle = name.find(" ", len(name) // 3)
    return name if len(name) < 20 or middle < 0 else f"{name[:middle]}\n{name[middle + 1 :]}"
