"""Score result folders, or maps made by any other software: tables, curves, pictures and one report page.

    python3 scripts/evaluation.py                                 the newest result folder under ./results
    python3 scripts/evaluation.py --results DIR --healthy DIR_OF_HEALTHY_IMAGES
    python3 scripts/evaluation.py --results DIR_A DIR_B           each, and A minus B on the same images
    python3 scripts/evaluation.py --maps DIR --labels DIR         maps that were made elsewhere
    python3 scripts/evaluation.py --maps DIR --labels DIR --healthy DIR_OF_MAPS_OF_HEALTHY_IMAGES

Maps and labels made elsewhere: slices (NIfTI, NPY, PNG, TIFF) or volumes (NIfTI, MetaImage, NRRD, NPY), one image per
file, matched by name, such as p1_anomaly_map.nii.gz and p1_seg.nii.gz. If both files state where their voxels are, they
must be on one grid, in any orientation; otherwise shapes must be equal. Higher is more anomalous; scores may be
negative. A volume counts as all of its axial slices: every voxel is scored, also outside the body.

--protocol bmad, medianomaly and volumes score as these benchmarks do: all images of --results and --healthy together,
maps as saved; several --results are then repeats, with mean and deviation. docs/METRICS.md defines all metrics.

Without healthy images, the thresholds at 1, 5 and 10 % false positives and the image AUROC are not given, and the
reason is stated. Everything is written to DIR/evaluation (or --out): per_image.csv, per_patient.csv,
summary.json, tables.md, roc, pr, dice_vs_threshold, scores and panels (.png, .pdf), report.html with report_cases/.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from uad.checkpoints import versions
from uad.cli.command import command_of
from uad.cli.evaluation import Scoring, add_evaluation_flags, add_threshold_flag, scoring_of, thresholds_of
from uad.cli.flags import Flags, add
from uad.cli.maps import check_maps_flags
from uad.cli.provenance import command_line
from uad.cli.several import write_comparison, write_repeats
from uad.cli.trust import add_trust_flags, check_trust_flags, trust_in
from uad.data.reading.patients import read_patients
from uad.errors import InputError, input_error
from uad.evaluation.attributes import Attributes, read_attributes
from uad.evaluation.benchmarks import BENCHMARKS
from uad.evaluation.calibration import check_apart
from uad.evaluation.clinical import Clinical, evaluate
from uad.evaluation.contenders import SAVED
from uad.evaluation.foreign_maps import open_maps
from uad.evaluation.notices import notices
from uad.evaluation.paper_protocol import VARIANTS, image_rows, measure_image, paper_summary
from uad.evaluation.pictures import write_pictures
from uad.evaluation.published import Published
from uad.evaluation.published_tables import published_table
from uad.evaluation.rows import write_rows, write_table
from uad.evaluation.study import (
    Study,
    check_comparable,
    check_no_image_twice,
    mapping,
    method_alone,
    open_study,
    with_neighbours,
)
from uad.evaluation.summary import clinical_summary, origin
from uad.evaluation.tables import (
    detection_tables,
    further_tables,
    paper_table,
)
from uad.files import write_json, write_text
from uad.neighbours import SIGMA
from uad.report.evaluation import write_evaluation_page
from uad.report.facts import facts_of_run
from uad.report.page import PAGE
from uad.report.slices import Scored, slice_viewer
from uad.report.viewer import Viewer
from uad.results import newest_result_folder
from uad.scores import SCORES

RESULTS_ROOT = "results"
CLINICAL = ("all", "clinical")
PAPER = ("all", *VARIANTS)
PROTOCOLS = (*CLINICAL, *VARIANTS, *BENCHMARKS)
NOT_THE_PROTOCOLS = "Marked thresholds and the numbers of single images are those of --protocol clinical."
ONLY_MAPS = (
    "only maps were kept (run.json: save), so the paper's protocol, PSNR, SSIM and the raw intensity are left out"
)


def get_args_parser() -> Flags:
    parser = Flags(__doc__)
    add(parser, "--results", nargs="+", help="result folders to score", shown="the newest under ./results")
    add(parser, "--maps", nargs="+", help="instead of --results, folders of maps made elsewhere", shown="none")
    add(
        parser,
        "--healthy",
        nargs="+",
        help="result folder of the same run on healthy images; with --maps, one folder of maps of healthy images for "
        "each, in the same order",
        shown="none",
    )
    add(
        parser,
        "--patients",
        help="with --maps, table of the patients, CSV or TSV with columns name (of a slice or a scan), patient",
        shown="taken from the file names",
    )
    add(
        parser,
        "--protocol",
        default="all",
        choices=PROTOCOLS,
        help="what to compute. all: clinical and both of the paper's, with --maps clinical only; bmad, medianomaly, "
        "volumes: as these benchmarks do, each slice by itself unless --neighbours is given",
    )
    add_threshold_flag(parser)
    add_trust_flags(parser)
    add(
        parser,
        "--score",
        default=SAVED,
        choices=(SAVED, *SCORES),
        help="saved: the maps as stored; others (not with --maps): recomputed from the stored input and reconstruction",
    )
    add(
        parser,
        "--polarity",
        nargs="+",
        type=int,
        help="with any --score except paper, prior knowledge for each channel: lesions are brighter (1), darker (-1), "
        "or do not show (0)",
        shown="none",
    )
    add(
        parser,
        "--out",
        help="output folder; with several results, it has a folder for each",
        shown="DIR/evaluation",
    )
    add_evaluation_flags(parser)
    return parser


@dataclass(frozen=True)
class Chosen:
    """What to compute: the protocol, the score and the polarity of the maps, and how they are scored.

    thresholds: those of --protocol volumes, start, stop and step, or None; elsewhere: whether the folders hold maps
    that other software made; patients: a table of theirs, see read_patients; attributes: what is known of images.
    """

    protocol: str
    score: str
    polarity: tuple[int, ...] | None
    scoring: Scoring
    thresholds: tuple[float, ...] | None = None
    elsewhere: bool = False
    patients: Mapping[str, str] | None = None
    attributes: Attributes | None = None

    def open(self, folder: Path | str, spread: Callable, labels: str | None = None) -> Study:
        """A folder with the maps that were chosen; InputError where the paper's protocol lacks the inputs."""
        if self.elsewhere:
            return open_maps(folder, labels, self.patients, spread("checking"))
        study = open_study(folder, self.score, labels, self.polarity)
        if self.protocol in VARIANTS and not study.folder.has_inputs:
            remedy = "choose --protocol clinical, or run the inference with --save all into another folder"
            raise input_error(folder, ONLY_MAPS, f"stored inputs for --protocol {self.protocol}", remedy)
        return study


def main(args) -> None:
    """Score one folder or several."""
    check_maps_flags(args)
    check_trust_flags(args, CLINICAL)
    polarity = tuple(args.polarity) if args.polarity else None
    patients = read_patients(args.patients) if args.patients else None
    protocol = "clinical" if args.maps and args.protocol == "all" else args.protocol
    thresholds = thresholds_of(args)
    scoring = scoring_of(args, 0.0 if protocol in BENCHMARKS else SIGMA)
    attributes = read_attributes(args.meta) if args.meta else None
    chosen = Chosen(protocol, args.score, polarity, scoring, thresholds, bool(args.maps), patients, attributes)
    folders = [Path(folder) for folder in args.maps or args.results or [newest_result_folder(RESULTS_ROOT)]]
    evaluate_folders(chosen, folders, args.healthy or [], args.calibration, args.out)


def evaluate_folders(
    chosen: Chosen, folders: Sequence[Path], healthy_folders: Sequence[str], calibration: str | None, out: str | None
) -> None:
    """Score each folder, then compare them where they are several; InputError where a folder does not fit."""
    outputs = _output_folders(folders, out)
    with mapping(chosen.scoring.workers) as spread:
        opened = _open_all(chosen, folders, healthy_folders, calibration, spread)
        scored = [_score(chosen, *pair, output, spread) for pair, output in zip(opened, outputs, strict=True)]
    if len(folders) > 1 and chosen.protocol not in VARIANTS:
        together = Path(out) if out else folders[0] / "evaluation"
        if chosen.protocol in BENCHMARKS:
            write_repeats(folders, [study for study, *_ in opened], scored, together)
        else:
            write_comparison(folders, [study for study, *_ in opened], scored, together)


def _open_all(
    chosen: Chosen, folders: Sequence[Path], healthy_folders: Sequence[str], calibration: str | None, spread: Callable
) -> list[tuple[Study, Study | None, Study | None]]:
    """Each folder with its healthy images and those of the calibration; InputError with all that is wrong with any."""
    problems, opened = [], {}
    for folder in dict.fromkeys([*folders, *healthy_folders, *([calibration] if calibration else [])]):
        try:
            labels = chosen.scoring.labels if folder in folders else None
            opened[folder] = chosen.open(folder, spread, labels)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if not all(study.folder.has_inputs for study in opened.values()):
        # Where one folder kept only maps, the others are scored by theirs, too: tables have the same rows everywhere.
        opened = {folder: method_alone(study) for folder, study in opened.items()}
    studies, healthy = ([opened[folder] for folder in group] for group in (folders, healthy_folders))
    for study, other in product(studies, healthy):
        check_no_image_twice(study, other)
    if known := opened.get(calibration):
        check_apart(known, *studies, *healthy)
        for study in (*studies, *healthy):
            check_no_image_twice(study, known)
    if not chosen.elsewhere:  # of maps made elsewhere nothing is stated that could be compared
        for study, other in product(studies, [*healthy, known] if known else healthy):
            check_comparable(study, other)
        healthy = healthy * len(studies)
    elif chosen.patients and not any(study.folder.run["patients_from_table"] for study in (*studies, *healthy)):
        found = f"no image of the folders ({studies[0].names[0]}, ...), but {next(iter(chosen.patients))}"
        raise input_error("--patients", found, "names of slices or scans, without extension", "correct the table")
    if chosen.attributes:
        records = (each.folder.record(name) for each in (*studies, *healthy) for name in each.names)
        chosen.attributes.check_known((record["name"], record["patient"]) for record in records)
    pairs = zip(studies, healthy or [None] * len(studies), strict=True)
    return [_beside((*pair, known), chosen.scoring.neighbours) for pair in pairs]


def _beside(studies: Sequence[Study | None], sigma: float) -> tuple[Study | None, ...]:
    """All with maps averaged across the slices of a scan, wherever these are."""
    averaged = iter(with_neighbours([study for study in studies if study], sigma))
    return tuple(next(averaged) if study else None for study in studies)


def _output_folders(folders: Sequence[Path], out: str | None) -> list[Path]:
    if out is None:
        return [folder / "evaluation" for folder in folders]
    if len(folders) == 1:
        return [Path(out)]
    outputs = [Path(out) / folder.resolve().name for folder in folders]
    if len(set(outputs)) < len(outputs):
        found = "several folders of the same name"
        raise input_error("--out", found, "different names, to be kept apart in it", "omit --out")
    return outputs


def _score(
    chosen: Chosen, study: Study, healthy: Study | None, calibration: Study | None, out: Path, spread: Callable
) -> Clinical | Published | None:
    """Evaluate one folder, write everything, print the leading tables."""
    facts = _facts(chosen, study, healthy, calibration)
    summary = {**facts, **origin(study, healthy), "versions": versions(), "command": command_line()}
    leading, further, pictures, clinical, published = [], [], [], None, None
    for said in notices(study, healthy, calibration):
        print(said)
    if chosen.protocol in BENCHMARKS:
        published = _published(chosen, study, healthy, spread)
        summary[chosen.protocol] = published.as_dict()
        leading = [published_table(published)]
    if chosen.protocol in CLINICAL:
        scoring, mapper = chosen.scoring, spread("clinical")
        clinical = evaluate(study, healthy, scoring.bootstrap, scoring.seed, mapper)
        summary["clinical"] = clinical_summary(clinical)
        trust = trust_in(study, healthy, calibration, clinical, chosen.attributes, scoring, mapper)
        summary |= trust.as_dict()
        leading = detection_tables(clinical) + trust.leading
        further = further_tables(clinical) + trust.further
        write_rows(out, clinical, trust.calibrations)
        pictures = write_pictures(out, study, clinical)
    if chosen.protocol in PAPER and study.folder.has_inputs:
        images = list(study.each(measure_image, spread("paper")))
        for variant in VARIANTS if chosen.protocol == "all" else (chosen.protocol,):
            summary[variant] = paper_summary(images, variant)
            further.append(paper_table(variant, summary[variant]))
            write_table(out / f"per_image_{variant}.csv", image_rows(study.names, images, variant))
    write_json(out / "summary.json", summary)
    counts = clinical.counts if clinical else {}
    plain = {key.replace("_", " "): str(value) for key, value in (facts | counts).items() if value is not None}
    runs = {} if chosen.elsewhere else {"Results, as run.json says": facts_of_run(study.folder.run)}
    write_text(out / "tables.md", "\n".join(table.markdown() for table in (*leading, *further)))
    name, tables = study.folder.folder.resolve().name, (leading, further)
    viewer = _viewer(chosen.scoring, study, healthy, clinical, out, spread)
    write_evaluation_page(
        out, name, study.rows[0].name, {"Evaluation": plain, **runs}, tables, pictures, clinical or published, viewer
    )
    print("\n".join(table.markdown() for table in leading or further))
    print(f"Everything is in {out}; look at it with a browser: {out / PAGE}")
    return clinical or published


def _viewer(
    scoring: Scoring, study: Study, healthy: Study | None, clinical: Clinical | None, out: Path, spread: Callable
) -> Viewer | None:
    """What can be looked at; without the clinical protocol, too, with what that gives for single images."""
    name, asked_for = study.rows[0].name, clinical is not None
    if not asked_for and scoring.viewer_cases:
        alone = [each and method_alone(each) for each in (study, healthy)]
        clinical = evaluate(*alone, 0, scoring.seed, spread("clinical"))
    scored = Scored(name, study, healthy, clinical)
    viewer = slice_viewer(out, [scored], scoring.viewer_cases, spread("viewer"))
    return viewer if asked_for or viewer is None else replace(viewer, note=f"{NOT_THE_PROTOCOLS} {viewer.note}".strip())


def _published(chosen: Chosen, study: Study, healthy: Study | None, spread: Callable) -> Published:
    """The protocol of a benchmark."""
    more = {}
    if chosen.thresholds:
        more = {"given": np.round(np.arange(*chosen.thresholds), 7)}  # sums of steps are seldom round
    return BENCHMARKS[chosen.protocol](study, healthy, spread(chosen.protocol), **more)


def _facts(chosen: Chosen, study: Study, healthy: Study | None, calibration: Study | None) -> dict:
    """What was evaluated and how, and every count of what was skipped."""
    scoring, run = chosen.scoring, study.folder.run
    further = (
        {key: run[key] for key in ("files", "paired_by_index", "volumes_paired_by_index")} if chosen.elsewhere else {}
    )
    if not chosen.elsewhere and not study.folder.has_inputs:
        further["left_out"] = ONLY_MAPS
    return {
        "maps" if chosen.elsewhere else "results": str(study.folder.folder),
        "healthy": str(healthy.folder.folder) if healthy else None,
        "calibration": str(calibration.folder.folder) if calibration else None,
        "meta": str(chosen.attributes.path) if chosen.attributes else None,
        "labels": scoring.labels,
        "protocol": chosen.protocol,
        "score": chosen.score,
        "polarity": list(chosen.polarity) if chosen.polarity else None,
        "thresholds": list(chosen.thresholds) if chosen.thresholds else None,
        "neighbours": 0.0 if chosen.elsewhere else scoring.neighbours,
        "bootstrap": scoring.bootstrap,
        "seed": scoring.seed,
        **further,
        "images": len(study.names),
        "incomplete_images_skipped": len(study.folder.incomplete),
        "healthy_images": len(healthy.names) if healthy else 0,
        "incomplete_healthy_images_skipped": len(healthy.folder.incomplete) if healthy else 0,
    }


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
