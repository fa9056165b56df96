"""From scans to results: anomaly map, mask and score of volumes or slices, on their own grids.

    python scripts/detect.py FOLDER_OF_PATIENTS --model logs/binaryae_brats --healthy data/brats/val_healthy --out DIR
    python scripts/detect.py --channels t1=a.nii t1ce=b.nii t2=c.nii flair=d.nii --model DIR --out DIR
    python scripts/detect.py p1_t1.nii p1_t1ce.nii p1_t2.nii p1_flair.nii slice.png --model DIR --out DIR --amp

INPUT: volumes (3-D, or 4-D with the model's channels in order; several files of one patient are told apart by the
contrast in their names), a folder of patients in any layout of prepare_mri.py, a folder of slices, single slices, a
DICOM series. No segmentation is needed. The scan is turned, resampled to the spacing, cut and normalised in memory like
the training slices, as the checkpoint states. DIR after --model is a stage-1 run folder with its stage 2 inside.

Written to --out, on the grid and affine of the input: anomaly_map/, reconstruction/, mask/ (at the threshold that
marks the share --false_positives of healthy pixels) as NIfTI, montage/ as PNG, records/ and summary.csv with score,
percentile among healthy patients, volume in ml and position of the maximum; report.html, a page that shows every input
with its map (report_cases/). Slices that do not show the patient, or that the training left out, are zeros.
Thresholds and percentiles come from --healthy, a folder of healthy slices. They are saved in --out; the first
calibration for these settings is also saved in the model's calibration/ and reused without --healthy. Run the same
command again to continue after an interruption.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bernoulli_diffusion.flags import (
    add_detection_flags,
    add_settings_flag,
    chosen_settings,
    detection_of,
    told_settings,
)
from bernoulli_diffusion.method import DETECTION_PRESETS, METHOD, Detection
from bernoulli_diffusion.method import detector as method_of
from bernoulli_diffusion.settings import ChosenSettings
from uad.application.calibration import RATES, calibration_paths
from uad.application.inputs import Item, find_items, in_groups, slices_hash
from uad.application.opening import Chain, chain_of
from uad.application.page import write_scans_page
from uad.application.writing import is_written, read_records, write_opened, write_summary
from uad.cli.calibrating import Healthy
from uad.cli.command import command_of
from uad.cli.flags import Flags, add, add_switch
from uad.cli.inference import add_model_flag
from uad.cli.provenance import command_line
from uad.cli.runtime import Runtime, add_runtime_flags, amp_of_results, precision_of, runtime_of
from uad.configuration import check_configuration, check_values
from uad.data.reading.scans import header_problems
from uad.data.reading.settings import shown_channel
from uad.detector import Detector, load_pair
from uad.distributed import World, distributed_world
from uad.errors import InputError, Problem, input_error
from uad.files import write_json
from uad.neighbours import SIGMA

RUN = "run.json"


@dataclass(frozen=True)
class Request:
    """Everything that the flags say.

    assigned: channel -> file; model_path: checkpoints of stage 2, none for the newest of the model; healthy: folder of
    healthy slices, None for what was measured before; rate: share of healthy pixels that may be marked; median: side of
    the filter over voxels; spacing: None for the model's; settings: the file that chose values of the detection, or
    None.
    """

    inputs: tuple[Path, ...]
    assigned: dict[str, Path]
    model: Path
    model_path: tuple[str, ...]
    out: Path
    healthy: Path | None
    rate: float
    median: int
    neighbours: float
    spacing: float | None
    all_slices: bool
    resampling: bool
    batch_size: int
    detection: Detection
    settings: ChosenSettings | None
    runtime: Runtime


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__, preset=DETECTION_PRESETS)
    parser.add_argument("INPUT", nargs="*", type=Path, help="files and folders, see above (default: none)")
    add(parser, "--channels", nargs="+", help="the files of one patient: CHANNEL=FILE for every channel", shown="none")
    add_model_flag(parser, several=True)
    add(parser, "--out", type=Path, required=True, help="folder to write to")
    add(
        parser,
        "--healthy",
        type=Path,
        help="folder of healthy slices of patients not used in training, from which thresholds and percentiles are "
        "computed",
        shown="earlier ones for these settings, in --out or with the model",
    )
    add(
        parser,
        "--false_positives",
        type=float,
        default=0.01,
        choices=RATES,
        help="share of healthy pixels that the mask may mark",
    )
    add(
        parser,
        "--median",
        type=int,
        default=0,
        choices=(0, 3, 5),
        help="side of a 3-D median filter applied to the map; 0: none",
    )
    add(
        parser,
        "--neighbours",
        type=float,
        default=SIGMA,
        help="standard deviation in mm of the Gaussian by which maps are averaged across the slices of a volume; 0: "
        "each slice by itself",
    )
    add(
        parser,
        "--spacing",
        type=float,
        help="millimetres per pixel of the model's 256 x 256 plane; 0: that of each volume",
        shown="as in training, or 1",
    )
    add_switch(parser, "--resample", "resample a patient's volumes on other grids onto that of the first channel")
    add_switch(parser, "--all_slices", "also score slices left out of training by number or for showing too little")
    add(parser, "--batch_size", type=int, default=8, help="slices at a time")
    add_detection_flags(parser)
    add_settings_flag(parser)
    add_runtime_flags(parser)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    unassigned = [word for word in args.channels or () if not all(word.partition("="))]
    if unassigned:
        raise input_error(
            "--channels", " ".join(unassigned), "CHANNEL=FILE, such as flair=p1.nii.gz", "correct the words"
        )
    check_values(
        [
            ("--batch_size", args.batch_size, "1 or more", args.batch_size >= 1),
            ("--spacing", args.spacing, "0 or more", args.spacing is None or args.spacing >= 0),
            ("--neighbours", args.neighbours, "0 or more", args.neighbours >= 0),
        ]
    )
    return Request(
        inputs=tuple(args.INPUT),
        assigned={word.partition("=")[0]: Path(word.partition("=")[2]) for word in args.channels or ()},
        model=args.model,
        model_path=tuple(args.model_path or ()),
        out=args.out,
        healthy=args.healthy,
        rate=args.false_positives,
        median=args.median,
        neighbours=args.neighbours,
        spacing=args.spacing,
        all_slices=args.all_slices,
        resampling=args.resample,
        batch_size=args.batch_size,
        detection=detection_of(args),
        settings=chosen_settings(args),
        runtime=runtime_of(args),
    )


def main(args: argparse.Namespace) -> None:
    """Check the inputs, calibrate where there is something to, judge, and say where the results lie."""
    request = request_of(args)
    runtime = request.runtime
    with distributed_world(runtime.device) as world:
        pair = load_pair(request.model, request.model_path)
        if request.settings:
            request.settings.check_networks(pair.autoencoder.weights_hash, pair.model.weights_hash)
        reading, detection = pair.autoencoder.reading, pair.detection(request.detection)
        chain = chain_of(pair.reading(detection), pair.autoencoder.facts, request.spacing, request.all_slices)
        items, left_out = find_items(request.inputs, request.assigned, chain.channels, reading.n_channels)
        if world.is_main:
            print(*left_out, sep="\n", end="\n" if left_out else "")
        _check_headers(items, request.resampling)
        settings = pair.settings(detection, runtime.seed)
        networks = (pair.autoencoder.network, pair.model.network)
        amp = precision_of(runtime.amp, world, networks, begun=amp_of_results(request.out))
        method = method_of(pair.autoencoder.network, pair.model, detection, world.device, amp)
        judge = pair.judge(method, world.device, request.batch_size, runtime.seed, detection)
        paths = [calibration_paths(folder, settings, request.neighbours) for folder in (request.out, pair.folder)]
        healthy = Healthy(request.healthy, *paths, pair.autoencoder.facts.likeness)
        world.on_main(lambda: healthy.calibrate(reading, chain.reading, max(1, runtime.workers), judge))
        calibrations = healthy.found
        info = info_of(request, chain, settings | {"amp": amp})
        check_configuration(request.out / RUN, info)
        detector = Detector(
            pair, chain, judge, calibrations, request.neighbours, request.rate, request.median, request.resampling
        )
        waiting = _waiting(request, items, detector)
        if calibrations.slices is None and world.is_main:
            print("Nothing was calibrated: no mask and no percentile. Name a folder of healthy slices by --healthy.")
        info |= told_settings(request.settings, lambda: slices_hash(request.inputs, items), world)
        problems = judge_items(request, waiting, detector, world, info)
        world.barrier()
        if world.is_main:
            records = read_records(request.out)
            table = write_summary(request.out, records)
            page = write_scans_page(request.out, records, chain.names, shown_channel(chain.names), info)
            count = f"{len(items) - len(problems)} of {len(items)} inputs are in {request.out}"
            print(f"{count}; the table is {table}, a page for the browser {page}")
        if problems:
            raise InputError(problems)


def _check_headers(items: Sequence[Item], resampling: bool) -> None:
    """InputError with what all headers tell, before anything is computed."""
    problems = [problem for item in items if item.scan for problem in header_problems(item.scan, resampling)]
    if problems:
        raise InputError(problems)


def info_of(request: Request, chain: Chain, settings: dict) -> dict:
    """What the results of a folder depend on; another command in the folder must agree."""
    info = {
        **settings,
        "method": METHOD,
        "median": request.median,
        "neighbours": request.neighbours,
        "false_positives": request.rate,
        "spacing": chain.framing.spacing,
        "all_slices": request.all_slices,
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in info.items()}


def _waiting(request: Request, items: Sequence[Item], detector: Detector) -> list[Item]:
    """The inputs that are not complete in --out; InputError with those that would replace results of others."""
    waiting, problems = [], []
    for item in items:
        calibration = detector.calibration(item)
        threshold = calibration.threshold(request.rate) if calibration else None
        try:
            waiting += [] if is_written(request.out, item, threshold) else [item]
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return waiting


def judge_items(
    request: Request, waiting: Sequence[Item], detector: Detector, world: World, info: dict
) -> list[Problem]:
    """Judge this process's share of the inputs; the problems of those that could not be used. info: for run.json."""
    run, chain = request.out / RUN, detector.chain
    problems = []
    with tqdm(total=0, desc="detecting", unit="slice", disable=not world.is_main) as bar:
        for group in in_groups(waiting[world.rank :: world.size]):
            items, opened = [], []
            for item in group:
                try:
                    opened.append(detector.open(item))
                    items.append(item)
                except InputError as error:
                    problems += error.problems
            if not opened:
                continue
            bar.total += sum(len(each.images) for each in opened)
            bar.refresh()
            judged = detector.judged(items, opened, bar.update)
            unlike = detector.unlike(opened)
            tell(items, unlike)
            if not run.is_file():
                more = {"channels": list(chain.names), "model_folder": str(request.model), "command": command_line()}
                write_json(run, info | more)
            for item, each, of_it, notices in zip(items, opened, judged, unlike, strict=True):
                answer = detector.answer(item, each, of_it, notices)
                channel = shown_channel(chain.names)
                write_opened(request.out, item, each, of_it, answer, request.rate, request.median, channel)
    return problems


def tell(items: Sequence[Item], notices: Sequence[Sequence[str]]) -> None:
    """Say each kind of notice once, as it is said of the first of its inputs; the rest stands in the table."""
    told: dict[str, list[str]] = {}
    for item, of_it in zip(items, notices, strict=True):
        for notice in of_it:
            told.setdefault(notice.partition(":")[0], []).append(f"{item.name}: {notice}")
    for first, *others in told.values():
        tqdm.write(f"{first}{f' (and {len(others)} more inputs)' if others else ''}")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
