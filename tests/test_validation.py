"""A training of stage 2 judged while it goes on: by detection's own numbers, and the training stays what it is."""

import json
import os
import shutil
import socket
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import DETECT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, forked, run
from short_training import discs

from bernoulli_diffusion.codes import KeptCodes
from bernoulli_diffusion.held_out import MOST_IMAGES, held_out_images
from bernoulli_diffusion.validation import CURVE, Validation
from uad.averaging import MovingAverage
from uad.best import AP, BestCheckpoint
from uad.checkpoints import load_checkpoint
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.errors import InputError
from uad.evaluation.clinical import evaluate
from uad.evaluation.progress import separation
from uad.evaluation.study import open_study
from uad.scores import FOCAL
from uad.training_log import LOG, logged

SIZE = 32
AFFINE = np.eye(4)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train (8 slices), healthy (5) and mixed (6, half of them with lesions and all with masks), two channels."""
    root = tmp_path_factory.mktemp("discs")
    for number, (folder, count) in enumerate((("train", 8), ("healthy", 5), ("mixed", 6))):
        images, masks = discs(count, SIZE, number, lesion=folder == "mixed")
        healthy, _ = discs(count, SIZE, 10 + number)
        for i in range(count):
            name, ill = f"p{number}{i}_000.nii.gz", folder == "mixed" and i % 2 == 0
            write_slice(root / folder / name, (images if ill else healthy)[i].numpy(), AFFINE)
            if folder == "mixed":
                write_slice(root / "mixed_labels" / name, (masks[i].numpy() * ill).astype(np.uint8), AFFINE)
    return root


@pytest.fixture(scope="module")
def autoencoder(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ae")
    words = f"--n_channels 2 --normalise none --data_dir {data / 'train'} --log_dir {folder} --train_steps 20"
    run(STAGE1, f"{SMALL_STAGE1} {words}")
    return folder


def words_of(
    data: Path, autoencoder: Path, log_dir: Path, steps: int, val: str | None = "healthy", more: str = ""
) -> str:
    """The words of a short training that saves every second step."""
    validation = f"--val_dir {data / val} --steps_per_eval 2" if val else ""
    return (
        f"{SMALL_STAGE2} --data_dir {data / 'train'} --ae_load_dir {autoencoder} --log_dir {log_dir} {validation} "
        f"--train_steps {steps} --steps_per_checkpoint 2 --steps_per_log 2 --code_views 1 {more}"
    )


def train(*args) -> None:
    """Run it; the arguments are those of words_of."""
    run(STAGE2, words_of(*args))


def slices(folder: Path) -> SliceFolder:
    return SliceFolder(folder, 2, SIZE, "none")


def best_of(log_dir: Path) -> dict:
    return json.loads((log_dir / "best.json").read_text())


def evaluated(folder: Path, autoencoder: Path, out: Path, weights: Path, healthy: Path | None = None) -> dict:
    """The estimates that detection and evaluation give for slices that are judged by themselves."""
    studies = []
    for each in (folder, *filter(None, [healthy])):
        words = f"--ae_load_dir {autoencoder} --model_path {weights} --workers 0 --device cpu --batch_size 4"
        run(DETECT, f"--data_dir {each} {words} --out_dir {out / each.name}")
        studies.append(open_study(out / each.name, "saved"))
    rows = evaluate(studies[0], studies[1] if healthy else None, n_resamples=0, seed=0).rows
    return rows["masked Bernoulli diffusion"].estimates


def test_numbers_are_those_of_detection_and_evaluation_on_labelled_images(data, autoencoder, tmp_path):
    train(data, autoencoder, tmp_path / "run", 2, "mixed")
    best = best_of(tmp_path / "run")
    found = evaluated(data / "mixed", autoencoder, tmp_path, tmp_path / "run" / best["checkpoint"])
    assert best["ap"] == pytest.approx(found["ap"].value, rel=1e-6)
    assert best["image_auroc"] == pytest.approx(found["image_auroc"].value, rel=1e-6)
    assert best["judged_on"]["real_labels"] and best["judged_on"]["diseased"] == 3


def test_numbers_are_those_of_detection_and_evaluation_on_synthetic_lesions(data, autoencoder, tmp_path):
    train(data, autoencoder, tmp_path / "run", 2)
    best, images = best_of(tmp_path / "run"), held_out_images(slices(data / "healthy"), "intensity")
    for name, image, mask in list(zip(images.names, images.images, images.masks, strict=True))[5:]:
        write_slice(tmp_path / "changed" / f"{name}.nii.gz", image, AFFINE)
        write_slice(tmp_path / "changed_labels" / f"{name}.nii.gz", mask.astype(np.uint8), AFFINE)
    weights = tmp_path / "run" / best["checkpoint"]
    found = evaluated(tmp_path / "changed", autoencoder, tmp_path / "out", weights, data / "healthy")
    assert best["ap"] == pytest.approx(found["ap_with_healthy"].value, rel=1e-6)
    assert best["image_auroc"] == pytest.approx(found["image_auroc"].value, rel=1e-6)
    assert not best["judged_on"]["real_labels"]


@pytest.fixture(scope="module")
def judged(data, autoencoder, tmp_path_factory) -> Path:
    """A training of four steps that is judged after the second and the fourth, with nothing of it changed by that."""
    judge = Validation.__call__

    def judge_and_compare(self, step, ema):
        """Neither weights nor the streams of random numbers that every module shares may change."""
        before = deepcopy(ema.state_dict()), torch.get_rng_state(), np.random.get_state()[1]
        numbers = judge(self, step, ema)
        torch.testing.assert_close(ema.state_dict(), before[0], rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), before[1]) and (np.random.get_state()[1] == before[2]).all()
        assert all(parameter.requires_grad for parameter in ema.parameters())
        return numbers

    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "__call__", judge_and_compare)
        train(data, autoencoder, folder, 4)
    return folder


def test_a_training_that_is_judged_stays_bit_for_bit_what_it_is(data, autoencoder, judged, tmp_path):
    for name, val, more in (("plain", None, ""), ("off", "healthy", "--steps_per_eval 0")):
        train(data, autoencoder, tmp_path / name, 4, val, more)
        plain, found = (load_checkpoint(folder / "bld000004.pt") for folder in (tmp_path / name, judged))
        for key in ("models", "ema", "optimizers"):
            torch.testing.assert_close(found[key], plain[key], rtol=0, atol=0)
        assert logged(judged / LOG, ["loss"]) == logged(tmp_path / name / LOG, ["loss"])
        assert logged(tmp_path / name / LOG, [AP]) == {AP: []} and not (tmp_path / name / CURVE).exists()


def test_an_interrupted_training_finds_the_same_best_and_loses_no_point(data, autoencoder, judged, tmp_path):
    shutil.copytree(judged, tmp_path / "run")
    # As if it had been killed after an evaluation and before its checkpoint.
    (tmp_path / "run" / "bld000004.pt").unlink()
    (tmp_path / "run" / CURVE).unlink()
    train(data, autoencoder, tmp_path / "run", 4)
    names = [AP, "val_image_auroc", "val_best_step", "val_best_ap"]
    whole, resumed = (logged(folder / LOG, names) for folder in (judged, tmp_path / "run"))
    assert whole == resumed and [step for step, _ in whole[AP]] == [2, 4]
    assert best_of(judged) == best_of(tmp_path / "run")
    step, ap = max(whole[AP], key=lambda point: (point[1], -point[0]))
    best = best_of(judged)
    assert (best["step"], best["ap"], best["checkpoint"]) == (step, ap, f"best_{step:06d}.pt")
    assert [path.name for path in judged.glob("best_*.pt")] == [best["checkpoint"]]
    assert (tmp_path / "run" / CURVE).read_bytes()[:4] == b"\x89PNG"


def train_as(rank: int, port: int, words: str) -> None:
    """One of two processes, as a launcher starts them."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    run(STAGE2, words)


def test_several_processes_wait_for_the_one_that_judges(data, autoencoder, judged, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = words_of(data, autoencoder, tmp_path, 2)
    processes = [forked(train_as, rank, port, words) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert logged(tmp_path / LOG, [AP])[AP] == [(2, pytest.approx(logged(judged / LOG, [AP])[AP][0][1], rel=1e-2))]


def test_images_are_spread_over_both_kinds_and_lesions_are_the_same_every_time(data, monkeypatch):
    images = held_out_images(slices(data / "mixed"), "intensity")
    assert images.names == sorted(images.names) and len(images.names) == 6 and images.diseased == 3
    monkeypatch.setattr("bernoulli_diffusion.held_out.MOST_IMAGES", 4)
    few = held_out_images(slices(data / "mixed"), "intensity")
    assert len(few.names) == 4 and few.diseased == 2 and few.lesions is None
    first, again = (held_out_images(slices(data / "healthy"), "structure") for _ in range(2))
    assert first.digest("") == again.digest("") != held_out_images(slices(data / "healthy"), "intensity").digest("")
    assert first.names == first.names[:2] * 2 and not first.masks[:2].any()
    np.testing.assert_array_equal(first.images[0], slices(data / "healthy")[0]["image"].numpy())
    changed = np.abs(first.images[2:] - first.images[:2]).max(1)
    assert (changed[first.masks[2:]] > changed[~first.masks[2:]].max()).all()
    assert MOST_IMAGES % 2 == 0


def test_a_lesion_is_drawn_by_the_name_of_its_image_alone(data, tmp_path):
    shutil.copytree(data / "healthy", tmp_path / "fewer")
    (tmp_path / "fewer" / "p10_000.nii.gz").unlink()
    every, fewer = (held_out_images(slices(folder), "intensity") for folder in (data / "healthy", tmp_path / "fewer"))
    kept = [every.names.index(name) + 5 for name in fewer.names[:4]]
    # Tissue that comes from another image may come from a different one.
    assert sum(np.array_equal(every.masks[i], mask) for i, mask in zip(kept, fewer.masks[4:], strict=True)) >= 3


def test_separation_of_known_maps():
    masks = np.zeros((2, 2, 2), bool)
    masks[0, 0, 0] = True
    maps = np.array([[[3.0, 1], [1, 1]], [[1, 4.0], [1, 1]]], np.float32)
    assert separation(maps, masks, FOCAL) == {AP: 1 / 2, "val_image_auroc": 0.0}
    assert separation(maps[:1], masks[:1], FOCAL) == {AP: 1.0}
    assert separation(maps[1:], masks[1:], FOCAL) == {}


def test_images_are_encoded_in_the_first_round_only():
    calls = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return images + 1

    batches = [torch.zeros(1), torch.ones(1)]
    codes = KeptCodes(encode, "sample")
    for _ in range(3):
        codes.begin()
        assert [codes(batch).item() for batch in batches] == [1, 2]
    assert len(calls) == 2


def test_the_best_checkpoint_is_the_first_of_the_highest_and_stays_comparable(tmp_path):
    judged_on = {"folder": "val", "images": 4, "hash": "a"}
    best, earlier = BestCheckpoint(tmp_path, judged_on, new=True), []
    assert best.consider(1, {}, earlier, dict) == {}
    for step, ap, expected in ((2, 0.3, 2), (4, 0.5, 4), (6, 0.5, 4), (8, 0.4, 4)):
        found = best.consider(step, {AP: ap}, earlier, lambda step=step: {"step": step})
        assert found["val_best_step"] == expected
        earlier.append((step, ap))
    assert [load_checkpoint(path) for path in tmp_path.glob("*.pt")] == [{"step": 4}]
    again = BestCheckpoint(tmp_path, judged_on, new=False)
    assert again.consider(10, {}, [], dict) == {"val_best_step": 4, "val_best_ap": 0.5}  # where the log is lost
    # Killed after step 4, resumed at 2: what step 3 is told does not know of step 4.
    assert again.consider(3, {AP: 0.2}, earlier[:1], dict) == {"val_best_step": 2, "val_best_ap": 0.3}
    with pytest.raises(InputError, match=r"hash\s+a\n(.*\n)*.*4 images of other, hash b"):
        BestCheckpoint(tmp_path, judged_on | {"folder": "other", "hash": "b"}, new=False)
    assert BestCheckpoint(tmp_path, judged_on, new=True).found is None


def test_what_was_chosen_by_labels_is_said(data, autoencoder, tmp_path, capsys):
    train(data, autoencoder, tmp_path / "run", 2, "mixed")
    text = capsys.readouterr().out
    assert f"Judged every 2 steps on 3 diseased and 3 healthy images of {data / 'mixed'}, by its own labels" in text
    assert f"chosen by the labels of {data / 'mixed'}" in text and "--model_path" in text
    weights = tmp_path / "run" / best_of(tmp_path / "run")["checkpoint"]
    words = f"--data_dir {data / 'mixed'} --ae_load_dir {autoencoder} --model_path {weights} --dry_run --device cpu"
    run(DETECT, words)
    assert f"chosen by the labels of {data / 'mixed'}" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_not_judged(data, autoencoder, tmp_path, monkeypatch):
    def break_weights(self):
        for parameter in self.module.parameters():
            parameter.data.fill_(torch.nan)

    monkeypatch.setattr(MovingAverage, "update", break_weights)
    with pytest.raises(InputError, match=r"step 2\n.*NaN or infinity in the averaged weights"):
        train(data, autoencoder, tmp_path, 2)
    assert not list(tmp_path.glob("best*"))


def test_slices_without_a_label_channel_beside_others_with_one_are_healthy(tmp_path):
    image, mask = (each[0].numpy() for each in discs(1, SIZE, 3, lesion=True))
    write_slice(tmp_path / "a_000.nii.gz", np.concatenate([image, mask[None]]), AFFINE)
    write_slice(tmp_path / "b_000.nii.gz", image, AFFINE)
    folder = slices(tmp_path)
    assert [folder.has_lesion(index) for index in range(2)] == [True, False]
    np.testing.assert_array_equal(held_out_images(folder, "intensity").masks, np.stack([mask, np.zeros_like(mask)]))


def test_patients_in_both_folders_are_an_error_and_lesions_where_a_loss_is_meant(data, autoencoder, tmp_path):
    with pytest.raises(InputError, match="no patient in both training and test data"):
        train(data, autoencoder, tmp_path / "a", 2, "train")
    with pytest.raises(InputError, match="lesion pixels in a folder of healthy images"):
        words = f"--n_channels 2 --normalise none --data_dir {data / 'train'} --log_dir {tmp_path / 'b'}"
        run(STAGE1, f"{SMALL_STAGE1} {words} --train_steps 1 --val_dir {data / 'mixed'}")
