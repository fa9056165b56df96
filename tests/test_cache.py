"""The cache of decoded training images: it changes no item, follows its sources, and survives kills and full disks."""

import os
import pickle
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, forked, run

from uad.checkpoints import load_checkpoint
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.reading.normalise import NORMALISATIONS
from uad.data.training import cache, shards
from uad.data.training.cache import CachedSlices, CacheFiles, cached_slices, found_cache
from uad.data.training.loading import TrainingImages, Variation
from uad.distributed import World
from uad.errors import InputError

RAS = np.diag([1.0, 1.0, 2.0, 1.0])
ALONE = World(0, 1, torch.device("cpu"))
COUNT = 11


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eleven slices, two channels, 20 x 16 NIfTI; axis H runs left-right."""
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        write_slice(tmp_path / "brains" / f"P{index}_000.nii.gz", 900 * rng.random((2, 20, 16)), RAS)
    return tmp_path / "brains"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "LEAST_ROWS", 2)


def opened(folder: Path, size: int = 16, normalise: str = "percentile", kind=SliceFolder) -> SliceFolder:
    return kind(folder, 2, size, normalise)


def built(slices: SliceFolder, place: Path, shared: bool = False, workers: int = 0) -> CachedSlices:
    return cached_slices(slices, place, shared, ALONE, workers)


def files_in(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


class Watched(SliceFolder):
    """Notes which slices are read; `at` an index it does what it is told to."""

    at, action = None, staticmethod(lambda: None)

    def __getitem__(self, index: int) -> dict:
        self.read = [*getattr(self, "read", []), index]
        if index == self.at:
            self.action()
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_the_same_bit_for_bit(folder, tmp_path, workers):
    slices = opened(folder)
    cached = built(slices, tmp_path / "run", workers=workers)
    assert len(cached) == len(slices) == COUNT
    for index in range(COUNT):
        plain, kept = slices[index], cached[index]
        assert all(kept[key] == plain[key] for key in ("name", "patient", "index"))
        assert kept["image"].numpy().tobytes() == plain["image"].numpy().tobytes()
        assert kept["affine"].numpy().tobytes() == plain["affine"].numpy().tobytes()
    variation = Variation(True, 1.0, 1)
    first, second = TrainingImages(slices, variation), TrainingImages(cached, variation)
    assert all(torch.equal(first[p % COUNT, p]["image"], second[p % COUNT, p]["image"]) for p in range(30))


def test_a_second_run_reads_no_file(folder, tmp_path):
    built(opened(folder), tmp_path / "run")
    slices = opened(folder, kind=Watched)
    assert len(built(slices, tmp_path / "run")) == COUNT and not hasattr(slices, "read")


def test_labels_are_left_out(folder, tmp_path):
    for path in folder.iterdir():
        write_slice(tmp_path / "brains_labels" / path.name, np.zeros((20, 16), np.uint8), RAS)
    slices = opened(folder)
    assert "label" in slices[0] and "label" not in built(slices, tmp_path / "run")[0]


def test_another_file_or_setting_makes_another_cache_and_the_former_goes(folder, tmp_path):
    place = tmp_path / "run"
    seen = set()

    def only_cache(slices) -> str:
        built(slices, place)
        (found,) = place.iterdir()
        return found.name

    seen.add(only_cache(opened(folder)))
    seen.add(only_cache(opened(folder, size=8)))
    seen.add(only_cache(opened(folder, normalise="joint")))
    seen.add(only_cache(opened(folder, normalise="tissue")))
    write_slice(folder / "P3_000.nii.gz", np.eye(20)[None, :, :16].repeat(2, axis=0), RAS)
    seen.add(only_cache(opened(folder)))
    (folder / "P4_000.nii.gz").unlink()
    seen.add(only_cache(opened(folder)))
    os.utime(folder / "P5_000.nii.gz", ns=(1, 1))
    seen.add(only_cache(opened(folder)))
    assert len(seen) == 7
    assert torch.equal(built(opened(folder), place)[3]["image"], opened(folder)[3]["image"])


def test_a_shared_place_keeps_the_caches_of_others(folder, tmp_path):
    for size in (16, 8):
        built(opened(folder, size=size), tmp_path / "shared", shared=True)
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_a_killed_build_goes_on_where_it_was_and_leaves_nothing(folder, tmp_path):
    slices = opened(folder, kind=Watched)
    slices.at, slices.action = 7, lambda: os.kill(os.getpid(), signal.SIGKILL)
    process = forked(built, slices, tmp_path / "run")
    process.start()
    process.join()
    left = files_in(tmp_path / "run")
    assert process.exitcode == -signal.SIGKILL
    assert [Path(name).name for name in left if ".tmp-" not in name] == ["000.npy", "001.npy", "002.npy"]
    assert len(left) == 4, "the shard amid which it was killed"
    again = opened(folder, kind=Watched)
    built(again, tmp_path / "run")
    assert again.read == [6, 7, 8, 9, 10]
    built(opened(folder), tmp_path / "undisturbed")
    assert files_in(tmp_path / "run") == files_in(tmp_path / "undisturbed")
    for name in files_in(tmp_path / "run"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_two_runs_may_build_in_one_shared_place_at_the_same_time(folder, tmp_path):
    slices = opened(folder, kind=Watched)
    slices.at, slices.action = 2, lambda: built(opened(folder), tmp_path / "shared", shared=True)
    cached = built(slices, tmp_path / "shared", shared=True)
    assert all(torch.equal(cached[i]["image"], opened(folder)[i]["image"]) for i in range(COUNT))
    assert len(files_in(tmp_path / "shared")) == 6


def build_together(rank: int, folder: Path, place: Path, seconds: float) -> None:
    """One of two processes, whose patience is shorter than the build."""
    dist.init_process_group(
        "gloo", f"file://{place}.rendezvous", timeout=timedelta(seconds=seconds), rank=rank, world_size=2
    )
    slices = opened(folder, kind=Watched)
    slices.at, slices.action = None, None
    if rank == 0:
        slices.__class__ = type("Slow", (SliceFolder,), {"__getitem__": slowly})
    cached = cached_slices(slices, place, False, World(rank, 2, torch.device("cpu")), 0)
    assert not hasattr(slices, "read"), "one process reads"
    assert torch.equal(cached[4]["image"], opened(folder)[4]["image"])
    dist.destroy_process_group()


def slowly(self, index: int) -> dict:
    time.sleep(0.5)
    return SliceFolder.__getitem__(self, index)


def test_one_of_two_processes_builds_and_the_other_waits_beyond_its_patience(folder, tmp_path):
    processes = [forked(build_together, rank, folder, tmp_path / "run", 4.0) for rank in range(2)]
    started = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert time.monotonic() - started > 5, "else nothing was shown"


def test_a_read_only_folder_of_data_is_left_as_it_is(folder, tmp_path):
    before = files_in(tmp_path)
    folder.chmod(0o555)
    tmp_path.joinpath("run").mkdir()
    try:
        built(opened(folder), tmp_path / "run")
    finally:
        folder.chmod(0o755)
    assert [name for name in files_in(tmp_path) if not name.startswith("run/")] == before


def test_a_full_disk_is_said_before_anything_is_decoded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    slices = opened(folder, kind=Watched)
    with pytest.raises(InputError, match="--cache_dir none"):
        built(slices, tmp_path / "run")
    assert not hasattr(slices, "read")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_any_more_is_named(folder, tmp_path, workers):
    slices = opened(folder)
    (folder / "P4_000.nii.gz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"P4_000\.nii\.gz"):
        built(slices, tmp_path / "run", workers=workers)
    assert not any(".tmp-" in name for name in files_in(tmp_path / "run"))


def test_a_damaged_cache_is_named(folder, tmp_path):
    slices = opened(folder)
    built(slices, tmp_path / "run")
    shard = CacheFiles(tmp_path / "run", slices).paths[1]
    for damage in (shard.read_bytes()[:100], CacheFiles(tmp_path / "run", slices).paths[-1].read_bytes(), b""):
        shard.write_bytes(damage)
        with pytest.raises(InputError, match=r"001\.npy(.|\n)*delete"):
            built(slices, tmp_path / "run")


def test_what_is_sent_to_a_worker_is_not_the_images(folder, tmp_path):
    cached = built(opened(folder), tmp_path / "run")
    sent = pickle.dumps(cached)
    assert len(sent) < cached[0]["image"].nbytes * COUNT / 2
    assert torch.equal(pickle.loads(sent)[5]["image"], cached[5]["image"])


# Means of the items below, of each normalisation, for cache.VERSION 1.
MEANS = {"joint": 0.359007, "percentile": 0.389622, "foreground": 0.238068, "none": 0.19839}
MEANS |= {"tissue": 0.189221, "retina": 0.189221}


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_caches_of_another_reading_are_not_used(tmp_path, normalise):
    """Where this fails, raise cache.VERSION and write down what is read now."""
    rows, columns = np.mgrid[-1:1:40j, -1:1:30j]
    body = np.hypot(rows, columns) < 0.8
    image = body * (np.stack((2 + rows, 3 + columns * rows)) / 6)
    write_slice(tmp_path / "x" / "a_1.nii.gz", image, RAS)
    item = SliceFolder(tmp_path / "x", 2, 24, normalise)[0]
    assert cache.VERSION == 1
    assert float(item["image"].double().mean()) == pytest.approx(MEANS[normalise], abs=1e-5)


def test_only_a_complete_cache_is_found(folder, tmp_path):
    slices = opened(folder)
    assert found_cache(slices, [tmp_path / "nowhere"], ALONE) is None
    built(slices, tmp_path / "b")
    found = found_cache(slices, [tmp_path / "a", tmp_path / "b"], ALONE)
    assert torch.equal(found[1]["image"], slices[1]["image"])
    CacheFiles(tmp_path / "b", slices).paths[2].unlink()
    assert found_cache(slices, [tmp_path / "b"], ALONE) is None


def test_a_training_is_the_same_with_a_cache_and_without(folder, tmp_path):
    """A run that began without a cache continues with one; stage 2 samples codes of images from stage 1's cache."""
    data = f"--n_channels 2 --data_dir {folder} --augment 1 --horizontal_flip"
    for name, flags in (("a", ""), ("b", "--cache_dir none")):
        run(STAGE1, f"{SMALL_STAGE1} {data} --log_dir {tmp_path / name} --train_steps 1 {flags}")
        run(STAGE1, f"{SMALL_STAGE1} {data} --log_dir {tmp_path / name} --train_steps 2 --cache_dir {tmp_path / 'c'}")
    weights = [load_checkpoint(tmp_path / name / "saved_models" / "binaryae_2.th")["models"] for name in "ab"]
    for key, value in weights[0]["autoencoder"].items():
        assert torch.equal(value, weights[1]["autoencoder"][key])
    assert [len(list((tmp_path / name).glob("slices-*"))) for name in "abc"] == [1, 0, 1]
    shutil.rmtree(tmp_path / "c")
    for name, made in (("a", 0), ("b", 1)):
        stage2 = f"{SMALL_STAGE2} {data} --ae_load_dir {tmp_path / name} --train_steps 1"
        run(STAGE2, f"{stage2} --code_bits sample --log_dir {tmp_path / name / '2'}")
        run(STAGE2, f"{stage2} --log_dir {tmp_path / name / '3'}")
        assert [len(list((tmp_path / name / log).glob("slices-*"))) for log in "23"] == [made, 0]
