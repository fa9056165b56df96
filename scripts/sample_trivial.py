"""Detection by a trivial baseline, which any trained method has to beat.

    python scripts/sample_trivial.py --method intensity --dataset brats --data_dir data/brats/val_diseased --channel 3
    python scripts/sample_trivial.py --method pca --dataset brats --data_dir data/brats/val_diseased \\
        --train_dir data/brats/train_healthy --model_path logs/pca_brats.pt
    python scripts/sample_trivial.py --method autoencoder --data_dir data/brats/val_diseased --ae_load_dir logs/binaryae

intensity: the image itself, one channel or the sum, unchanged or histogram-equalised, everywhere or (--interior)
without the head's outer rim. pca: the residual that the principal components of healthy images do not explain; they are
fitted once and saved in --model_path, and --train_dir and --components must then agree with that file. autoencoder: the
binarizing autoencoder without diffusion. Written to --out_dir (default results/<method>_<folder>): a result folder like
that of any other method.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from baselines.trivial import AutoencoderAlone, PcaResidual, RawIntensity, fit_pca, load_pca, save_pca
from binary_autoencoder.checkpoint import AutoencoderSource, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags, autoencoder_source
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, only_shown, opening_of, ready
from uad.cli.flags import Flags, add, add_switch, require
from uad.cli.inference import Output, add_contrast_flag, add_output_flags, add_sides_flag, detect, output_of
from uad.cli.provenance import provenance
from uad.cli.runtime import Runtime, add_runtime_flags, amp_of_results, precision_of, runtime_of
from uad.configuration import check_given, check_values
from uad.data.reading.checks import data_hash
from uad.data.reading.facts import contrast_of_training
from uad.data.reading.groups import TRAIN
from uad.data.reading.opening import Folders, check_apart, check_folders
from uad.data.reading.settings import IMG_SIZE, Reading, matching
from uad.data.reading.tissue import RIM
from uad.distributed import World, distributed_world
from uad.errors import InputError, input_error, missing_flag
from uad.scores import RESIDUAL_SCORES
from uad.suited import suited_to
from uad.weights import weights_hash

# So many principal components are fitted unless --components says otherwise.
COMPONENTS = 32
# Whose flags these are; the others are those of all competitors.
BELONGS_TO = {
    "channel": ("intensity",),
    "equalise": ("intensity",),
    "interior": ("intensity",),
    "train_dir": ("intensity", "pca"),
    "components": ("pca",),
    "model_path": ("pca",),
    "ae_load_dir": ("autoencoder",),
}


@dataclass(frozen=True)
class Request:
    """Everything that the flags say; channel, equalise, interior: of intensity; components, model_path: of pca;
    train_dir: of pca, and of what has no model that stores the contrast to match."""

    method: str
    opening: Opening
    source: AutoencoderSource
    channel: int | None
    equalise: bool
    interior: bool
    train_dir: str | None
    components: int | None
    model_path: str | None
    score: str
    compare_sides: bool
    match_contrast: bool
    output: Output
    runtime: Runtime


@dataclass(frozen=True)
class Competitor:
    """What is run: the method, its name in tables, how it reads images, and what run.json says of it beside."""

    method: object
    name: str
    reading: Reading
    facts: dict


def get_args_parser() -> Flags:
    """All flags of the trivial competitors."""
    parser = Flags(__doc__)
    group = parser.add_argument_group("trivial competitors")
    add(group, "--method", choices=tuple(COMPETITORS), help="which baseline", shown="required")
    add(group, "--channel", type=int, help="intensity: the channel, from 0", shown="the sum over channels")
    add_switch(group, "--equalise", "intensity: equalise the histogram of every image and channel")
    add_switch(
        group,
        "--interior",
        f"intensity: set an outer rim of the body, 1/{1 / RIM:g} of the image wide, to black, so that bright lesions "
        "stand out without skull and scalp",
    )
    add(
        group,
        "--train_dir",
        help="folder of healthy slices: pca is fitted to them, and --match_contrast of intensity and pca takes their "
        "contrast; with --split the release, of which the part train is read",
        shown="none",
    )
    add(group, "--components", type=int, help="pca: number of components to fit", shown=str(COMPONENTS))
    add(group, "--model_path", help="pca: file of the components; fitted if it does not exist", shown="none")
    add(
        group,
        "--score",
        default="paper",
        choices=RESIDUAL_SCORES,
        help="anomaly score; intensity is smoothed unless this is paper",
    )
    add_sides_flag(group, default=False)
    add_contrast_flag(group, default=False)
    add_folder_flags(parser)
    add_output_flags(parser)
    add_runtime_flags(parser)
    add_autoencoder_flags(parser, needed="none; for --method autoencoder")
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    require(args, "method", "data_dir")
    check_values(
        [
            (f"--{name}", getattr(args, name), f"a flag of --method {' or '.join(methods)}", args.method in methods)
            for name, methods in BELONGS_TO.items()
            # As it is by default; not `in (None, False)`, for channel 0 would be, too.
            if getattr(args, name) is not None and getattr(args, name) is not False
        ]
    )
    unused = args.method == "intensity" and args.train_dir is not None and not args.match_contrast
    check_values([("--train_dir", args.train_dir, "--match_contrast beside it, whose contrast it has", not unused)])
    return Request(
        method=args.method,
        opening=opening_of(args),
        source=autoencoder_source(args),
        channel=args.channel,
        equalise=args.equalise,
        interior=args.interior,
        train_dir=args.train_dir,
        components=args.components,
        model_path=args.model_path,
        score=args.score,
        compare_sides=args.compare_sides,
        match_contrast=args.match_contrast,
        output=output_of(args),
        runtime=runtime_of(args),
    )


def stated_reading(stated: Mapping) -> Reading:
    """How images are read where no checkpoint says it: as the flags state."""
    if "n_channels" not in stated:
        raise input_error("--n_channels", "not given", "the number of channels", "pass --n_channels or --dataset")
    dataset = stated.get("dataset", "custom")
    normalise = stated.get("normalise", suited_to(dataset).normalise)
    return Reading(dataset, stated["n_channels"], stated.get("img_size", IMG_SIZE), normalise)


def intensity(request: Request, world: World) -> Competitor:
    """The image itself."""
    reading, channel = stated_reading(request.source.given), request.channel
    in_range = channel is None or 0 <= channel < reading.n_channels
    check_values([("--channel", channel, f"0..{reading.n_channels - 1}", in_range)])
    name = "raw intensity: " + ("sum" if channel is None else reading.channel_names[channel])
    name += ", equalised" if request.equalise else ""
    name += ", interior" if request.interior else ""
    facts = {"channel": channel, "equalise": request.equalise, "interior": request.interior, "parameters": 0}
    method = RawIntensity(channel, request.equalise, request.interior, request.score)
    return Competitor(method, name, with_contrast(request, reading), facts)


def pca(request: Request, world: World) -> Competitor:
    """Principal components from --model_path; fitted and kept there where it does not exist."""
    if request.model_path is None:
        raise InputError(missing_flag("model_path"))
    # One answer for all: a process that looks later may see what the main one has fitted.
    if not world.told_by_main(Path(request.model_path).exists):
        reading = stated_reading(request.source.given)
        world.on_main(lambda: check_training_folder(request, reading))
        if request.opening.check_data or request.opening.dry_run:
            return Competitor(None, "PCA residual", reading, {"model": f"to be fitted to {request.train_dir}"})
        world.on_main(lambda: fit(request, reading))
    mean, components, reading, fitted_to = load_pca(request.model_path)
    check_given(request.source.given, asdict(reading), request.model_path)
    world.on_main(lambda: check_fit(request, len(components), fitted_to))
    model = {"components": len(components), "weights_hash": weights_hash({"mean": mean, "components": components})}
    model |= {"fitted_to": fitted_to} if fitted_to else {}
    method = PcaResidual(mean.to(world.device), components.to(world.device), request.score)
    facts = {"model": model, "parameters": mean.numel() + components.numel()}
    return Competitor(method, "PCA residual", with_contrast(request, reading), facts)


def fit(request: Request, reading: Reading) -> None:
    """Fit components to the images of --train_dir, and keep them in --model_path."""
    folders = training_folders(request)
    count = COMPONENTS if request.components is None else request.components
    mean, components = fit_pca(folders.open(reading), count)
    fitted_to = folders.facts | {"data_hash": data_hash(folders.images)}
    save_pca(request.model_path, mean, components, reading, fitted_to)


def check_fit(request: Request, count: int, fitted_to: Mapping | None) -> None:
    """An InputError where --components or the images of --train_dir are not those of --model_path.

    count: its components; fitted_to: its images, None in a file of an earlier version, which is said.
    """
    path = request.model_path
    check_given({} if request.components is None else {"components": request.components}, {"components": count}, path)
    if request.train_dir is None:
        return
    if fitted_to is None:
        print(f"{path} does not say which images it was fitted to: whether to those of --train_dir is not known")
    elif data_hash(training_folders(request).images) != fitted_to["data_hash"]:
        raise input_error(
            "--train_dir",
            f"{request.train_dir}, whose images are others than those that {path} was fitted to",
            f"the images of {fitted_to['data_dir']}, as they were",
            "leave --train_dir out, or name another --model_path, which will be fitted anew",
        )


def with_contrast(request: Request, reading: Reading) -> Reading:
    """How images are read, with the contrast of those of --train_dir where that is to be matched."""
    if not request.match_contrast:
        return reading
    if request.train_dir is None:
        expected = "healthy images, whose contrast is matched"
        raise input_error("--train_dir", "not given, with --match_contrast", expected, "pass --train_dir")
    contrast = contrast_of_training(training_folders(request).open(reading), reading)
    return matching(reading, contrast, True, request.train_dir)


def check_training_folder(request: Request, reading: Reading) -> None:
    """An InputError where the healthy images to fit to are missing or unusable."""
    if request.train_dir is None:
        raise input_error(
            "--train_dir", "not given", f"a folder to fit to: {request.model_path} does not exist", "pass --train_dir"
        )
    check_folders(training_folders(request), reading, None, True, request.opening.workers)


def training_folders(request: Request) -> Folders:
    """The healthy images of --train_dir, which is a release where --data_dir is one."""
    folders = request.opening.folders
    return replace(folders, data_dir=request.train_dir, num_samples=0, part=folders.part and TRAIN)


def autoencoder(request: Request, world: World) -> Competitor:
    """The binarizing autoencoder without diffusion."""
    trained = load_autoencoder(request.source)
    begun = amp_of_results(out_dir_of(request))
    amp = precision_of(request.runtime.amp, world, [trained.network], begun=begun)
    facts = {
        "amp": amp,
        "autoencoder": trained.identity | {"command": trained.command},
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
    }
    method = AutoencoderAlone(trained.network.to(world.device), amp, request.score)
    return Competitor(method, "binarizing autoencoder", trained.judging(request.match_contrast), facts)


def out_dir_of(request: Request) -> Path:
    """Where the results go."""
    return request.output.folder(Path("results") / f"{request.method}_{request.opening.folders.name}")


COMPETITORS = {"intensity": intensity, "pca": pca, "autoencoder": autoencoder}


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    request = request_of(args)
    runtime, folders = request.runtime, request.opening.folders
    with distributed_world(runtime.device) as world:
        share, out_dir = world.share_of(request.output.batch_size), out_dir_of(request)
        if request.train_dir is not None:
            world.on_main(lambda: check_apart(training_folders(request), folders))
        chosen = COMPETITORS[request.method](request, world)
        if not ready(request.opening, chosen.reading, world):
            return
        slices = folders.open(chosen.reading)
        info = {
            "method": chosen.name,
            **asdict(chosen.reading),
            "seed": runtime.seed,
            "amp": "off",
            "score": request.score,
            "compare_sides": request.compare_sides,
            "match_contrast": request.match_contrast,
            **chosen.facts,
            **provenance(chosen.reading, folders, world),
            **request.output.facts(out_dir, slices),
        }
        if only_shown(request.opening, info | {"out_dir": str(out_dir)}, world):
            return
        detect(chosen.method, slices, out_dir, info, request.compare_sides, share, runtime, world)


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
