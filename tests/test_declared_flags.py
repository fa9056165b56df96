"""A command declares what it reads: every flag of its parser, and every field that the flags become, is used.

Each command runs once or a few times, tiny, with recorded reads. What only writes settings down does not count.
"""

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import (
    ANSWER,
    DETECT,
    EVALUATE,
    ROOT,
    SAMPLE_BASELINE,
    SMALL_STAGE1,
    SMALL_STAGE2,
    STAGE1,
    STAGE2,
    TRAIN_BASELINE,
    module,
    run,
)
from short_training import discs

from bernoulli_diffusion.flags import CodeTraining, ModelSource
from bernoulli_diffusion.latents import ViewPlan
from binary_autoencoder.checkpoint import AutoencoderSource
from binary_autoencoder.objective import LossTerms
from uad.cli.data import Opening
from uad.cli.evaluation import Scoring
from uad.cli.flags import Flags, add
from uad.cli.inference import Output
from uad.cli.runtime import Runtime
from uad.cli.training import Run
from uad.data.reading.formats import write_slice
from uad.data.reading.layouts import Found
from uad.data.reading.opening import Folders
from uad.data.reading.settings import Reading
from uad.errors import InputError
from uad.training import TrainOptions

SIZE = 32
# Those of the networks and of the masked denoising are handed on as a whole, as keyword arguments.
CLASSES = (
    CodeTraining, ModelSource, ViewPlan, AutoencoderSource, LossTerms, Opening, Scoring, Output, Runtime, Run, Folders,
    Reading, TrainOptions,
)  # fmt: skip
BOOKKEEPING = {"settings", "settings_of", "run_info", "shown"}
ALONE = "--device cpu --workers 0"


class Recorded(argparse.Namespace):
    """Remembers the names of the flags that were read."""

    def __getattribute__(self, name):
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train_healthy (8 slices), val_healthy (4) and val_diseased (4) with labels, two channels."""
    root = tmp_path_factory.mktemp("discs")
    for number, (folder, count) in enumerate((("train_healthy", 8), ("val_healthy", 4), ("val_diseased", 4))):
        images, masks = discs(count, SIZE, number, lesion=folder == "val_diseased")
        for i, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
            name = f"p{number}{i}_000.nii.gz"
            write_slice(root / folder / name, image, np.eye(4))
            if folder == "val_diseased":
                write_slice(root / f"{folder}_labels" / name, mask.astype(np.uint8), np.eye(4))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """Both stages, a comparing method, and results of the diseased and of the healthy slices."""
    root = tmp_path_factory.mktemp("runs")
    healthy = f"--data_dir {data / 'train_healthy'}"
    run(STAGE1, f"{SMALL_STAGE1} --n_channels 2 --normalise none {healthy} --log_dir {root / 'ae'} --train_steps 1")
    run(STAGE2, f"{SMALL_STAGE2} {healthy} --ae_load_dir {root / 'ae'} --train_steps 1")
    run(
        TRAIN_BASELINE,
        f"--method anoddpm --size small --img_size {SIZE} --n_channels 2 --normalise none {healthy} {ALONE} "
        f"--log_dir {root / 'anoddpm'} --train_steps 1 --batch_size 2 --steps_per_save_output 0",
    )
    for folder in ("val_healthy", "val_diseased"):
        run(DETECT, f"--data_dir {data / folder} --ae_load_dir {root / 'ae'} {ALONE} --out_dir {root / folder}")
    return root


def lines_of(script: str, data: Path, runs: Path, out: Path) -> list[str]:
    """Command lines that together reach everything that a command does."""
    healthy = f"--data_dir {data / 'train_healthy'}"
    looked_at = f"--val_dir {data / 'val_healthy'} --test_dir {data / 'val_healthy'} --steps_per_eval 1"
    short = "--train_steps 2 --steps_per_save_output 1"
    diseased = f"--data_dir {data / 'val_diseased'} {ALONE}"
    results = f"--results {runs / 'val_diseased'} --healthy {runs / 'val_healthy'} --bootstrap 5"
    maps = f"--maps {runs / 'val_diseased' / 'anomaly_map'} --labels {runs / 'val_diseased' / 'label'} --bootstrap 5"
    table = out / "table.csv"
    table.write_text("p1,train\n")
    stage1 = f"{SMALL_STAGE1} --n_channels 2 --normalise none {healthy} {looked_at} {short}"
    return {
        STAGE1: [
            f"{stage1} --log_dir {out / 'a'} --disc_start_step 1 --ndf 8 --disc_layers 1 --diff_aug",
            f"{stage1} --log_dir {out / 'b'} --load_dir {runs / 'ae'} --load_optim",
            f"{stage1} --log_dir {out / 'c'} --perceptual_weight 1 --perceptual_weights {out / 'none.pth'}",
        ],
        STAGE2: [f"{SMALL_STAGE2} {healthy} --ae_load_dir {runs / 'ae'} --log_dir {out / 'd'} {short} {looked_at}"],
        DETECT: [f"{diseased} --ae_load_dir {runs / 'ae'} --out_dir {out / 'e'} {more}" for more in ("", "--dry_run")],
        ANSWER: [
            f"{data / 'val_diseased'} --model {runs / 'ae'} --healthy {data / 'val_healthy'} --out {out / 'r'} {ALONE}"
        ],
        "scripts/export_onnx.py": [f"--model {runs / 'ae'} --out {out / 't'}"],
        "scripts/sweep.py": [
            f"{diseased} --healthy_dir {data / 'val_healthy'} --ae_load_dir {runs / 'ae'} --noise_level 2 3 "
            f"--prob_threshold 0.5 --out_dir {out / 'u'} --bootstrap 5"
        ],
        "scripts/make_overview.py": [f"{diseased} --ae_load_dir {runs / 'ae'} --out {out / 'overview.png'}"],
        TRAIN_BASELINE: [
            f"--method anoddpm --size small --img_size {SIZE} --n_channels 2 --normalise none {healthy} {looked_at} "
            f"{short} --log_dir {out / 'g'} --batch_size 2 {ALONE}"
        ],
        SAMPLE_BASELINE: [
            f"--method anoddpm {diseased} --log_dir {runs / 'anoddpm'} --noise_level 2 --out_dir {out / 'h'}"
        ],
        "scripts/sample_trivial.py": [
            f"--method intensity --n_channels 2 --img_size {SIZE} {diseased} --out_dir {out / 'i'}",
            f"--method pca --n_channels 2 --img_size {SIZE} {diseased} --out_dir {out / 'j'} --components 2 "
            f"--train_dir {data / 'train_healthy'} --model_path {out / 'pca.pt'}",
            f"--method autoencoder --ae_load_dir {runs / 'ae'} {diseased} --out_dir {out / 'k'}",
        ],
        EVALUATE: [
            f"{results} --out {out / 'l'}",
            f"{results} --out {out / 's'} --protocol volumes --thresholds 0 1 0.1",
            f"{maps} --out {out / 'q'}",
        ],
        "scripts/compare.py": [f"{results} --out {out / 'm'}"],
        "scripts/prepare_mri.py": [
            f"--data_dir {data} --out {out / 'n'} --no_labels",
            f"--data_dir {data} --out {out / 'n'} --patients {table} --split {table}",
            f"--data_dir {data} --out {out / 'n'} --val_patients 0",
        ],
        "scripts/prepare_oct.py": [f"--data_dir {data} --out {out / 'o'}"],
        "scripts/make_phantoms.py": [f"--dataset OCT --out {out / 'p'} --patients 1"],
        "scripts/demo.py": ["", "--pretrained"],
        "scripts/cross_validate.py": [
            f"--healthy_dir {data / 'train_healthy'} --diseased_dir {data / 'val_diseased'} --out {out / 'r'} "
            f"--stage1_flags= {more}"
            for more in ("--folds 2", f"--patients {table}", "--group '(.)' --groups t", f"--data_dir {data}")
        ],
        "scripts/compare_demo.py": [""],
        "scripts/pack_model.py": [f"--model {runs / 'ae'} --out {out / 't'} --check {data / 'val_healthy'}"],
    }[script]


@pytest.fixture
def reads(monkeypatch) -> Callable[[type], None]:
    """Gives a function that records what is read of a class's instances; `.seen` maps classes to names of fields."""

    seen: dict[type, set[str]] = defaultdict(set)

    def record(cls: type) -> None:
        def read(self, name):
            code = sys._getframe(1).f_code
            # A check of a number is no use of it; Folders checks what is used with --split alone.
            if cls is Runtime and code.co_name == "__post_init__":
                return object.__getattribute__(self, name)
            if code.co_name not in BOOKKEEPING and not code.co_filename.endswith("dataclasses.py"):
                seen[cls].add(name)
            return object.__getattribute__(self, name)

        monkeypatch.setattr(cls, "__getattribute__", read, raising=False)

    record.seen = seen
    return record


def declared(parser: Flags) -> set[str]:
    """The flags that a command has to read: the parser itself reads those that choose rows of its tables, and compares
    those that have a single choice."""
    by_the_parser = {"help", "local_rank", *parser.tables}
    actions = (action for action in parser._actions if action.dest not in by_the_parser)
    return {action.dest for action in actions if action.choices is None or len(list(action.choices)) > 1}


def unread_flags(parser: Flags, lines: list[str], main: Callable) -> set[str]:
    """The declared flags that no line's run reads; a line may end with an InputError."""
    read: set[str] = set()
    for line in lines:
        args = parser.parse_args(shlex.split(line), Recorded())
        args._read.clear()
        with suppress(InputError):
            main(args)
        read |= args._read
    return declared(parser) - read


def request_classes(loaded) -> Iterator[type]:
    """The dataclasses that a script defines for what its flags say."""
    for value in vars(loaded).values():
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == loaded.__name__:
            yield value


SCRIPTS = (
    STAGE1, STAGE2, DETECT, ANSWER, TRAIN_BASELINE, SAMPLE_BASELINE, EVALUATE,
    "scripts/make_overview.py", "scripts/sample_trivial.py", "scripts/compare.py", "scripts/prepare_mri.py",
    "scripts/prepare_oct.py", "scripts/make_phantoms.py", "scripts/demo.py", "scripts/compare_demo.py",
    "scripts/cross_validate.py", "scripts/pack_model.py", "scripts/export_onnx.py", "scripts/sweep.py",
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_everything_that_a_command_declares_is_read(script, data, trained, tmp_path, monkeypatch, reads):
    if script == "scripts/export_onnx.py":
        pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    loaded = module(script)
    # What takes long and is tested elsewhere.
    stand_ins = {
        "run_steps": lambda *_: None,
        "row_of": lambda *_: defaultdict(lambda: "0", undefined=defaultdict(str)),
        "find_scans": lambda *_, **__: Found([], ("t1",), 0),
        "prepare": lambda *_: {} if script.endswith("oct.py") else [],
    }
    for name, stand_in in stand_ins.items():
        if hasattr(loaded, name):
            monkeypatch.setattr(loaded, name, stand_in)
    monkeypatch.setattr("uad.data.phantoms.oct.make_oct_release", lambda *_: None)
    classes = (*CLASSES, *request_classes(loaded))
    for cls in classes:
        reads(cls)
    lines = lines_of(script, data, trained, tmp_path)
    assert unread_flags(loaded.get_args_parser(), lines, loaded.main) == set()
    for cls in classes:
        if reads.seen[cls]:
            missing = {field.name for field in fields(cls)} - reads.seen[cls]
            assert missing == set(), f"{cls.__name__} of {script}"


def test_all_commands_are_tested():
    assert set(SCRIPTS) - {STAGE1} == {f"scripts/{path.name}" for path in ROOT.glob("scripts/*.py")}


def test_a_flag_that_nothing_reads_is_seen():
    parser = Flags("A command.")
    for name in ("--read", "--unread"):
        add(parser, name, help="a flag")
    assert unread_flags(parser, [""], lambda args: args.read) == {"unread"}
