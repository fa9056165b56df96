"""Faults on purpose: kills, full and read-only disks, diverging losses, dying processes. Nothing saved may be lost.

The long versions are tests/stress/kill.py and tests/stress/hosts.py.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import DETECT, ROOT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, run
from result_folders import save
from test_training import assert_same, images, small  # noqa: F401

from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.data.reading.folder import SliceFolder
from uad.distributed import World
from uad.errors import InputError
from uad.files import TEMPORARY, read_json, remove_leftovers, write_json, write_text, written_whole
from uad.inference import Reconstruction, detect_folder
from uad.results import LEFTOVER_SECONDS, ResultFolder, ResultWriter
from uad.training import Phase, Training, TrainOptions

CPU = torch.device("cpu")


@contextmanager
def file_size_limit(size: int):
    """No file may grow beyond `size` bytes: the system refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def checkpoint_files(folder: Path) -> CheckpointFiles:
    return CheckpointFiles(folder, "full{step}.pt", "ema{step}.pt")


def state(step: int, size: int = 10) -> dict:
    values = {"format": 1, "config": {}, "settings": {}, "ema": {}, "ema_updates": 0, "optimizers": {}, "scaler": {}}
    return {"kind": "k", "step": step, "models": torch.full((size,), float(step)), "skipped_steps": 0} | values


def visible(folder: Path) -> set[str]:
    """Names in a folder; a leftover of a writer would be among them."""
    return {path.name for path in folder.iterdir()}


def test_a_full_disk_is_named_and_leaves_the_older_checkpoint(small_disk):
    files = checkpoint_files(small_disk)
    files.save(1, state(1), {})
    with pytest.raises(InputError, match=r"(full|ema)\d\.pt") as caught:
        for step in range(2, 9):
            files.save(step, state(step, 100_000), {})
    assert "No space left on device" in str(caught.value)
    last, complaints = files.newest_valid("k")
    assert complaints == [] and float(last["models"][0]) == last["step"] >= 1
    assert not any(name.startswith(TEMPORARY) for name in visible(small_disk))
    with pytest.raises(InputError, match="No space left"):
        write_text(small_disk / "log.txt", "x" * 2**21)


def test_a_read_only_folder_is_named_and_leaves_the_older_checkpoint(small_disk):
    files = checkpoint_files(small_disk)
    files.save(1, state(1), {})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        files.save(2, state(2), {})
    with pytest.raises(InputError, match="Read-only file system"):
        write_json(small_disk / "new" / "run.json", {})
    assert files.newest_valid("k")[0]["step"] == 1


def test_training_on_a_full_disk_ends_clearly_and_goes_on_when_there_is_space(images, tmp_path):  # noqa: F811
    words = small(images, tmp_path / "log", 4, "--steps_per_checkpoint 1")
    run(STAGE1, small(images, tmp_path / "log", 2, "--steps_per_checkpoint 1"))
    saved = tmp_path / "log" / "saved_models"
    before = visible(saved)
    with file_size_limit(20_000), pytest.raises(InputError, match="cannot be written: File too large"):
        run(STAGE1, words)
    assert visible(saved) == before
    assert load_checkpoint(saved / "binaryae_2.th")["step"] == 2
    run(STAGE1, words)
    run(STAGE1, small(images, tmp_path / "whole", 4))
    for key in ("models", "ema", "optimizers"):
        first, second = (load_checkpoint(p / "saved_models" / "binaryae_4.th") for p in saved.parent.parent.iterdir())
        assert_same(first[key], second[key])


def test_a_failed_writing_leaves_the_older_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert visible(tmp_path) == {"a.txt"} and (tmp_path / "a.txt").read_text() == "old"


def test_file_and_folder_are_flushed_around_the_renaming(tmp_path, monkeypatch):
    """Content before the new name, the name after it: else a power cut may leave an empty file under it."""
    events, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append(Path(f"/proc/self/fd/{number}").readlink().name))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), replace(self, to)))
    write_text(tmp_path / "new" / "a.txt", "x")
    with pytest.raises(InputError, match="cannot be written: no folder can be made here"):
        write_text("/proc/new/a.txt", "x")
    with pytest.raises(InputError, match=f"{tmp_path / 'new' / 'a.txt'} is a file"):
        write_text(tmp_path / "new" / "a.txt" / "b.txt", "x")
    parent, content, rename, folder = events
    assert parent == tmp_path.name and content.startswith(TEMPORARY) and (rename, folder) == ("rename", "new")


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    run_info = {"method": "m", "dataset": "custom", "n_channels": 1, "img_size": 4, "normalise": "joint", "seed": 0}
    image = np.ones((1, 4, 4), np.float32)
    save(ResultWriter(tmp_path, run_info), "a", "p", np.eye(4), image, image, image[0])
    old, young = (tmp_path / "input" / f"{TEMPORARY}{name}.nii.gz" for name in ("1-old", "2-young"))
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * LEFTOVER_SECONDS
    os.utime(old, (long_ago, long_ago))
    ResultWriter(tmp_path, run_info)
    assert young.exists() and not old.exists()
    assert ResultFolder(tmp_path).names == ["a"] and not ResultFolder(tmp_path).incomplete
    remove_leftovers(tmp_path / "input")
    assert not young.exists()


def test_pruning_keeps_the_last_ones_and_does_not_count_damaged_later_ones(tmp_path):
    files = checkpoint_files(tmp_path)
    for step in (1, 2, 3, 4):
        files.save(step, state(step), {})
    files.state_path(9).write_bytes(b"damaged")
    (tmp_path / f"{TEMPORARY}1-full4.pt").write_bytes(b"half")
    files.prune(4, keep=1, keep_every=2)
    assert visible(tmp_path) == {"full2.pt", "ema2.pt", "full4.pt", "ema4.pt", "full9.pt"}
    assert files.newest_valid("k")[0]["step"] == 4


@pytest.mark.parametrize("damage", ["bit", "short", "other step", "other kind", "no state", "code"])
def test_damaged_and_foreign_checkpoints_are_passed_over(tmp_path, damage):
    files = checkpoint_files(tmp_path)
    for step in (1, 2):
        files.save(step, state(step, 1000), {})
    path = files.state_path(2)
    content = path.read_bytes()
    at = content.index(np.full(1000, 2, np.float32).tobytes()) + 2000
    damaged = {
        "bit": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "short": content[: len(content) // 2],
        "other step": files.state_path(1).read_bytes(),
        "code": (ROOT / "tests" / "corpus" / "code.pt").read_bytes(),
    }
    if damage in damaged:
        path.write_bytes(damaged[damage])
    elif damage == "other kind":
        torch.save(state(2) | {"kind": "another"}, path)
    else:
        torch.save({"weights": torch.ones(2)}, path)
    newest, complaints = files.newest_valid("k")
    assert newest["step"] == 1
    assert len(complaints) == 1 and "full2.pt" in complaints[0]


class Numbers(torch.utils.data.Dataset):
    """Ten numbers with names; a key is (index, position) as everywhere."""

    def __len__(self):
        return 10

    def __getitem__(self, key):
        index, position = key
        return {"x": torch.tensor([float(index)]), "name": f"n{index}", "index": index, "position": position}


def toy(folder: Path, loss, steps: int, amp: str = "off") -> Training:
    """A training of one weight; loss(prediction, step) -> scalar."""
    torch.manual_seed(0)
    module = torch.nn.Linear(1, 1)

    def of_batch(batch, step):
        value = loss(module(batch["x"]), step)
        return value, {"loss": value}

    return Training(
        kind="toy",
        world=World(0, 1, CPU),
        options=TrainOptions(steps, batch_size=2, seed=0, amp=amp, log_every=1, save_every=1, workers=0),
        log_dir=folder,
        files=checkpoint_files(folder),
        modules={"m": module},
        averaged="m",
        phases=[Phase("m", module, torch.optim.SGD(module.parameters(), 0.01), of_batch)],
        dataset=Numbers(),
        config={},
        settings={},
    )


def test_a_loss_that_is_not_finite_names_step_rate_and_batch_and_keeps_the_last_checkpoint(tmp_path):
    def loss(prediction, step):
        return prediction.mean() * (float("nan") if step == 3 else 1.0)

    with pytest.raises(InputError, match=r"step 3, m\n.*loss nan at learning rate 0\.01; batch: n\d, n\d\n"):
        toy(tmp_path, loss, 9).run()
    newest, complaints = checkpoint_files(tmp_path).newest_valid("toy")
    assert (newest["step"], complaints) == (3, [])


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    """The square root has an infinite slope at 0: the loss of that step is finite, the weights after it are not."""

    def loss(prediction, step):
        return (prediction.mean() * 0).abs().sqrt() if step == 2 else prediction.mean()

    with pytest.raises(InputError, match=r"step 3\n.*NaN or infinity in m\.weight after the batch: n\d, n\d\n"):
        toy(tmp_path, loss, 9).run()
    assert checkpoint_files(tmp_path).newest_valid("toy")[0]["step"] == 2


def test_overflows_of_float16_are_counted_and_survive_a_resume(tmp_path):
    def loss(prediction, step):
        return prediction.float().mean() * (1e6 if step in (1, 4) else 1e-3)

    toy(tmp_path, loss, 3, "fp16").run()
    whole = toy(tmp_path, loss, 6, "fp16")
    whole.run()
    # The gradient is scaled by 2**16, later 2**15: 1e6 times that is beyond float16, which ends at 65504.
    assert whole.skipped_steps == 2
    assert checkpoint_files(tmp_path).newest_valid("toy")[0]["skipped_steps"] == 2


def test_no_valid_checkpoint_at_all_is_an_error_not_a_new_start(tmp_path):
    (tmp_path / "full7.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="none of which can be used"):
        toy(tmp_path, lambda prediction, step: prediction.mean(), 9).run()
    assert visible(tmp_path) == {"full7.pt"}


def test_killed_commands_end_as_undisturbed_ones():
    words = "--kills 2 --steps 4 --images 5 --only stage1 stage2 detection"
    command = [sys.executable, str(ROOT / "tests" / "stress" / "kill.py"), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("the same as undisturbed") == 3


def test_a_job_whose_worker_is_killed_restarts_and_ends_with_the_same_weights(images, tmp_path):  # noqa: F811
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # The restarted processes would find the addresses of the dead in a store shared with the launcher.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"

    def start(folder: str) -> tuple[subprocess.Popen, CheckpointFiles]:
        words = small(images, tmp_path / folder, 20, "--steps_per_checkpoint 5 --ndf 8 --disc_layers 1")
        command = [*launcher, str(ROOT / STAGE1), *words.split()]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        return job, CheckpointFiles(tmp_path / folder / "saved_models", "binaryae_{step}.th", "binaryae_ema_{step}.th")

    job, saved = start("killed")
    while not saved.steps():
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(_children(job.pid)[-1], signal.SIGKILL)
    output = job.communicate(timeout=120)[0]
    assert job.returncode == 0, output[-3000:]
    assert output.count("10 images of 10 patients") == 2, "the job was started twice"
    undisturbed, whole = start("whole")
    assert undisturbed.communicate(timeout=120) and undisturbed.returncode == 0
    assert_same(*(load_checkpoint(files.state_path(20))["models"] for files in (saved, whole)))


def _children(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


class Share(World):
    """One of several processes, run one after the other in this test."""

    def barrier(self):
        pass


class Doubling:
    """A method that doubles, and dies at an image of its choice."""

    def __init__(self, dies_at: float | None = None):
        self.dies_at = dies_at

    def reconstruct(self, images, generators):  # noqa: F811
        if self.dies_at is not None and float(images.max()) >= self.dies_at:
            raise KeyboardInterrupt
        return Reconstruction(2 * images, images[:, 0])


class CountingWriter(ResultWriter):
    """Counts how often each image is saved."""

    saved: list[str]

    def save_all(self, images, spread=map):  # noqa: F811
        self.saved += [image.name for image in images]
        super().save_all(images, spread)


@pytest.mark.parametrize("size", [1, 3])
def test_a_process_that_dies_amid_detection_loses_no_image_and_doubles_none(tmp_path, size):
    """Process 1 of 2 dies; the rerun, with any number of processes, does what is left."""
    for i in range(11):
        (tmp_path / "data").mkdir(exist_ok=True)
        np.save(tmp_path / "data" / f"a{i:02d}.npy", np.full((4, 4), (i + 1) / 20, np.float32) * np.eye(4, dtype="f4"))
    slices = SliceFolder(tmp_path / "data", 1, 4, "none")
    info = {"method": "m", "dataset": "custom", "n_channels": 1, "img_size": 4, "normalise": "none", "seed": 0}
    writer = CountingWriter(tmp_path / "out", info)
    writer.saved = []

    def detect(rank: int, of: int, method: Doubling) -> None:
        detect_folder(method, slices, writer, Share(rank, of, CPU), batch_size=1, seed=0, workers=0)

    detect(0, 2, Doubling())
    with pytest.raises(KeyboardInterrupt):
        detect(1, 2, Doubling(dies_at=6 / 20))
    assert 6 < len(writer.saved) < 11
    for rank in range(size):
        detect(rank, size, Doubling())
    assert sorted(writer.saved) == slices.names == ResultFolder(tmp_path / "out").names


def test_two_runs_with_one_run_json_give_the_same_maps(images, tmp_path):  # noqa: F811
    data = f"--dataset OCT --data_dir {images}"
    run(STAGE1, f"{SMALL_STAGE1} {data} --log_dir {tmp_path / 'ae'} --train_steps 2")
    run(STAGE2, f"{SMALL_STAGE2} {data} --ae_load_dir {tmp_path / 'ae'} --train_steps 2")
    flags = f"{data} --ae_load_dir {tmp_path / 'ae'} --workers 0 --device cpu --noise_level 20 --batch_size 5"
    for name in ("first", "second"):
        run(DETECT, f"{flags} --out_dir {tmp_path / name}")
    first, second = (read_json(tmp_path / name / "run.json") for name in ("first", "second"))
    assert first == second, "only what the command line says and what it finds"
    maps = sorted((tmp_path / "first" / "anomaly_map").iterdir())
    assert len(maps) == 10
    for path in maps:
        assert path.read_bytes() == (tmp_path / "second" / "anomaly_map" / path.name).read_bytes()
