"""Score every combination of noise level L, flip-probability threshold P and more on one set of images; choose one.

    python scripts/sweep.py --data_dir data/brats/val_diseased --healthy_dir data/brats/val_healthy \\
        --ae_load_dir logs/binaryae_brats --noise_level 5 10 20 50 --prob_threshold 0.3 0.5 0.7 --out_dir sweep
    python scripts/latent_sample_anomaly.py --settings sweep/settings.json --data_dir data/brats/test ...

Each combination gives the maps of scripts/latent_sample_anomaly.py with the same flags, scored as by
scripts/evaluation.py. K, --shifts and --score also take several values. Of several checkpoints in --model_path, all for
one autoencoder, the flip probabilities of the first --members are averaged. Images are read and encoded once and not
saved: an image of C x S x S takes 4 S^2 (C + n) bytes of memory, n being the combinations of one L, and its code a
fraction of that. Combinations with K above L are skipped. The preset's default setting is always run as well. If the
preset's value of --shifts or --score, or a single model, is not in your lists, the first value listed is used. The
default is chosen unless another setting is significantly better.

Written to --out_dir: records/ (one per combination, written together with the others of its L and models), sweep.csv,
sweep.md, summary.json, heat_maps.png and .pdf, and settings.json, the chosen setting, for --settings of detection. Run
the same command again to continue. Other values of L, P, K, shifts, score and members may be added in the same folder;
the choice is among everything run there. A setting chosen on images is fitted to them: report results on others.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bernoulli_diffusion.flags import add_detection_flags, add_model_source_flags, model_source
from bernoulli_diffusion.grid import GridDetector
from bernoulli_diffusion.grid_flags import GRID_PRESETS, Grid, add_members_flag, grid_of
from bernoulli_diffusion.method import METHOD, Detection, MaskedBernoulliDiffusion, detector, notices
from bernoulli_diffusion.model import ModelSource, TrainedDiffusion, joined, load_models
from bernoulli_diffusion.settings import settings_content
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags, autoencoder_source
from uad.checkpoints import versions
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, only_shown, opening_of, ready
from uad.cli.evaluation import add_clinical_flags, clinical_of
from uad.cli.flags import Flags, add, require
from uad.cli.provenance import command_line, provenance
from uad.cli.runtime import Runtime, add_runtime_flags, amp_of_results, precision_of, runtime_of
from uad.configuration import check_values
from uad.data.reading.checks import data_hash
from uad.data.reading.settings import Reading
from uad.distributed import World, distributed_world
from uad.errors import InputError, input_error
from uad.evaluation.clinical import evaluate
from uad.evaluation.figures import save
from uad.evaluation.heat_maps import heat_maps
from uad.evaluation.held_maps import HeldImages, read_images, study_of
from uad.evaluation.rows import write_table
from uad.evaluation.study import with_neighbours
from uad.evaluation.sweep import (
    METRICS,
    Outcome,
    Setting,
    check_begun,
    check_choosable,
    check_defined,
    choose,
    outcome_of,
    read_outcomes,
    sweep_rows,
    sweep_table,
    write_outcome,
)
from uad.files import write_json, write_text
from uad.scores import check_polarity

RUN = "sweep.json"


@dataclass(frozen=True)
class Request:
    """Everything that the flags say; healthy: the folder of healthy images, or None."""

    opening: Opening
    healthy: Opening | None
    autoencoder: AutoencoderSource
    model: ModelSource
    grid: Grid
    choose_by: str
    neighbours: float
    bootstrap: int
    batch_size: int
    out: Path
    runtime: Runtime


def get_args_parser() -> Flags:
    """The flags of detection, with lists for L, P, K, shifts, score and models, and those of scoring."""
    parser = Flags(__doc__, preset=GRID_PRESETS)
    add(parser, "--out_dir", help="output folder; run again to continue", shown="required")
    add(parser, "--healthy_dir", help="folder of healthy slices; all their pixels are negatives", shown="none")
    add(
        parser,
        "--choose_by",
        choices=tuple(METRICS),
        help="metric by which the setting is chosen",
        shown="ap_with_healthy with --healthy_dir, else ap",
    )
    add(parser, "--batch_size", type=int, default=8, help="images at a time")
    add_clinical_flags(parser)
    add_folder_flags(parser)
    add_detection_flags(parser, grid=True)
    add_runtime_flags(parser)
    add_model_source_flags(parser)
    add_members_flag(parser)
    add_autoencoder_flags(parser)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values; InputError for values that mean nothing."""
    require(args, "data_dir", "out_dir")
    check_values([("--batch_size", args.batch_size, "1 or more", args.batch_size >= 1)])
    opening = opening_of(args)
    neighbours, bootstrap = clinical_of(args)
    return Request(
        opening=opening,
        healthy=opening.of_slices(args.healthy_dir) if args.healthy_dir else None,
        autoencoder=autoencoder_source(args),
        model=model_source(args),
        grid=grid_of(args),
        choose_by=args.choose_by or ("ap_with_healthy" if args.healthy_dir else "ap"),
        neighbours=neighbours,
        bootstrap=bootstrap,
        batch_size=args.batch_size,
        out=Path(args.out_dir),
        runtime=runtime_of(args),
    )


def main(args: argparse.Namespace) -> None:
    """Check everything, run what is not done, choose, write."""
    request = request_of(args)
    with distributed_world(request.runtime.device) as world:
        if world.size > 1:
            raise input_error("torchrun", f"{world.size} processes", "a single one", "start it with plain python")
        autoencoder = load_autoencoder(request.autoencoder)
        default, detection = request.grid.default
        every = request.grid.detections | {default: detection}
        for each in every.values():
            check_polarity(each.polarity, each.score, autoencoder.reading.n_channels)
        if not folders_ready(request, autoencoder, world):
            return
        models = load_models(request.model, autoencoder.network.code_shape, autoencoder.weights_hash)
        model = joined(models)
        every = {setting: each.completed(model, autoencoder.facts.contrast) for setting, each in every.items()}
        for line in lines_on(request.grid, every.values(), model):
            print(line)
        networks, path = (autoencoder.network, models[0].network), request.out / RUN
        amp = precision_of(request.runtime.amp, world, networks, begun=amp_of_results(request.out, RUN))
        reading = autoencoder.judging(every[default].match_contrast)
        facts = facts_of(request, every[default], reading, autoencoder, model, amp, world)
        if only_shown(request.opening, facts | {"settings": [str(each) for each in every]}, world):
            return
        check_begun(request.out, path, facts)
        found = read_outcomes(request.out)
        missing = {setting: each for setting, each in every.items() if setting not in found}
        # Whatever was run in the folder takes part in the choice.
        every |= {setting: run_with(setting, every[default]) for setting in found}
        if missing:
            held = read_all(request, reading)
            if not path.is_file():
                write_json(path, facts)
            detectors = {
                count: detector(autoencoder.network, joined(models[:count]), every[default], world.device, amp)
                for count in {setting.members for setting in missing}
            }
            found |= {outcome.setting: outcome for outcome in run(request, detectors, missing, held, world)}
        check_defined(request.choose_by, found.values())
        write(request, facts, every, found, models)


def run_with(setting: Setting, like: Detection) -> Detection:
    """The detection of a setting, with everything else as in another one."""
    chosen = setting._asdict()
    del chosen["members"]
    return replace(like, **chosen)


def lines_on(grid: Grid, detections: Iterable[Detection], model: TrainedDiffusion) -> list[str]:
    """What is skipped, and what to know where the model was not trained for what is asked of it."""
    skipped = [f"L = {level}, K = {steps} is skipped: K is at most L" for level, steps in grid.skipped]
    return list(dict.fromkeys([*skipped, *(notice for each in detections for notice in notices(each, model))]))


def folders_ready(request: Request, autoencoder: TrainedAutoencoder, world: World) -> bool:
    """Check both folders and say what they hold; whether the command goes on. One InputError with all problems."""
    problems, go_on = [], True
    for opening, healthy in ((request.opening, False), (request.healthy, True)):
        if opening is not None:
            try:
                go_on &= ready(opening, autoencoder.reading, world, healthy=healthy)
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)
    return go_on


def facts_of(
    request: Request,
    default: Detection,
    reading: Reading,
    autoencoder: TrainedAutoencoder,
    model: TrainedDiffusion,
    amp: str,
    world: World,
) -> dict:
    """What holds for all combinations of a folder, and where they come from."""
    common = asdict(default)
    for name in Setting._fields:
        common.pop(name, None)
    healthy = {"healthy_dir": None, "healthy_hash": None}
    if request.healthy:
        folders = request.healthy.folders
        healthy = {"healthy_dir": str(folders.data_dir), "healthy_hash": data_hash(folders.images)}
    facts = {
        "method": METHOD,
        **asdict(reading),
        "seed": request.runtime.seed,
        "amp": amp,
        **common,
        "autoencoder": autoencoder.identity,
        "model": model.identity,
        **healthy,
        "neighbours": request.neighbours,
        "bootstrap": request.bootstrap,
        **provenance(reading, request.opening.folders, world, autoencoder.facts.channels),
    }
    return json.loads(json.dumps(facts))


def read_all(request: Request, reading: Reading) -> list[HeldImages]:
    """The images to score, and the healthy ones, if any; InputError where the choice has no meaning on them."""
    folders = [opening.folders.open(reading) for opening in (request.opening, request.healthy) if opening]
    held = [read_images(slices, reading.dataset, request.runtime.workers) for slices in folders]
    check_choosable(request.choose_by, held)
    return held


def run(
    request: Request,
    detectors: Mapping[int, MaskedBernoulliDiffusion],
    missing: Mapping[Setting, Detection],
    held: Sequence[HeldImages],
    world: World,
) -> list[Outcome]:
    """Run and score the combinations, those of one L and the same models together, and write a record of each.

    detectors: by how many models they average.
    """
    groups: dict[tuple[int, int], list[Setting]] = {}
    for setting in missing:
        groups.setdefault((setting.noise_level, setting.members), []).append(setting)
    count, most = sum(len(each.names) for each in held), max(map(len, groups.values()))
    pictures, maps = sum(each.images.nbytes for each in held), most * count * held[0].images[0, 0].nbytes
    print(f"{count} images take {pictures / 2**20:.0f} MiB, and maps up to {maps / 2**20:.0f} MiB")
    how = world.device, request.batch_size, request.runtime.seed
    base = next(iter(detectors.values()))
    grids = [GridDetector(base, each, *how) for each in held]
    outcomes = []
    with tqdm(total=count * len(missing), unit="map", desc="detecting") as bar:
        for (_, members), group in groups.items():
            start = time.perf_counter()
            detections = [missing[setting] for setting in group]
            found = [each.maps(detections, bar.update, detectors[members].network) for each in grids]
            seconds = (time.perf_counter() - start) / len(group)
            for number, setting in enumerate(group):
                outcome = scored(request, setting, held, [maps[number] for maps in found], seconds)
                write_outcome(request.out, outcome)
                outcomes.append(outcome)
                value = outcome.estimates[request.choose_by]
                tqdm.write(f"{outcome.setting}: {METRICS[request.choose_by]} {value}")
    return outcomes


def scored(
    request: Request, setting: Setting, held: Sequence[HeldImages], maps: Sequence[np.ndarray], seconds: float
) -> Outcome:
    """Score the maps of a combination as scripts/evaluation.py scores those of its result folders."""
    start = time.perf_counter()
    studies = [study_of(images, found, {"method": METHOD}) for images, found in zip(held, maps, strict=True)]
    study, healthy = (*with_neighbours(studies, request.neighbours), None)[:2]
    row = evaluate(study, healthy, request.bootstrap, request.runtime.seed).rows[METHOD]
    return outcome_of(setting, row, {"detection": seconds, "evaluation": time.perf_counter() - start})


def write(
    request: Request,
    facts: dict,
    every: dict[Setting, Detection],
    found: dict[Setting, Outcome],
    models: Sequence[TrainedDiffusion],
) -> None:
    """Choose, and write tables, figures, the summary and the settings file."""
    out, outcomes = request.out, sorted(found.values(), key=lambda outcome: outcome.setting)
    choice = choose(outcomes, found[request.grid.default[0]], request.choose_by)
    hashes = {key: facts[key] for key in ("data_dir", "data_hash", "healthy_dir", "healthy_hash", "num_samples")}
    caution = caution_of(facts)
    text = f"{choice.text()}\n\n{caution}\n"
    write_table(out / "sweep.csv", sweep_rows(outcomes, choice))
    write_text(out / "sweep.md", f"{sweep_table(outcomes, choice).markdown()}\n{text}")
    figure = heat_maps(outcomes, choice)
    save(figure, out / "heat_maps.png")
    explanation = {**choice.as_dict(), "images": caution, "command": command_line(), "versions": versions()}
    settings = [
        {
            **outcome.setting._asdict(),
            "metrics": {name: each.as_dict() for name, each in outcome.estimates.items()},
            "seconds": outcome.seconds,
        }
        for outcome in outcomes
    ]
    skipped = [dict(zip(("noise_level", "denoise_steps"), pair, strict=True)) for pair in request.grid.skipped]
    write_json(out / "summary.json", {**facts, "settings": settings, "skipped": skipped, "choice": choice.as_dict()})
    chosen, used = every[choice.chosen.setting], models[: choice.chosen.setting.members]
    weights = facts["autoencoder"]["weights_hash"], joined(used).weights_hash
    paths = [str(model.path) for model in used] if len(models) > 1 else []
    write_json(out / "settings.json", settings_content(asdict(chosen), *weights, hashes, explanation, paths))
    print(f"{sweep_table(outcomes, choice).markdown()}\n{text}")
    print(f"Everything is in {out}; detection takes the choice as --settings {out / 'settings.json'}")


def caution_of(facts: dict) -> str:
    """On which images the setting was chosen, and what follows."""
    folders = [f"{facts['data_dir']} (hash {facts['data_hash']})"]
    if facts["healthy_dir"]:
        folders.append(f"{facts['healthy_dir']} (hash {facts['healthy_hash']})")
    return f"Chosen on the images of {' and '.join(folders)}: these are validation data from now on, not test data."


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
