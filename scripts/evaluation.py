"""Score result folders: tables, curves, pictures and one report page.

    python3 scripts/evaluation.py                                 the newest result folder under ./results
    python3 scripts/evaluation.py --results DIR --healthy DIR_OF_HEALTHY_IMAGES
    python3 scripts/evaluation.py --results DIR_A DIR_B           each, and A minus B on the same images

Without healthy images the thresholds at 1, 5 and 10 % false positives and the image AUROC are refused, with
the reason. Everything is written to DIR/evaluation (or --out): per_image.csv, per_patient.csv,
summary.json, tables.md, roc.png, pr.png, dice_vs_threshold.png, scores.png, panels.png, report.html.
"""

from functools import partial
from pathlib import Path

from tqdm import tqdm

from uad.checkpoints import versions
from uad.cli.command import run_command
from uad.cli.evaluation import add_evaluation_flags, check_evaluation_flags
from uad.cli.flags import Flags, add
from uad.errors import input_error
from uad.evaluation.clinical import Clinical, evaluate
from uad.evaluation.contenders import SAVED
from uad.evaluation.paper_protocol import VARIANTS, measure_image, paper_summary
from uad.evaluation.report import clinical_summary, write_clinical, write_csv, write_report
from uad.evaluation.study import Study, check_comparable, mapping, open_study
from uad.evaluation.tables import Table, clinical_tables, difference_table, headline_table, paper_table
from uad.files import write_json, write_text
from uad.results import newest_result_folder
from uad.scores import SCORES

RESULTS_ROOT = "results"
PROTOCOLS = ("all", "clinical", *VARIANTS)


def get_args_parser() -> Flags:
    parser = Flags(__doc__)
    add(parser, "--results", nargs="+", help="result folders to score", shown="the newest under ./results")
    add(parser, "--healthy", help="result folder of healthy images of the same run", shown="none")
    add(parser, "--protocol", default="all", choices=PROTOCOLS, help="what to compute")
    add(
        parser,
        "--score",
        default=SAVED,
        choices=(SAVED, *SCORES),
        help="saved: the maps as stored; others: made anew from the stored input and reconstruction",
    )
    add(
        parser,
        "--polarity",
        nargs="+",
        type=int,
        help="with any --score but paper, prior knowledge per channel: lesions are brighter (1), darker (-1), or "
        "do not show (0)",
        shown="none",
    )
    add(
        parser,
        "--out",
        help="output folder; with several results, one folder in it for each",
        shown="DIR/evaluation",
    )
    add_evaluation_flags(parser)
    return parser


def main(args) -> None:
    check_evaluation_flags(args)
    folders = [Path(folder) for folder in args.results or [newest_result_folder(RESULTS_ROOT)]]
    outputs = _output_folders(folders, args.out)
    polarity = tuple(args.polarity) if args.polarity else None
    studies = [open_study(folder, args.score, args.labels, polarity, args.image_score) for folder in folders]
    healthy = open_study(args.healthy, args.score, None, polarity, args.image_score) if args.healthy else None
    for study in studies if healthy else []:
        check_comparable(study, healthy)
    with mapping(args.workers) as mapper:
        scored = [_score(args, study, healthy, out, mapper) for study, out in zip(studies, outputs, strict=True)]
    if len(folders) > 1 and args.protocol in ("all", "clinical"):
        _compare(folders, studies, scored, Path(args.out) if args.out else folders[0] / "evaluation")


def _output_folders(folders: list[Path], out: str | None) -> list[Path]:
    if out is None:
        return [folder / "evaluation" for folder in folders]
    if len(folders) == 1:
        return [Path(out)]
    outputs = [Path(out) / folder.resolve().name for folder in folders]
    if len(set(outputs)) < len(outputs):
        found = "result folders of the same name"
        raise input_error("--results", found, "different names, to be kept apart in --out", "omit --out")
    return outputs


def _score(args, study: Study, healthy: Study | None, out: Path, mapper) -> Clinical | None:
    """Evaluate one result folder, write everything, print the first two tables."""
    facts = _facts(args, study, healthy)
    summary = {**facts, "run": study.folder.run, "versions": versions()}
    tables, pictures, clinical = [], [], None
    if args.protocol in ("all", "clinical"):
        progress = partial(_progress, "clinical")
        clinical = evaluate(study, healthy, args.bootstrap, args.seed, mapper, progress)
        summary["clinical"] = clinical_summary(clinical)
        tables += clinical_tables(clinical)
        pictures = write_clinical(out, study, clinical)
    if args.protocol != "clinical":
        images = list(study.each(measure_image, mapper, partial(_progress, "paper")))
        for variant in VARIANTS if args.protocol == "all" else (args.protocol,):
            summary[variant] = paper_summary(images, variant)
            tables.append(paper_table(variant, summary[variant]))
            write_csv(out / f"per_image_{variant}.csv", _paper_rows(study, images, variant))
    write_json(out / "summary.json", summary)
    counts = clinical.counts if clinical else {}
    shown = {key.replace("_", " "): str(value) for key, value in (facts | counts).items() if value is not None}
    write_report(out, f"Evaluation of {study.folder.folder.resolve().name}", shown, tables, pictures)
    printed = tables[:2] if clinical else tables
    print("\n".join(table.markdown() for table in printed))
    print(f"Everything is in {out}, with pictures in {out / 'report.html'}")
    return clinical


def _facts(args, study: Study, healthy: Study | None) -> dict:
    """What was evaluated and how, and every count of what was skipped."""
    return {
        "results": str(study.folder.folder),
        "healthy": str(healthy.folder.folder) if healthy else None,
        "labels": args.labels,
        "protocol": args.protocol,
        "score": args.score,
        "polarity": args.polarity,
        "image_score": args.image_score,
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "images": len(study.names),
        "incomplete_images_skipped": len(study.folder.incomplete),
        "healthy_images": len(healthy.names) if healthy else 0,
        "incomplete_healthy_images_skipped": len(healthy.folder.incomplete) if healthy else 0,
    }


def _progress(what: str, items, total: int):
    return tqdm(items, total=total, desc=what, leave=False)


def _paper_rows(study: Study, images: list[dict], variant: str) -> list[dict]:
    return [
        {"image": name, "method": row, **numbers}
        for name, image in zip(study.names, images, strict=True)
        for row, numbers in image[variant].items()
    ]


def _compare(folders: list[Path], studies: list[Study], scored: list[Clinical], out: Path) -> None:
    """The methods of several folders in one table; paired differences where the images are the same."""
    rows = {
        f"{study.rows[0].name} ({folder.name})": clinical.rows[study.rows[0].name]
        for folder, study, clinical in zip(folders, studies, scored, strict=True)
    }
    tables: list[Table] = [headline_table(rows, scored[0].prevalence, "Comparison")]
    if all(study.names == studies[0].names for study in studies):
        tables.append(difference_table(rows))
        text = "\n".join(table.markdown() for table in tables)
    else:
        text = tables[0].markdown() + "\nDifferences: n/a (the folders hold different images)\n"
    write_text(out / "comparison.md", text)
    print(text)


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
