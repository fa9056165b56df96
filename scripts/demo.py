"""The whole method on phantoms, in about a quarter of an hour on two CPU cores: what `make demo` runs.

    python scripts/demo.py --dataset brats      brain MRI, four channels
    python scripts/demo.py --dataset OCT        retinal OCT, one channel
    python scripts/demo.py --pretrained         in two to three minutes, with a shipped model

Every step is one of the project's commands, printed as you would type it. Finished steps are skipped, interrupted ones
continue. Everything is saved in demo/<dataset>, with --pretrained in demo/<dataset>-pretrained.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from uad.cli.command import command_of
from uad.cli.flags import Flags, add, add_switch
from uad.cli.steps import ROOT, SCRIPTS, STAGE1, Step, run_steps


@dataclass(frozen=True)
class Scale:
    """What differs between the data sets: how many phantoms, which folders and test images, and scans as they are.

    model, few: the shipped model that was trained on these phantoms, and how many others, enough for the test images
    alone, it is tried on.
    """

    patients: int
    prepare: str
    train: str
    healthy: str
    diseased: str
    images: int
    scan: str
    model: str
    few: int


SCALES = {
    "brats": Scale(
        patients=36,
        prepare="prepare_mri.py --img_size 128 --val_patients 10",
        train="train_healthy",
        healthy="val_healthy",
        diseased="val_diseased",
        images=100,
        scan="MICCAI_BraTS2020_TrainingData/BraTS20_Training_002",
        model="models/brain-phantom",
        few=12,
    ),
    "OCT": Scale(
        patients=100,
        prepare="prepare_oct.py --img_size 128 --val_fraction 0.2",
        train="NORMAL",
        healthy="val_NORMAL",
        diseased="DME",
        images=60,
        scan="OCT2017/val/DME",
        model="models/oct-phantom",
        few=100,
    ),
}
# Phantoms come from one scanner: augmentation would only cost training time.
BITS, STAGE2_STEPS, CODE_VIEWS = 32, 500, 6
TRAIN_FLAGS = "--size small --augment 0 --amp --workers 0"
DETECT_FLAGS = "--amp --workers 0"


def steps_of(dataset: str, root: Path, pretrained: bool) -> list[Step]:
    """The commands of the demo, in order; pretrained: with the shipped model, on phantoms of another seed."""
    scale = SCALES[dataset]
    data, results = root / "data", root / "results"
    run = scale.model if pretrained else root / "logs"
    patients, seed = (scale.few, 1) if pretrained else (scale.patients, 0)
    calibration = "" if pretrained else f"--healthy {data / scale.healthy}"  # a shipped model brings its own
    prepare, prepare_flags = scale.prepare.split(" ", 1)
    train = f"--dataset {dataset} --data_dir {data / scale.train} {TRAIN_FLAGS}"
    detect = f"--dataset {dataset} --ae_load_dir {run} {DETECT_FLAGS} --num_samples {scale.images}"

    def detection(folder: str) -> Step:
        words = f"{detect} --batch_size 20 --data_dir {data / folder} --out_dir {results / folder}"
        return Step(f"detection on {folder}", SCRIPTS / "latent_sample_anomaly.py", words)

    phantoms = [
        Step(
            "phantoms",
            SCRIPTS / "make_phantoms.py",
            f"--dataset {dataset} --out {root / 'raw'} --patients {patients} --seed {seed}",
        ),
        Step("preparation", SCRIPTS / prepare, f"--data_dir {root / 'raw'} --out {data} {prepare_flags}"),
    ]
    trainings = [
        Step("stage 1", STAGE1, f"{train} --log_dir {run} --codebook_size {BITS}"),
        Step(
            "stage 2",
            SCRIPTS / "latent_train.py",
            f"{train} --ae_load_dir {run} --train_steps {STAGE2_STEPS} --code_views {CODE_VIEWS}",
        ),
    ]
    return [
        *phantoms,
        *([] if pretrained else trainings),
        detection(scale.healthy),
        detection(scale.diseased),
        Step(
            "evaluation",
            SCRIPTS / "evaluation.py",
            f"--results {results / scale.diseased} --healthy {results / scale.healthy} --workers 2 --bootstrap 200",
        ),
        Step(
            "an answer for scans as they are",
            SCRIPTS / "detect.py",
            f"{root / 'raw' / scale.scan} --model {run} {calibration} --out {root / 'answers'} {DETECT_FLAGS} "
            "--batch_size 20",
        ),
        Step(
            "overview",
            SCRIPTS / "make_overview.py",
            f"{detect} --data_dir {data / scale.diseased} --out {root / 'overview.png'}",
        ),
    ]


def farewell(dataset: str, root: Path, pretrained: bool) -> str:
    """Where everything lies and what to do next."""
    scale = SCALES[dataset]
    evaluation = root / "results" / scale.diseased / "evaluation"
    networks = f"{root / 'logs'}   checkpoints, log.jsonl and picture grids of both stages"
    if pretrained:
        networks = f"{scale.model}   the model that was used, with its card"
    return f"""
Done. What there is to see:
  {root / "overview.png"}   one image through the method
  {evaluation / "report.html"}   the answer, a viewer of the maps, tables and curves on one page
  {evaluation / "panels.png"}    input, reconstruction, map, prediction, truth
  {evaluation / "tables.md"}     the table, with 95 % intervals over patients
  {root / "results" / scale.diseased}   maps, reconstructions and masks as NIfTI
  {root / "answers" / "report.html"}   scans as they are, in three planes, with map and threshold
  {root / "answers"}   map, mask and montage on their own grid, summary.csv
  {networks}
These are phantoms, and minutes of training on a small network. With data of your own:
  1. prepare a folder of healthy slices and one of test slices, as data/README.md says
     (scripts/prepare_mri.py and scripts/prepare_oct.py do it for BraTS and OCT2017);
  2. run the commands printed above on it, with --size small for a first look; README.md has those of the paper."""


def get_args_parser() -> Flags:
    """The demo's flags."""
    parser = Flags(__doc__)
    add(parser, "--dataset", choices=tuple(SCALES), default="brats", help="which phantoms")
    add_switch(parser, "--pretrained", "use the shipped model for these phantoms; no training")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run all steps that are not done."""
    dataset = args.dataset
    root = Path("demo") / (f"{dataset}-pretrained" if args.pretrained else dataset)
    steps, rerun = steps_of(dataset, root, args.pretrained), f"make demo{' PRETRAINED=1' if args.pretrained else ''}"
    run_steps(steps, ROOT / root / "steps", rerun)
    print(farewell(dataset, root, args.pretrained))


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
