"""Makes docs/RESULTS.md from the summaries of runs that lie in docs/results: no figure in it is typed by hand.

    python docs/render_results.py                              write the page
    python docs/render_results.py --check                      exit 1, with the difference, where it is another
    python docs/render_results.py --add RESULTS/evaluation/summary.json --study lgg --label "seed 0" \\
        --rows "autoencoder alone"                             take a run in, and write the page

docs/results/STUDY/study.json   "title"; "text", a list of paragraphs; "images", what those of --results and --healthy
                                are; "columns" of the tables; "rows" and "differences", the lines of the tables
docs/results/STUDY/RUN.json     what --add keeps of a summary.json of scripts/evaluation.py or scripts/compare.py

README.md gets the first table of a study where it says <!-- results of STUDY: COLUMN ... --> and, after it,
<!-- end of results -->.

Studies stand in the order of their folders' names. --add makes a study where there is none; its title, text and labels
are then written into study.json by hand.
"""

import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uad.cli.command import run_command
from uad.cli.flags import Flags, add, add_switch, require
from uad.errors import input_error
from uad.evaluation.bootstrap import Estimate
from uad.evaluation.comparison import COST, Cost, cost_cells
from uad.evaluation.statistics import WITH_HEALTHY
from uad.evaluation.tables import HEADLINE, Table, image_score_note, signed
from uad.files import read_json, write_json, write_text

DOCS = Path(__file__).resolve().parent
METRICS = HEADLINE | {"image_ap": "image AP", "patient_dice": "Dice per patient (mean)"}
LABELS = METRICS | COST
ON_THE_FIRST_PAGE = LABELS | {both: f"{METRICS[alone]}, healthy images too" for alone, both in WITH_HEALTHY.items()}
KEPT_METRICS = (*METRICS, *WITH_HEALTHY.values())
KEPT_OF_HEALTHY_RUN = ("data_dir", "data_hash", "command")
DROPPED = ("paper_ours", "paper_baselines")
STAGES = {"autoencoder": "stage 1", "model": "stage 2"}
WIDTH = 116
HEAD = """# Results

This page is made by `docs/render_results.py` from what `scripts/evaluation.py` and `scripts/compare.py` wrote
(`summary.json`; what is read of it lies in [results](results)). Each number stands with its 95 % interval, by bootstrap
over patients. AP falls with the share of lesion pixels, the prevalence, and so depends on which images are counted:
every table says which. Masks are 1 where a label is above 0. Best Dice chooses its threshold on the test labels and is
an upper bound. Differences are paired: both are evaluated on the same resamples of the same patients.
"""
NONE = "No study has been taken in yet."
PLACE = re.compile(
    r"(?P<begin><!-- results of (?P<study>[\w-]+): (?P<columns>[^>]+) -->)\n.*?(?P<end><!-- end of results -->)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Record:
    """A JSON object of a file, or a part of it; a key that it lacks is an InputError that names file and key."""

    path: Path
    value: Mapping
    place: tuple[str, ...] = ()

    def __getitem__(self, key: str):
        place = (*self.place, key)
        if key not in self.value:
            raise input_error(self.path, f"no key {'.'.join(place)}", "it in the file", "detect and evaluate anew")
        found = self.value[key]
        return Record(self.path, found, place) if isinstance(found, Mapping) else found

    def __contains__(self, key: str) -> bool:
        return key in self.value


def read_record(path: Path) -> Record:
    """The object of a JSON file."""
    return Record(path, read_json(path))


def render(results: Path) -> str:
    """The whole page, from a folder of studies."""
    studies = [_study(path.parent, read_record(path)) for path in sorted(results.glob("*/study.json"))]
    return "\n".join([HEAD, *(studies or [f"{NONE}\n"])])


def first_page(text: str, results: Path) -> str:
    """The text of README.md with its table brought up to date."""

    def table(found: re.Match) -> str:
        study = read_record(results / found["study"] / "study.json")
        lines = [_line(study.path.parent, Record(study.path, entry, ("rows",))) for entry in study["rows"]]
        columns = found["columns"].split()
        cells = [[cell for i, cell in enumerate(line.cells(columns, healthy=False)) if i != 2] for line in lines]
        shown = Table(
            "", ["", "images", "prevalence", *(ON_THE_FIRST_PAGE[column] for column in columns)], cells
        ).markdown()
        return f"{found['begin']}\n\n{shown[shown.index('|') :]}\n{found['end']}"

    return PLACE.sub(table, text)


@dataclass(frozen=True)
class Line:
    """A line of the tables: its label, its file, the part of the file about its method, and the row in that part."""

    label: str
    summary: Record
    method: Record
    row: Record

    @property
    def has_healthy(self) -> bool:
        """Whether healthy images can be counted too."""
        return self.method["clinical"]["prevalence_with_healthy"] is not None

    def cells(self, columns: Sequence[str], healthy: bool) -> list[str]:
        """Label, number of images and patients, prevalence and metrics, with the healthy images or without them."""
        counts = self.method["clinical"]["counts"]
        masked = counts["images"] - counts["images_without_mask"]
        images = str(masked) if masked == counts["images"] else f"{counts['images']} ({masked} with a mask)"
        patients, prevalence = counts["patients"], self.method["clinical"]["prevalence"]
        if healthy:
            images = f"{images} + {counts['healthy_images']}"
            patients += counts["patients_with_healthy_images_only"]
            prevalence = self.method["clinical"]["prevalence_with_healthy"]
        shown = "n/a (no masks)" if prevalence is None else f"{prevalence:.4f}"
        return [self.label, images, str(patients), shown, *(self._cell(column) for column in columns)]

    def _cell(self, column: str) -> str:
        if column in COST:
            return cost_cells(Cost(**self.method["cost"].value))[column]
        return str(Estimate(**self.row["metrics"][column].value))


def _study(folder: Path, study: Record) -> str:
    """The section of a study: title, text, tables, commands."""
    lines = [_line(folder, Record(study.path, entry, ("rows",))) for entry in study["rows"]]
    return "\n".join(
        [
            f"## {study['title']}\n",
            *(f"{paragraph}\n" for paragraph in study["text"]),
            *(table.markdown() for table in _tables(study, lines) + _differences(folder, study)),
            "### Commands\n",
            *map(commands, _one_a_run(lines)),
        ]
    )


def _tables(study: Record, lines: Sequence[Line]) -> list[Table]:
    """What is found: in the images of --results and, of the lines that have healthy images, in both together."""
    columns, titles = study["columns"], _titles(study)
    for column in columns:
        if column not in LABELS:
            raise input_error(study.path, f"column {column!r}", f"one of {', '.join(LABELS)}", "correct columns")
    note = ""
    if any(column.startswith("image_") for column in columns):
        definitions = image_score_note({line.label: line.row["image_score"] for line in lines})
        note = (
            "Image AUROC and AP: images with a lesion against all without, the "
            f"{study['images']['healthy']} too. {definitions}"
        )
    header = ["", "images", "patients", "prevalence"]
    cells = [line.cells(columns, healthy=False) for line in lines]
    tables = [Table(titles[0], [*header, *(LABELS[column] for column in columns)], cells, note)]
    both = _with_healthy(columns)
    cells = [line.cells(list(both), healthy=True) for line in lines if line.has_healthy]
    return tables + ([Table(titles[1], [*header, *both.values()], cells)] if cells and both else [])


def _titles(study: Record) -> tuple[str, str]:
    """Of the two sets of images, each as the study calls it."""
    of_results, of_healthy = study["images"]["results"], study["images"]["healthy"]
    return f"Counting the {of_results}", f"Counting the {of_results} and the {of_healthy}"


def _with_healthy(columns: Sequence[str]) -> dict[str, str]:
    """The metrics that count the healthy images too, with their labels."""
    return {WITH_HEALTHY[column]: LABELS[column] for column in columns if column in WITH_HEALTHY}


def _line(folder: Path, entry: Record) -> Line:
    summary = read_record(folder / f"{entry['run']}.json")
    method = summary["methods"][entry["row"]] if "methods" in summary else summary
    return Line(entry["label"], summary, method, method["clinical"]["rows"][entry["row"]])


def _one_a_run(lines: Sequence[Line]) -> list[Line]:
    """The first line of every run."""
    runs: dict[tuple, Line] = {}
    for line in lines:
        runs.setdefault((line.summary.path, line.method.place), line)
    return list(runs.values())


def _differences(folder: Path, study: Record) -> list[Table]:
    """The paired differences that a study names, if any, in the same two sets of images."""
    entries = []
    for value in study["differences"]:
        entry = Record(study.path, value, ("differences",))
        summary = read_record(folder / f"{entry['run']}.json")
        differences = (summary if "methods" in summary else summary["clinical"])["differences"]
        entries.append((entry["label"], differences[entry["difference"]]))
    of_results = {column: LABELS[column] for column in study["columns"] if column in HEADLINE}
    tables = []
    for title, columns in zip(_titles(study), (of_results, _with_healthy(study["columns"])), strict=True):
        found = [(label, {column: Estimate(**each[column].value) for column in columns}) for label, each in entries]
        cells = [
            [label, *map(signed, estimates.values())]
            for label, estimates in found
            if any(estimate.value is not None for estimate in estimates.values())
        ]
        if cells:
            tables.append(Table(f"Paired differences, {title[0].lower()}{title[1:]}", ["", *columns.values()], cells))
    return tables


def commands(line: Line) -> str:
    """How the numbers of a line came about: commands, hashes of the weights, processor, versions."""
    run, versions = line.method["run"], line.method["run"]["versions"]
    steps = []
    for key, stage in STAGES.items():
        if key in run and "step" in run[key]:
            weights = run[key]["weights_hash"]
            hashes = weights if isinstance(weights, str) else ", ".join(f"{k} {v}" for k, v in weights.value.items())
            steps.append((f"{stage}, {run[key]['step']} steps, weights {hashes}", run[key]["command"]))
    steps.append(("detection", run["command"]))
    if line.method["healthy_run"] is not None:
        steps.append(("detection on the healthy images", line.method["healthy_run"]["command"]))
    steps.append(("evaluation", line.summary["command"]))
    text = "\n".join(f"# {what}\n{wrapped(command) if command else '# not recorded'}" for what, command in steps)
    where = f"{versions['processor']}; Python {versions['python']}, torch {versions['torch']}"
    return f"**{line.label}**: {where}, commit `{versions['commit']}`\n\n```\n{text}\n```\n"


def wrapped(command: str) -> str:
    """A command on lines of up to WIDTH characters, broken before flags."""
    parts: list[str] = []
    for word in shlex.split(command):
        if parts and not word.startswith("--"):
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > WIDTH:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


def condensed(summary: Mapping) -> dict:
    """What the page may show of a summary.json, and the whole run.json."""
    kept = {key: value for key, value in summary.items() if key not in DROPPED}
    if "methods" in kept:
        return kept | {"methods": {name: condensed(method) for name, method in kept["methods"].items()}}
    rows = {
        name: {
            "image_score": row["image_score"],
            "metrics": {metric: row["metrics"][metric] for metric in KEPT_METRICS if metric in row["metrics"]},
        }
        for name, row in kept["clinical"]["rows"].items()
    }
    healthy = kept["healthy_run"]
    if healthy is not None:
        healthy = {key: value for key, value in healthy.items() if key in KEPT_OF_HEALTHY_RUN}
    return kept | {"clinical": kept["clinical"] | {"rows": rows}, "healthy_run": healthy}


def take_in(results: Path, source: Path, study: str, label: str, further: Sequence[str]) -> None:
    """Copy what is needed of a summary.json into a study, and give it its lines where it has none yet.

    An evaluation gets a line for its method and one for each of the `further` rows, with its difference; a comparison
    one for each method. InputError where the summary lacks what the page needs.
    """
    summary = read_record(source)
    lines = _lines_of(summary, label, further)
    for line in lines:
        commands(line)
    run = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    folder = results / study
    path = folder / "study.json"
    content = read_json(path) if path.exists() else _new_study(study)
    first, *others = lines
    rows = [{"run": run, "row": line.row.place[-1], "label": line.label} for line in lines]
    differences = [
        {
            "run": run,
            "difference": f"{first.row.place[-1]} - {other.row.place[-1]}",
            "label": f"{first.label} - {other.label}",
        }
        for other in others
    ]
    for kind, key, entries in (("rows", "row", rows), ("differences", "difference", differences)):
        there = {(entry["run"], entry[key]) for entry in content[kind]}
        content[kind] += [entry for entry in entries if (entry["run"], entry[key]) not in there]
    write_json(folder / f"{run}.json", condensed(summary.value))
    write_json(path, content)


def _lines_of(summary: Record, label: str, further: Sequence[str]) -> list[Line]:
    if "methods" in summary:
        methods = [(name, summary["methods"][name]) for name in summary["methods"].value]
        return [Line(name, summary, method, method["clinical"]["rows"][name]) for name, method in methods]
    rows = summary["clinical"]["rows"]
    own = next(iter(rows.value))
    return [
        Line(label if name == own else f"{label}, {name}", summary, summary, rows[name]) for name in (own, *further)
    ]


def _new_study(name: str) -> dict:
    return {
        "title": name,
        "text": [],
        "images": {"results": "images of --results", "healthy": "healthy images"},
        "columns": ["auroc", "ap", "best_dice", "image_auroc"],
        "rows": [],
        "differences": [],
    }


def get_args_parser() -> Flags:
    """The flags of the command."""
    parser = Flags(__doc__)
    add_switch(parser, "--check", "write nothing; exit 1, with the difference, where the page is not up to date")
    add(parser, "--add", help="summary.json to take in", shown="none")
    add(parser, "--study", help="with --add: folder under docs/results", shown="none")
    add(parser, "--label", help="with --add: name of the run, and of its line in the tables", shown="none")
    add(parser, "--rows", nargs="+", default=[], help="with --add: further rows of the summary", shown="none")
    return parser


def main(args) -> None:
    """Take a run in, compare the page or write it."""
    results, page, readme = DOCS / "results", DOCS / "RESULTS.md", DOCS.parent / "README.md"
    if args.add:
        require(args, "study", "label")
        take_in(results, Path(args.add), args.study, args.label, args.rows)
    texts = {page: render(results), readme: first_page(readme.read_text(encoding="utf-8"), results)}
    if args.check:
        sys.exit("\n".join(filter(None, (difference(path, text) for path, text in texts.items()))) or None)
    for path, text in texts.items():
        write_text(path, text)
        print(f"{path} is written")


def difference(page: Path, text: str) -> str | None:
    """How the page differs from the text that it should have; None where it does not."""
    there = page.read_text(encoding="utf-8") if page.exists() else ""
    lines = difflib.unified_diff(there.splitlines(), text.splitlines(), str(page), "docs/results", lineterm="")
    return "\n".join(lines) or None


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
