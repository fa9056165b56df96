"""The commands together on a tiny data set: what users rely on from a folder of slices to a scored map."""

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import (
    BENCHMARK,
    DETECT,
    EVALUATE,
    SMALL_STAGE1,
    SMALL_STAGE2,
    STAGE1,
    STAGE2,
    maps,
    module,
    run,
    run_apart,
)
from sklearn.metrics import roc_auc_score

from bernoulli_diffusion.flags import detection_of
from bernoulli_diffusion.unet import FlipUNet
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.data.reading.formats import write_slice
from uad.errors import InputError

SIZE = 32
PREVALENCE = 7 * 25 / (11 * SIZE**2)  # of lesion pixels in val_diseased and val_healthy together
AFFINE = np.array([[-2.0, 0, 0, 7], [0, -2.0, 0, 9], [0, 0, 3.0, 11], [0, 0, 0, 1]])


def brain(rng: np.random.Generator, lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    """Four channels of a disc with a ring, and a square lesion that is bright in the last one."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    radius = np.hypot(x, y * rng.uniform(0.9, 1.1))
    tissue = (radius < 13) * (0.5 + 0.2 * (radius < 7))
    image = np.stack([tissue * c for c in (1.0, 0.8, 0.6, 0.5)]) + rng.normal(0, 0.01, (4, SIZE, SIZE)) * (radius < 13)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if lesion:
        row, column = rng.integers(9, 18, 2)
        mask[row : row + 5, column : column + 5] = 1
        image[3] += 0.5 * mask
        image[0] -= 0.3 * mask
    return image.clip(0, 1).astype(np.float32), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train_healthy (36 slices), val_healthy (4), val_diseased (7) with labels."""
    root = tmp_path_factory.mktemp("brats")
    rng = np.random.default_rng(0)
    for folder, patients, lesion in (
        ("train_healthy", range(12), False),
        ("val_healthy", (20, 21), False),
        ("val_diseased", range(22, 29), True),
    ):
        slices = 1 if lesion else (3 if folder == "train_healthy" else 2)
        for patient in patients:
            for index in range(slices):
                name = f"BraTS20_Training_{patient:03d}_{80 + index:03d}.nii.gz"
                image, mask = brain(rng, lesion)
                write_slice(root / folder / name, image, AFFINE)
                if lesion:
                    write_slice(root / f"{folder}_labels" / name, mask, AFFINE)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """Both stages, trained for a moment."""
    log_dir = tmp_path_factory.mktemp("logs") / "binaryae"
    healthy = f"--dataset brats --data_dir {data / 'train_healthy'}"
    run(
        STAGE1,
        f"{SMALL_STAGE1} {healthy} --log_dir {log_dir} --train_steps 300 --lr 3e-3 --code_weight 0.02 --normalise none",
    )
    run(STAGE2, f"{SMALL_STAGE2} {healthy} --ae_load_dir {log_dir} --train_steps 60 --train_noise_levels 20")
    return log_dir


def detect_words(trained: Path, folder: Path, out: Path, more: str = "") -> str:
    return (
        f"--dataset brats --data_dir {folder} --ae_load_dir {trained} --workers 0 --device cpu --noise_level 20 "
        f"--denoise_steps 5 --out_dir {out} {more}"
    )


def test_map_does_not_depend_on_batch_size_or_processes(data, trained, tmp_path):
    folder = data / "val_diseased"
    for batch_size in (1, 7):
        run(DETECT, detect_words(trained, folder, tmp_path / f"b{batch_size}", f"--batch_size {batch_size}"))
    done = run_apart(DETECT, detect_words(trained, folder, tmp_path / "p2", "--batch_size 4"), processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    first = maps(tmp_path / "b1")
    assert len(first) == 7
    for other in ("b7", "p2"):
        for name, array in maps(tmp_path / other).items():
            # Kernels that another batch size picks round differently; a bit that flips shows as 0.001 or more.
            np.testing.assert_allclose(array, first[name], rtol=1e-3, atol=1e-5)


def test_results_are_complete_and_keep_the_affine(data, trained, tmp_path):
    run(DETECT, detect_words(trained, data / "val_diseased", tmp_path / "out", "--batch_size 4"))
    name = "BraTS20_Training_022_080.nii.gz"
    for kind, shape in (
        ("anomaly_map", (32, 32)),
        ("reconstruction", (32, 32, 1, 4)),
        ("autoencoder", (32, 32, 1, 4)),
        ("latent_mask", (16, 16, 1, 8)),
        ("flip_probability", (32, 32, 1, 2)),
        ("label", (32, 32)),
    ):
        image = nib.load(tmp_path / "out" / kind / name)
        assert image.shape == shape
        # The corner of the field of view is the same on every grid.
        corner = image.affine @ np.array([-0.5, -0.5, 0, 1])
        np.testing.assert_allclose(corner, AFFINE @ np.array([-0.5, -0.5, 0, 1]), atol=1e-5)
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info["noise_level"] == 20 and info["seed"] == 0 and info["autoencoder"]["weights_hash"]
    assert info["denoise_steps"] == 5 and info["denoise_spacing"] == "quadratic"


def test_rerun_skips_what_is_done_and_fills_gaps(data, trained, tmp_path):
    words = detect_words(trained, data / "val_diseased", tmp_path / "out", "--batch_size 4")
    run(DETECT, words)
    before = maps(tmp_path / "out")
    kept = tmp_path / "out" / "anomaly_map" / "BraTS20_Training_022_080.nii.gz"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "out" / "records" / "BraTS20_Training_025_080.json").unlink()
    (tmp_path / "out" / "anomaly_map" / "BraTS20_Training_025_080.nii.gz").unlink()
    run(DETECT, words)
    after = maps(tmp_path / "out")
    assert kept.stat().st_mtime_ns == stamp
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    with pytest.raises(InputError, match="prob_threshold"):
        run(DETECT, f"{words} --prob_threshold 0.7")


def test_planted_lesions_are_found_and_evaluated(data, trained, tmp_path):
    """By the difference alone: after so short a training the flip probability knows little."""
    for folder in ("val_healthy", "val_diseased"):
        run(DETECT, detect_words(trained, data / folder, tmp_path / folder, "--batch_size 4 --score smooth"))
    run(EVALUATE, f"--results {tmp_path / 'val_diseased'} --healthy {tmp_path / 'val_healthy'} --bootstrap 50")
    summary = json.loads((tmp_path / "val_diseased" / "evaluation" / "summary.json").read_text())
    text = json.dumps(summary)
    assert "masked Bernoulli diffusion" in text and "autoencoder alone" in text and "raw intensity" in text
    scores, labels = [], []
    for path in sorted((tmp_path / "val_diseased" / "anomaly_map").glob("*.nii.gz")):
        scores.append(np.asarray(nib.load(path).dataobj).ravel())
        labels.append(np.asarray(nib.load(tmp_path / "val_diseased" / "label" / path.name).dataobj).ravel())
    score, label = np.concatenate(scores), np.concatenate(labels)
    assert roc_auc_score(label, score) > 0.99


def test_noise_that_the_model_does_not_know_is_pointed_out(data, trained, tmp_path, capsys):
    """The model of `trained` learned levels 1 to 20."""
    for level in (20, 21):
        words = detect_words(trained, data / "val_diseased", tmp_path / f"{level}", "--num_samples 1 --shifts 1")
        run(DETECT, f"{words} --noise_level {level}")
        assert ("up to 20 steps" in capsys.readouterr().out) == (level > 20)


def test_quality_is_measured_against_the_released_procedure(data, trained, tmp_path):
    words = (
        f"--sections presets quality --data_dir {data / 'val_diseased'} --quality_seeds 2 "
        f"--healthy_dir {data / 'val_healthy'} --ae_load_dir {trained} --noise_level 20 --quality_steps 2 20 "
        f"--model_path {max((trained / 'bernoulli_diffusion').glob('emabld*'))} --amp off --device cpu --threads 1 "
        f"--measured_steps 1 --out {tmp_path / 'out.json'}"
    )
    done = run_apart(BENCHMARK, words)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    presets = {row["preset"]: row for row in found["presets"]["rows"]}
    assert {name: row["evaluations"] for name, row in presets.items()} == {"recommended": 4, "fast": 1, "paper": 200}
    assert presets["paper"]["ap_gain"] == [0, 0, 0]
    for row in presets.values():
        assert PREVALENCE < row["ap"] <= 1 and PREVALENCE < row["best_dice"] <= 1
        assert row["ap_gain"][1] == pytest.approx(row["ap"] - presets["paper"]["ap"])
    curve = {(row["score"], row["steps"]): row for row in found["quality"]["rows"]}
    assert {steps for _, steps in curve} == {2, 20}
    assert curve["paper", 20]["best_dice_gain"] == [0, 0, 0]
    assert found["quality"]["images"] == found["presets"]["images"] == 11


# The lines of the reference commands, with placeholders for folders, and flags after them (the last one counts) that
# make the networks small.
STAGE1_BRATS = (
    "--dataset brats --amp --ema --steps_per_save_output 5000 --codebook_size 128 --nf 32 --steps_per_log 200 "
    "--steps_per_checkpoint 10000 --img_size 256 --batch_size 24 --latent_shape 1 32 32 --ch_mult 1 2 2 4 "
    "--n_channels=4 --log_dir {log} --norm_first --data_dir {data}"
)
STAGE2_BRATS = (
    "--sampler bld --dataset chexpert --data_dir '{data}' --codebook_size 128 --nf 32 --img_size 256 --batch_size 36 "
    "--latent_shape 1 32 32 --ch_mult 1 2 2 4 --n_channels=4 --ae_load_dir {log} --ae_load_step 120000"
)
DETECT_BRATS = (
    "--sampler bld --dataset chexpert --data_dir '{data}' --codebook_size 128 --nf 32 --img_size 256 --batch_size 1 "
    "--latent_shape 1 32 32 --ch_mult 1 2 2 4 --n_channels=4 --ae_load_dir {log} --ae_load_step 12000 --amp --ema "
    "--norm_first"
)
SMALL_IMAGES = "--img_size 32 --latent_shape 1 4 4 --amp off --workers 0 --device cpu"


def test_the_papers_command_lines_run(data, tmp_path):
    log, healthy = tmp_path / "logs" / "binaryae", data / "train_healthy"
    stage1 = STAGE1_BRATS.format(log=log, data=healthy)
    run(STAGE1, f"{stage1} {SMALL_IMAGES} --train_steps 1")
    unet = "--num_channels 32 --channel_mult 1 2 --num_res_blocks 1 --attention_resolutions 4 --code_views 1"
    step = "--ae_load_step 1"
    run(STAGE2, f"{STAGE2_BRATS.format(log=log, data=healthy)} {SMALL_IMAGES} {unet} {step} --train_steps 1")
    with pytest.raises(InputError, match="one of the steps there: 1"):
        run(DETECT, f"{DETECT_BRATS.format(log=log, data=data / 'val_diseased')} {SMALL_IMAGES}")
    detect = DETECT_BRATS.format(log=log, data=data / "val_diseased")
    run(DETECT, f"{detect} {SMALL_IMAGES} {step} --noise_level 2 --out_dir {tmp_path / 'out'} --num_samples 2")
    assert len(maps(tmp_path / "out")) == 2


@pytest.mark.parametrize(("script", "line"), [(STAGE1, STAGE1_BRATS), (STAGE2, STAGE2_BRATS), (DETECT, DETECT_BRATS)])
def test_every_flag_of_the_papers_lines_is_known_and_others_are_not(script, line, capsys):
    parser = module(script).get_args_parser()
    words = shlex.split(line.format(log="logs/x", data="data/x"))
    args = parser.parse_args([*words, "--local_rank", "0", "--local-rank=1"])
    assert args.n_channels == 4 and args.ch_mult == [1, 2, 2, 4]
    for unknown in (["--nff", "3"], ["--no_such_flag"], ["--batch", "3"]):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args([*words, *unknown])
        assert stop.value.code == 2


def test_released_checkpoints_load_in_both_stages(data, tmp_path):
    """State dicts in the released layout, with the tensors that only the released networks have."""
    torch.manual_seed(0)
    network = BinaryAutoEncoder(SIZE, 4, 32, (1, 2), 1, emb_dim=32, codebook_size=8, norm_first=True)
    released = {f"ae.{key}": value for key, value in network.state_dict().items()}
    released |= {"ae.generator.logsigma.0.weight": torch.zeros(32, 32, 3, 3), "disc.main.0.weight": torch.zeros(1)}
    released["ae.encoder.blocks.1.conv_out.weight"] = torch.zeros(32, 32, 1, 1)
    folder = tmp_path / "released" / "saved_models"
    folder.mkdir(parents=True)
    torch.save(released, folder / "binaryae_ema_12000.th")
    unet = FlipUNet(8, 16, 32, (1, 2), 1, (8,))
    torch.save(unet.state_dict(), tmp_path / "emabrats0.999_200000.pt")
    flags = (
        f"--dataset brats --img_size {SIZE} --nf 32 --ch_mult 1 2 --res_blocks 1 --emb_dim 32 --codebook_size 8 "
        f"--norm_first --ae_load_dir {tmp_path / 'released'} --ae_load_step 12000 --num_channels 32 --channel_mult 1 2 "
        "--num_res_blocks 1 --attention_resolutions 8 --workers 0 --device cpu "
    )
    run(
        STAGE2,
        f"{flags} --data_dir {data / 'train_healthy'} --train_steps 1 --code_views 1 --log_dir {tmp_path / 'log'}",
    )
    model = f"--model_path {tmp_path / 'emabrats0.999_200000.pt'} --noise_kernel released --noise_level 3"
    run(DETECT, f"{flags} {model} --data_dir {data / 'val_healthy'} --out_dir {tmp_path / 'out'}")
    assert len(maps(tmp_path / "out")) == 4


def problems(script: str, words: str) -> str:
    with pytest.raises(InputError) as error:
        run(script, words)
    return str(error.value)


def test_bad_input_is_refused_before_training(data, trained, tmp_path):
    """Every problem of the folders is named in one message; nothing is written."""
    bad = tmp_path / "train"
    image, mask = brain(np.random.default_rng(1), True)
    names = [f"BraTS20_Training_{i:03d}_090.nii.gz" for i in (20, 31, 32, 33, 34)]
    for name in names:
        write_slice(bad / name, image, AFFINE)
        write_slice(tmp_path / "train_labels" / name, mask, AFFINE)
    (bad / names[1]).write_bytes((bad / names[1]).read_bytes()[:500])
    image[0, 3, 3] = np.nan
    write_slice(bad / names[2], image, AFFINE)
    write_slice(bad / names[3], np.ones((4, SIZE, SIZE)), AFFINE)
    write_slice(bad / names[4], image[:2], AFFINE)
    log = tmp_path / "log"
    flags = f"{SMALL_STAGE1} --dataset brats --data_dir {bad} --log_dir {log} --test_dir {data / 'val_healthy'}"
    message = problems(STAGE1, f"{flags} --batch_size 8")
    for expected in (*names[1:], "constant", "NaN", "lesion", "BraTS20_Training_020", "2 channel"):
        assert expected in message, f"{expected!r} is not in:\n{message}"
    assert not log.exists()
    done = run_apart(STAGE1, f"{flags} --check_data")
    assert done.returncode == 2 and "remedy" in done.stderr and not log.exists()
    for words, expected in (
        (f"--dataset brats --data_dir {tmp_path / 'nowhere'}", "no such folder"),
        (f"--dataset OCT --data_dir {data / 'train_healthy'}", "4 channels"),
        ("--dataset brats", "--data_dir"),
        (f"--data_dir {data / 'train_healthy'}", "--n_channels"),
        (f"--dataset brats --data_dir {data / 'train_healthy'} --batch_size 64", "64"),
        (f"--dataset brats --data_dir {data / 'train_healthy'} --latent_shape 1 4 4", "1 16 16"),
    ):
        assert expected in problems(STAGE1, f"{SMALL_STAGE1} --log_dir {log} {words}")


def test_checkpoints_that_do_not_fit_are_refused(data, trained, tmp_path):
    folder = data / "val_diseased"
    assert "while the checkpoint has" in problems(DETECT, detect_words(trained, folder, tmp_path, "--nf 64"))
    assert "--ae_load_dir" in problems(DETECT, f"--dataset brats --data_dir {folder}")
    other = tmp_path / "other"
    healthy = f"--dataset brats --data_dir {data / 'train_healthy'}"
    run(STAGE1, f"{SMALL_STAGE1} {healthy} --log_dir {other} --train_steps 1")
    assert "train stage 2" in problems(DETECT, detect_words(other, folder, tmp_path))
    (model,) = (trained / "bernoulli_diffusion").glob("emabld*.pt")
    assert "trained on the autoencoder" in problems(
        DETECT, detect_words(other, folder, tmp_path, f"--model_path {model}")
    )
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(model.read_bytes()[:2000])
    assert "cannot be read" in problems(DETECT, detect_words(trained, folder, tmp_path, f"--model_path {damaged}"))
    for flags, expected in (
        ("--prob_threshold 1.5", "0..1"),
        ("--denoise_steps 21", "1..20"),
        ("--noise_level 0", "1. --noise_level"),
    ):
        assert expected in problems(DETECT, detect_words(trained, folder, tmp_path, flags))


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ("", 1),
        ("--noise_level 100", 1),
        ("--noise_level 101", 5),
        ("--noise_level 200", 5),
        ("--noise_level 200 --denoise_steps 50", 50),
        ("--preset paper", 200),
        ("--preset paper --noise_level 7", 7),
    ],
)
def test_few_steps_are_enough_but_for_the_paper(words, steps):
    assert detection_of(module(DETECT).get_args_parser().parse_args(words.split())).denoise_steps == steps
