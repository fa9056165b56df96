"""All methods on phantoms, with small networks, in one table and one figure: what `make compare` runs.

    python scripts/compare_demo.py --dataset brats      brain MRI, four channels
    python scripts/compare_demo.py --dataset OCT        retinal OCT, one channel

First runs `make demo`, which makes the phantoms and trains the masked Bernoulli diffusion. Then the comparison methods
are trained for some minutes each, and all methods, also the trivial ones, are run on the same few images. Finished
steps are skipped, interrupted ones continue. Everything is saved in demo/<dataset>/compare. Networks this small,
trained this briefly, show that the comparison works, not which method is best.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.cli.steps import ROOT, SCRIPTS, Step, run_steps
from uad.data.reading.normalise import CONTRASTED
from uad.data.reading.settings import CHANNEL_NAMES, shown_channel
from uad.suited import suited_to


@dataclass(frozen=True)
class Folders:
    """Folders of the demo's prepared phantoms."""

    train: str
    healthy: str
    diseased: str


FOLDERS = {
    "brats": Folders("train_healthy", "val_healthy", "val_diseased"),
    "OCT": Folders("NORMAL", "val_NORMAL", "DME"),
}
# Of each comparing method: the flags of its training and of its detection.
TRAINING = {
    "anoddpm": "--train_steps 600",
    "ldm": "--vqvae_steps 500 --train_steps 700",
    "pddpm": "--train_steps 600",
    "autoddpm": "--train_steps 600",
    "disyre": "--train_steps 600",
}
# Variants in detection: method, its flags, and whether a threshold comes from healthy images, then those of training.
VARIANTS = {
    "anoddpm": ("anoddpm", "", False),
    "ldm": ("ldm", "", False),
    "ldm_masked": ("ldm", "--masked", True),
    "pddpm": ("pddpm", "", False),
    "autoddpm": ("autoddpm", "", True),
    "disyre": ("disyre", "", False),
}
# What every method gets: the optimizer of the main method, the score that residuals are best with, and sides compared
# and contrast matched where the main method's are; intensities are better without balancing.
FAIRNESS = "--optimizer muon"
RESIDUAL_SCORE, INTENSITY_SCORE = "--score balanced_smooth", "--score smooth"
READING = "--img_size 128 --workers 0"


def steps_of(dataset: str, images: int) -> list[Step]:
    """The commands, in order; the last one compares."""
    demo = Path("demo") / dataset
    data, root, folders = demo / "data", demo / "compare", FOLDERS[dataset]
    train = data / folders.train
    pca, channel, suited = root / "logs" / "pca.pt", shown_channel(CHANNEL_NAMES.get(dataset, ())), suited_to(dataset)
    contrast = " --match_contrast" if suited.normalise == CONTRASTED else ""
    score = RESIDUAL_SCORE + (" --compare_sides" if suited.compare_sides else "") + contrast
    intensity = f"--method intensity {INTENSITY_SCORE}" + (f" --train_dir {train}{contrast}" if contrast else "")
    detections = {
        "bernoulli": ("latent_sample_anomaly.py", f"--ae_load_dir {demo / 'logs'} --amp"),
        **{name: baseline(name, root, train, score) for name in VARIANTS},
        "autoencoder": ("sample_trivial.py", f"--method autoencoder --ae_load_dir {demo / 'logs'} {score}"),
        "pca": ("sample_trivial.py", f"--method pca --train_dir {train} --model_path {pca} {score}"),
        "intensity": ("sample_trivial.py", f"{intensity} --channel {channel}"),
        "interior": ("sample_trivial.py", f"{intensity} --channel {channel} --interior"),
        "equalised": ("sample_trivial.py", f"{intensity} --equalise"),
    }
    steps = [Step("demo", SCRIPTS / "demo.py", f"--dataset {dataset}")]
    for method, flags in TRAINING.items():
        words = f"--method {method} --dataset {dataset} --data_dir {train} --log_dir {root / 'logs' / method} "
        words += f"--size small --workers 0 --amp --horizontal_flip --steps_per_save_output 0 {FAIRNESS} {flags}"
        steps.append(Step(f"training of {method}", SCRIPTS / "train_baseline.py", words))
    for folder in (folders.healthy, folders.diseased):
        for name, (script, flags) in detections.items():
            words = f"{flags} --dataset {dataset} {READING} --data_dir {data / folder} --batch_size 10 "
            words += f"--num_samples {images} --out_dir {root / 'results' / name / folder}"
            steps.append(Step(f"{name} on {folder}", SCRIPTS / script, words))
    results, healthy = (
        " ".join(str(root / "results" / name / folder) for name in detections)
        for folder in (folders.diseased, folders.healthy)
    )
    words = f"--results {results} --healthy {healthy} --out {root / 'table'} --bootstrap 200"
    return [*steps, Step("comparison", SCRIPTS / "compare.py", words)]


def baseline(variant: str, root: Path, train: Path, score: str) -> tuple[str, str]:
    """Script and flags of a comparing method's detection."""
    method, flags, needs_healthy = VARIANTS[variant]
    words = f"--method {method} --log_dir {root / 'logs' / method} --amp {score} {flags}"
    return "sample_baseline.py", words + (f" --healthy_dir {train}" if needs_healthy else "")


def get_args_parser() -> argparse.ArgumentParser:
    """The flags of the comparison on phantoms."""
    parser = Flags(__doc__)
    add(parser, "--dataset", default="brats", choices=tuple(FOLDERS), help="which phantoms")
    add(parser, "--images", type=int, default=20, help="test images of each kind, healthy and diseased")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run all steps that are not done."""
    dataset, images = args.dataset, args.images
    root = Path("demo") / dataset / "compare"
    run_steps(steps_of(dataset, images), ROOT / root / "steps", "make compare")
    page = root / "table" / "report.html"
    print(f"\nDone. All methods side by side, with a viewer: {page}; tables and figure beside it.")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
