"""What the flags of the stages become: sizes, former names and runs, contradictions, and looking without doing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import DETECT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, module, run, run_apart
from short_training import discs

from uad.checkpoints import check_same_configuration, load_checkpoint, told_images
from uad.data.reading.formats import read_slice, write_slice
from uad.distributed import World
from uad.errors import InputError
from uad.run_lock import exclusive

SIZE = 32
OVERVIEW = "scripts/make_overview.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Eight healthy slices of two channels."""
    folder = tmp_path_factory.mktemp("discs") / "healthy"
    for i, image in enumerate(discs(8, SIZE, 0)[0].numpy()):
        write_slice(folder / f"p{i}_000.nii.gz", image, np.eye(4))
    return folder


@pytest.fixture(scope="module")
def autoencoder(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ae"
    words = f"{SMALL_STAGE1} --n_channels 2 --normalise none --data_dir {images} --log_dir {folder} --train_steps 1"
    run(STAGE1, words)
    return folder


def stage2(images: Path, autoencoder: Path, more: str) -> str:
    return f"{SMALL_STAGE2} --data_dir {images} --ae_load_dir {autoencoder} {more}"


def test_a_size_is_a_row_and_a_given_flag_goes_before():
    script = module(STAGE1)
    words = ["--dataset", "OCT", "--data_dir", "x"]
    paper = script.stage1_of(script.get_args_parser().parse_args(words))
    small = script.stage1_of(script.get_args_parser().parse_args([*words, "--size", "small", "--nf", "24"]))
    assert (paper.reading.img_size, paper.architecture.nf, paper.architecture.latent_shape) == (256, 32, (1, 32, 32))
    assert (small.reading.img_size, small.architecture.nf, small.architecture.latent_shape) == (128, 24, (1, 16, 16))
    assert paper.run.lr == pytest.approx(8 * 4.5e-6) and small.run.lr == 1e-3
    assert paper.run.options.lr_anneal_steps == 0
    assert small.run.options.lr_anneal_steps == small.run.options.train_steps == 600
    longer = script.stage1_of(script.get_args_parser().parse_args([*words, "--size", "small", "--train_steps", "9"]))
    assert longer.run.options.lr_anneal_steps == 9


def test_the_small_stages_fit_each_other():
    """The smallest stage 2 takes codes of the smallest stage 1."""
    stages = [module(script).get_args_parser() for script in (STAGE1, STAGE2)]
    first = module(STAGE1).stage1_of(stages[0].parse_args(["--size", "small", "--dataset", "OCT"]))
    second = module(STAGE2).stage2_of(stages[1].parse_args(["--size", "small"]))
    shape = (first.architecture.codebook_size, *first.architecture.latent_shape[1:])
    model = module(STAGE2).model_for(shape, second.stated)
    assert model.architecture.code_shape == shape


def test_what_detection_does_not_read_is_refused(autoencoder, images, capsys):
    for words in ("--lr 3", "--train_steps 5", "--horizontal_flip", "--log_dirr x"):
        with pytest.raises(SystemExit) as stop:
            run(DETECT, f"--data_dir {images} --ae_load_dir {autoencoder} {words}")
        message = capsys.readouterr().err
        assert stop.value.code == 2 and words.split()[0] in message
    assert "did you mean --log_dir?" in message


@pytest.mark.parametrize(
    ("words", "both"),
    [("--nf 64", ("64", "8")), ("--dataset brats", ("4", "2")), ("--no-norm_first", ("False", "True"))],
)
def test_a_contradiction_names_both_values(autoencoder, images, words, both):
    with pytest.raises(InputError) as error:
        run(STAGE2, stage2(images, autoencoder, words))
    (problem,) = error.value.problems
    assert all(value in problem.found for value in both) and str(autoencoder) in problem.expected


def test_a_dry_run_shows_settings_and_folders_and_writes_nothing(autoencoder, images, tmp_path, capsys):
    run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path / 'log'} --size small --dry_run"))
    summary, _, shown = capsys.readouterr().out.partition("{")
    assert "8 images of 8 patients" in summary
    settings = json.loads("{" + shown)
    assert settings["num_channels"] == 16 and settings["clip_norm"] == 1.0 and settings["train_noise_levels"] == 200
    assert not (tmp_path / "log").exists()


def test_the_former_name_of_the_noise_levels_is_taken_with_a_notice(autoencoder, images, tmp_path, capsys):
    run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path} --noise_level 30 --train_steps 1"))
    assert "--train_noise_levels" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "bld000001.pt")["config"]["trained_levels"] == 30
    with pytest.raises(InputError, match="train_noise_levels"):
        run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path} --train_noise_levels 1001"))


def former(state: dict, changes: dict, removed: tuple[str, ...]) -> dict:
    """A checkpoint with the settings of an earlier version."""
    kept = {name: value for name, value in state["settings"].items() if name not in removed}
    return state | {"settings": kept | changes}


def test_a_run_is_not_continued_with_as_many_other_images(images, autoencoder, tmp_path):
    """In either stage; runs of earlier versions, which tell their number alone, go on."""
    other = tmp_path / "healthy"
    for i, path in enumerate(sorted(images.glob("*.nii.gz"))):
        write_slice(other / f"q{i}_000.nii.gz", read_slice(path, 2).image, np.eye(4))
    words = f"{SMALL_STAGE1} --n_channels 2 --normalise none --log_dir {tmp_path / 'ae'}"
    run(STAGE1, f"{words} --data_dir {images} --train_steps 1 --lr_anneal_steps 0")
    run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path / 'd'} --train_steps 1 --lr_anneal_steps 0"))
    with pytest.raises(InputError, match=r"(?s)names of images.*restore what the run began with"):
        run(STAGE1, f"{words} --data_dir {other} --train_steps 2 --lr_anneal_steps 0")
    with pytest.raises(InputError, match="names of images"):
        run(STAGE2, stage2(other, autoencoder, f"--log_dir {tmp_path / 'd'} --train_steps 2 --lr_anneal_steps 0"))
    files = sorted(images.iterdir())
    check_same_configuration({"images": 8}, told_images([path.name for path in files], files), tmp_path)


def test_a_run_is_not_continued_with_other_images_of_the_same_names(images, autoencoder, tmp_path):
    """As where they were prepared anew in their place: the networks would be those of the former ones."""
    there = shutil.copytree(images, tmp_path / "healthy")
    words = f"{SMALL_STAGE1} --n_channels 2 --normalise none --data_dir {there} --log_dir {tmp_path / 'ae'}"
    run(STAGE1, f"{words} --train_steps 1 --lr_anneal_steps 0")
    run(STAGE2, stage2(there, autoencoder, f"--log_dir {tmp_path / 'd'} --train_steps 1 --lr_anneal_steps 0"))
    for path in there.glob("*.nii.gz"):
        write_slice(path, read_slice(path, 2).image[:, ::-1], np.eye(4))
    with pytest.raises(InputError, match=r"(?s)contents of images.*restore what the run began with"):
        run(STAGE1, f"{words} --train_steps 2 --lr_anneal_steps 0")
    with pytest.raises(InputError, match="contents of images"):
        run(STAGE2, stage2(there, autoencoder, f"--log_dir {tmp_path / 'd'} --train_steps 2 --lr_anneal_steps 0"))


def test_a_longer_training_is_told_why_the_learning_rate_stands_in_its_way(images, tmp_path):
    words = (
        f"{SMALL_STAGE1} --size small --n_channels 2 --normalise none --data_dir {images} --log_dir {tmp_path / 'ae'}"
    )
    run(STAGE1, f"{words} --train_steps 1 --batch_size 2")
    with pytest.raises(
        InputError, match=r"(?s)lr_anneal_steps.*2 \(it follows --train_steps.*pass --lr_anneal_steps 1"
    ):
        run(STAGE1, f"{words} --train_steps 2 --batch_size 2")


def test_a_run_of_an_earlier_version_continues(autoencoder, images, tmp_path):
    words = stage2(images, autoencoder, f"--log_dir {tmp_path} --train_noise_levels 30")
    run(STAGE2, f"{words} --train_steps 1")
    path = tmp_path / "bld000001.pt"
    then = {"noise_level": 30, "schedule_sampler": "inference", "no_code_cache": False, "matrix_lr": 0.02}
    torch.save(former(load_checkpoint(path), then, ("train_noise_levels",)), path)
    run(STAGE2, f"{words} --train_steps 2")
    assert load_checkpoint(tmp_path / "bld000002.pt")["step"] == 2
    changed = former(load_checkpoint(tmp_path / "bld000002.pt"), then | {"matrix_lr": 0.05}, ("train_noise_levels",))
    torch.save(changed, tmp_path / "bld000002.pt")
    with pytest.raises(InputError, match="no such flag"):
        run(STAGE2, f"{words} --train_steps 3")


def test_a_second_run_in_the_same_folder_ends_at_once(autoencoder, images, tmp_path):
    words = stage2(images, autoencoder, f"--log_dir {tmp_path} --train_steps 1")
    with exclusive(tmp_path, World(0, 1, torch.device("cpu"))), pytest.raises(InputError, match="process") as error:
        run(STAGE2, words)
    assert "started" in str(error.value) and not list(tmp_path.glob("*.pt"))
    run(STAGE2, words)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


def test_the_overview_takes_shifts_and_only_looks_when_told_to(autoencoder, images, tmp_path, monkeypatch):
    run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path / 'model'} --train_steps 1"))
    script, drawn = module(OVERVIEW), []
    monkeypatch.setattr(script, "draw", lambda shown, *_: drawn.append(shown["reconstruction"]) or script.Figure())
    words = f"--data_dir {images} --ae_load_dir {autoencoder} --log_dir {tmp_path / 'model'} --device cpu --workers 0"
    run(OVERVIEW, f"{words} --out {tmp_path / 'none.png'} --check_data")
    assert not drawn and not (tmp_path / "none.png").exists()
    for shifts in (1, 4):
        run(OVERVIEW, f"{words} --out {tmp_path / 'overview.png'} --shifts {shifts}")
    assert (tmp_path / "overview.png").exists() and not np.array_equal(*drawn)


def test_an_error_of_all_processes_is_printed_once(images, tmp_path):
    words = f"{SMALL_STAGE1} --n_channels 2 --data_dir {tmp_path / 'nowhere'} --log_dir {tmp_path / 'log'}"
    done = run_apart(STAGE1, words, processes=2)
    assert done.returncode != 0 and done.stderr.count("no such folder") == 1 and "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "--batch_size 0", "--microbatch -1", "--steps_per_log 0", "--steps_per_checkpoint 0", "--keep -1", "--keep 0",
        "--workers -1", "--lr 0", "--lr nan", "--lr -1", "--num_samples -1", "--train_steps -5", "--clip_norm -1",
        "--lr_anneal_steps -5", "--num_channels 0", "--num_heads 3", "--num_heads 0", "--channel_mult 0 1",
        "--ema_rate 2", "--train_noise_levels 0", "--diffusion_steps 0", "--dropout 1", "--augment -1",
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_before_anything_is_done(autoencoder, images, tmp_path, words):
    with pytest.raises(InputError, match=words.split()[0]):
        run(STAGE2, stage2(images, autoencoder, f"--log_dir {tmp_path / 'log'} --dry_run {words}"))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("words", ["--nf 0", "--ch_mult 0 1", "--img_size 0", "--ema_beta 2", "--norm_groups 0"])
def test_networks_that_mean_nothing_are_refused(images, words):
    with pytest.raises(InputError, match=words.split()[0]):
        run(STAGE1, f"{SMALL_STAGE1} --n_channels 2 --data_dir {images} --dry_run {words}")


def test_stage_2_does_not_write_into_the_folder_of_stage_1(autoencoder, images):
    log = (autoencoder / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match="a run of stage 1"):
        run(STAGE2, stage2(images, autoencoder, f"--log_dir {autoencoder} --train_steps 1"))
    assert (autoencoder / "log.jsonl").read_bytes() == log


def test_a_damaged_code_cache_is_named(autoencoder, images, tmp_path):
    words = stage2(images, autoencoder, f"--log_dir {tmp_path}")
    run(STAGE2, f"{words} --train_steps 1")
    (shard,) = tmp_path.glob("codes-*/*.npy")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(InputError, match=rf"{shard.name}(.|\n)*delete it"):
        run(STAGE2, f"{words} --train_steps 2")
    shard.unlink()
    run(STAGE2, f"{words} --train_steps 2")
    assert shard.read_bytes() == whole


def test_three_levels_fit_a_code_that_four_do_not(images, tmp_path):
    """The paper's four levels need a code that 8 divides: a checkpoint's own levels count."""
    healthy = f"--data_dir {images} --device cpu --workers 0 --steps_per_save_output 0"
    shape = "--n_channels 2 --img_size 24 --nf 8 --ch_mult 1 2 --res_blocks 1 --emb_dim 8 --codebook_size 8"
    run(STAGE1, f"{healthy} {shape} --normalise none --log_dir {tmp_path / 'ae'} --train_steps 1 --batch_size 4")
    levels = "--num_channels 16 --channel_mult 1 1 2 --num_res_blocks 1"
    run(STAGE2, f"{healthy} {levels} --ae_load_dir {tmp_path / 'ae'} --train_steps 1 --batch_size 4")
    words = f"--data_dir {images} --ae_load_dir {tmp_path / 'ae'} --device cpu --workers 0 --num_samples 1"
    run(DETECT, f"{words} --out_dir {tmp_path / 'out'}")
    assert (tmp_path / "out" / "run.json").exists()
