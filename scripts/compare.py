"""Several methods in one table and one figure, on the same images.

    python scripts/compare.py --results A B C --healthy HEALTHY_A HEALTHY_B HEALTHY_C --out DIR

--results are the result folders of the methods on the test images, the first the one that the others are compared with;
--healthy, in the same order, those on healthy images: thresholds and image-level detection need them. All folders
must hold the same images. Written to --out: comparison.md (with differences), comparison.csv, comparison.tex,
comparison.png, summary.json.
"""

from functools import partial
from pathlib import Path

from tqdm import tqdm

from uad.checkpoints import versions
from uad.cli.command import run_command
from uad.cli.evaluation import add_evaluation_flags, check_evaluation_flags
from uad.cli.flags import Flags, add, require
from uad.errors import input_error
from uad.evaluation.clinical import Clinical, evaluate
from uad.evaluation.comparison import (
    check_same_images,
    comparison_figure,
    comparison_rows,
    comparison_table,
    cost_of,
    latex,
    method_alone,
    method_names,
)
from uad.evaluation.contenders import SAVED
from uad.evaluation.figures import save
from uad.evaluation.panels import choose_cases
from uad.evaluation.report import clinical_summary, write_csv
from uad.evaluation.study import Study, check_comparable, mapping, open_study
from uad.evaluation.tables import difference_table
from uad.files import write_json, write_text


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
    check_evaluation_flags(args)
    studies, healthy = open_all(args)
    with mapping(args.workers) as mapper:
        clinical = {
            name: evaluate(study, healthy.get(name), args.bootstrap, args.seed, mapper, partial(_progress, name))
            for name, study in studies.items()
        }
    write(args, studies, clinical)


def open_all(args) -> tuple[dict[str, Study], dict[str, Study]]:
    """Studies on the test images and on the healthy images by the method's name, each with its method alone."""
    found = [open_study(folder, SAVED, args.labels, image_score=args.image_score) for folder in args.results]
    names = method_names(found)
    if args.healthy and len(args.healthy) != len(found):
        number = f"{len(args.healthy)} folders"
        raise input_error(
            "--healthy", number, f"{len(found)}, one for each of --results", "name them in the same order"
        )
    healthy = [open_study(folder, SAVED, image_score=args.image_score) for folder in args.healthy or []]
    for study, other in zip(found, healthy, strict=False):
        check_comparable(study, other)
    for group in (found, healthy):
        if group:
            check_same_images(group)
    studies, healthy_studies = (
        {name: method_alone(study, name) for name, study in zip(names, group, strict=False)}
        for group in (found, healthy)
    )
    return studies, healthy_studies


def write(args, studies: dict[str, Study], clinical: dict[str, Clinical]) -> None:
    """Tables as Markdown, CSV and LaTeX, the figure, and all numbers as JSON."""
    out = Path(args.out)
    rows = {name: each.rows[name] for name, each in clinical.items()}
    costs = {name: cost_of(study) for name, study in studies.items()}
    first = next(iter(clinical))
    table = comparison_table(rows, costs, clinical[first].prevalence)
    tables = [table] + ([difference_table(rows)] if len(rows) > 1 else [])
    text = "\n".join(each.markdown() for each in tables)
    write_text(out / "comparison.md", text)
    write_csv(out / "comparison.csv", comparison_rows(rows, costs))
    write_text(out / "comparison.tex", "\n".join(latex(each) for each in tables))
    save(comparison_figure(studies, clinical, choose_cases(clinical[first], first)), out / "comparison.png")
    summary = {
        "results": [str(folder) for folder in args.results],
        "healthy": [str(folder) for folder in args.healthy or []],
        "image_score": args.image_score,
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "versions": versions(),
        "methods": {
            name: {"run": studies[name].folder.run, "cost": vars(costs[name]), "clinical": clinical_summary(each)}
            for name, each in clinical.items()
        },
    }
    write_json(out / "summary.json", summary)
    print(text)
    print(f"Everything is in {out}")


def _progress(name: str, items, total: int):
    return tqdm(items, total=total, desc=name, leave=False)


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
