"""Several methods in one table and one figure, on the same images.

    python scripts/compare.py --results A B C --healthy HEALTHY_A HEALTHY_B HEALTHY_C --out DIR

--results: one result folder per method on the test images; the first is the reference. --healthy: their result folders
on healthy images, in the same order, needed for thresholds and image-level detection. All folders must hold the same
images, read in the same way. If methods matched contrast to different training images, the table states how much their
inputs differ. Written to --out: report.html, a page with the maps of all methods side by side, comparison.md (with
differences), comparison.csv, comparison.tex, comparison.png and .pdf, summary.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from uad.checkpoints import versions
from uad.cli.command import command_of
from uad.cli.evaluation import Scoring, add_evaluation_flags, scoring_of
from uad.cli.flags import Flags, add, require
from uad.cli.provenance import command_line
from uad.errors import input_error
from uad.evaluation.clinical import Clinical, evaluate
from uad.evaluation.comparison import (
    check_same_images,
    comparison_figure,
    comparison_rows,
    comparison_table,
    cost_of,
    latex,
    method_names,
    notices_on,
)
from uad.evaluation.contenders import SAVED
from uad.evaluation.figures import save
from uad.evaluation.leading import highest
from uad.evaluation.panels import choose_cases
from uad.evaluation.rows import write_table
from uad.evaluation.study import (
    Study,
    check_comparable,
    check_no_image_twice,
    mapping,
    method_alone,
    open_study,
    with_neighbours,
)
from uad.evaluation.summary import clinical_summary, differences, origin
from uad.evaluation.tables import difference_table, headline_table, scopes
from uad.files import write_json, write_text
from uad.report.evaluation import write_comparison_page
from uad.report.facts import facts_of_run
from uad.report.page import PAGE
from uad.report.slices import Scored, slice_viewer
from uad.report.viewer import Viewer


def get_args_parser() -> Flags:
    """The flags of the comparison."""
    parser = Flags(__doc__)
    add(parser, "--results", nargs="+", help="result folders of the methods, on the same images", shown="required")
    add(parser, "--healthy", nargs="+", help="their result folders of healthy images, in the same order", shown="none")
    add(parser, "--out", help="output folder", shown="required")
    add_evaluation_flags(parser)
    return parser


def main(args) -> None:
    """Check that everything is comparable, score, write."""
    require(args, "results", "out")
    compare(args.results, args.healthy or [], Path(args.out), scoring_of(args))


def compare(results: Sequence[str], healthy_results: Sequence[str], out: Path, scoring: Scoring) -> None:
    """Score the folders and write everything to `out`; InputError where they cannot be compared."""
    studies, healthy = open_all(results, healthy_results, scoring)
    with mapping(scoring.workers) as spread:
        clinical = {
            name: evaluate(study, healthy.get(name), scoring.bootstrap, scoring.seed, spread(name))
            for name, study in studies.items()
        }
        scored = [Scored(name, study, healthy.get(name), clinical[name]) for name, study in studies.items()]
        leading = list(clinical).index(highest({name: each.rows[name] for name, each in clinical.items()}))
        viewer = slice_viewer(out, scored, scoring.viewer_cases, spread("viewer"), leading)
    facts = {
        "results": list(results),
        "healthy": list(healthy_results),
        "neighbours": scoring.neighbours,
        "bootstrap": scoring.bootstrap,
        "seed": scoring.seed,
    }
    write(out, facts, studies, healthy, clinical, viewer)


def open_all(
    results: Sequence[str], healthy_results: Sequence[str], scoring: Scoring
) -> tuple[dict[str, Study], dict[str, Study]]:
    """Studies on the test images and on the healthy images by the method's name, each with its method alone."""
    found = [open_study(folder, SAVED, scoring.labels) for folder in results]
    names = method_names(found)
    if healthy_results and len(healthy_results) != len(found):
        number = f"{len(healthy_results)} folders"
        raise input_error(
            "--healthy", number, f"{len(found)}, one for each of --results", "name them in the same order"
        )
    healthy = [open_study(folder, SAVED) for folder in healthy_results]
    for study, other in zip(found, healthy, strict=False):
        check_comparable(study, other)
        check_no_image_twice(study, other)
    for group in (found, healthy):
        if group:
            check_same_images(group)
    studies, healthy_studies = (
        {name: method_alone(study, name) for name, study in zip(names, group, strict=False)}
        for group in (found, healthy)
    )
    pairs = [
        with_neighbours([each[name] for each in (studies, healthy_studies) if name in each], scoring.neighbours)
        for name in studies
    ]
    return tuple({name: pair[i] for name, pair in zip(studies, pairs, strict=True) if len(pair) > i} for i in (0, 1))


def write(
    out: Path,
    facts: Mapping,
    studies: Mapping[str, Study],
    healthy: Mapping[str, Study],
    clinical: Mapping[str, Clinical],
    viewer: Viewer | None,
) -> None:
    """Tables as Markdown, CSV and LaTeX, the figure, the page, and all numbers as JSON, headed by the facts."""
    rows = {name: each.rows[name] for name, each in clinical.items()}
    costs = {name: cost_of(study) for name, study in studies.items()}
    leading = highest(rows)
    found = scopes(clinical[leading])
    notices = [said for group in (studies, healthy) if group for said in notices_on(list(group.values()))]
    tables = [comparison_table(rows, costs, found[0], notices)]
    tables += [headline_table(rows, scope, "Comparison") for scope in found[1:]]
    if len(rows) > 1:
        tables += [difference_table(rows, scope) for scope in found]
    text = "\n".join(each.markdown() for each in tables)
    write_text(out / "comparison.md", text)
    write_table(out / "comparison.csv", comparison_rows(rows, costs))
    write_text(out / "comparison.tex", "\n".join(latex(each) for each in tables))
    cases = choose_cases(clinical[leading], leading)
    save(comparison_figure(studies, clinical, cases, leading), out / "comparison.png")
    methods = {
        name: {
            **origin(study, healthy.get(name)),
            "cost": vars(costs[name]),
            "clinical": clinical_summary(clinical[name]),
        }
        for name, study in studies.items()
    }
    came_from = {"versions": versions(), "command": command_line()}
    summary = {**facts, **came_from, "notices": notices, "methods": methods, "differences": differences(rows)}
    write_json(out / "summary.json", summary)
    plain = {key: " ".join(value) if isinstance(value, list) else str(value) for key, value in facts.items()}
    runs = {f"{name}, as run.json says": facts_of_run(study.folder.run) for name, study in studies.items()}
    title = f"{len(rows)} methods on {Path(facts['results'][0]).resolve().name}"
    write_comparison_page(out, title, {"Comparison": plain, **runs}, tables, "comparison.png", clinical, viewer)
    print(text)
    print(f"Everything is in {out}; look at it with a browser: {out / PAGE}")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
