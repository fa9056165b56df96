"""The cache of codes: the encoder's, whoever builds it, and it survives kills; and the lesions that it shows."""

import os
import pickle
import shutil
import signal
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import forked
from random_slices import random_slices, views

from bernoulli_diffusion import codes as module
from bernoulli_diffusion.codes import CodeCache, CodeFiles, cached_codes
from bernoulli_diffusion.latents import Views
from uad.data.reading.folder import SliceFolder
from uad.data.training import shards
from uad.distributed import World
from uad.errors import InputError

# 3 x 5 x 5 bits do not fill whole bytes.
CODE_SHAPE = (3, 5, 5)
ALONE = World(0, 1, torch.device("cpu"))


def encode(images: torch.Tensor) -> torch.Tensor:
    """A stand-in for the autoencoder: thresholded means of patches."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images, 5)
    return torch.cat([pooled > 0.3, pooled[:, :1] > 0.6], dim=1).float()


@pytest.fixture
def slices(tmp_path) -> SliceFolder:
    return random_slices(tmp_path / "healthy")


def files(slices, folder: Path, views: Views, weights: str = "hash") -> CodeFiles:
    return CodeFiles(folder / "log", slices, weights, CODE_SHAPE, views)


def cache(slices, folder: Path, views: Views, encode=encode, world: World = ALONE, workers: int = 0) -> CodeCache:
    return cached_codes(files(slices, folder, views), slices, encode, world, workers)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "LEAST_ROWS", 2)


def test_cached_codes_are_those_of_the_encoder(slices, tmp_path):
    codes = cache(slices, tmp_path, views(True, 2))
    seen = set()
    for position in range(30):
        index = position % 7
        item = codes[index, position]
        view, _ = codes.views.chosen(position)
        image = slices[index]["image"]
        # The affine is the identity: axis H runs from left to right.
        expected = encode((image.flip(1) if view else image)[None])[0]
        assert torch.equal(item["code"], expected) and torch.equal(item["shown"], expected)
        assert (item["name"], item["index"], item["position"]) == (slices.names[index], index, position)
        seen.add(view)
    assert seen == {0, 1}


def test_lesions_change_what_is_shown_and_not_what_is_asked(slices, tmp_path):
    codes = cache(slices, tmp_path, views(False, 3, share=0.5))
    changed = [not torch.equal(*(codes[p % 7, p][key] for key in ("code", "shown"))) for p in range(200)]
    assert 0.05 < np.mean(changed) <= 0.6  # half of them show lesions, few of which cross a threshold
    assert all(torch.equal(codes[p % 7, p]["code"], encode(slices[p % 7]["image"][None])[0]) for p in range(20))


def test_cache_does_not_depend_on_batches_and_workers_and_follows_its_sources(slices, tmp_path, monkeypatch):
    several = views(True, 4, share=0.5, augment=0.5)
    cache(slices, tmp_path / "a", several)
    monkeypatch.setattr(module, "TOGETHER", 100)
    cache(slices, tmp_path / "b", several, workers=2)
    assert len(contents(tmp_path / "a")) == 4
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    others = (
        several,
        views(False, 4, 0.5, 0.5),
        views(True, 4, 0.5, 0.6),
        views(True, 5, 0.5, 0.5),
        views(True, 4, 0, 0.5),
    )
    assert len({files(slices, tmp_path, v, weights).folder for weights in "xy" for v in others}) == 10


def test_cache_follows_the_lesions_where_there_are_any(slices, tmp_path):
    for share, names in ((0.5, 2), (0, 1)):
        kinds = (views(True, 4, share, lesions=lesions) for lesions in ("intensity", "structure"))
        assert len({files(slices, tmp_path, kind).folder for kind in kinds}) == names


def together(action, size: int = 2) -> list[int]:
    """Exit codes of processes that run action(rank)."""
    processes = [forked(action, rank) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


class Joined:
    """One of two processes that build a cache of their own; `encode` may be another one in the second."""

    def __init__(self, slices: SliceFolder, folder: Path, views: Views, second=encode):
        self.slices, self.folder, self.views, self.second = slices, folder, views, second

    def __call__(self, rank: int) -> None:
        self.folder.mkdir(exist_ok=True)
        rendezvous = f"file://{self.folder}.rendezvous"
        dist.init_process_group("gloo", rendezvous, timeout=timedelta(seconds=30), rank=rank, world_size=2)
        world = World(rank, 2, torch.device("cpu"))
        assert len(cache(self.slices, self.folder, self.views, (encode, self.second)[rank], world)) == len(self.slices)
        dist.destroy_process_group()


def test_two_processes_write_a_shard_each_and_the_same_bytes_as_one(slices, tmp_path, monkeypatch):
    several = views(True, 2, share=0.5)
    cache(slices, tmp_path / "one", several)
    written = shards.ShardFolder.writing

    def noted(self, number: int):
        with (tmp_path / f"of{dist.get_rank()}").open("a") as file:
            file.write(f"{number} ")
        return written(self, number)

    monkeypatch.setattr(shards.ShardFolder, "writing", noted)
    assert together(Joined(slices, tmp_path / "two", several)) == [0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [(tmp_path / f"of{rank}").read_text() for rank in range(2)] == ["0 2 ", "1 3 "]


def test_a_killed_build_goes_on_with_any_number_of_processes_and_leaves_nothing(slices, tmp_path):
    plain = views(False, 1)
    cache(slices, tmp_path / "undisturbed", plain)
    seen = []

    def killed_amid_the_third_shard(images):
        seen.append(len(images))
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(images)

    folder = tmp_path / "killed"
    assert together(lambda rank: cache(slices, folder, plain, killed_amid_the_third_shard), 1) == [-signal.SIGKILL]
    left = contents(folder)
    assert sorted(Path(name).name for name in left if ".tmp-" not in name) == ["000.npy", "001.npy"]
    assert len(left) == 3, "the shard amid which it was killed"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("00[01].npy")}
    assert together(Joined(slices, folder, plain)) == [0, 0]
    assert contents(folder) == contents(tmp_path / "undisturbed")
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_an_error_of_one_process_ends_both_with_its_words(slices, tmp_path):
    def refused(images):
        raise InputError("the disk of the second process is full")

    joined = Joined(slices, tmp_path / "log", views(False, 1), second=refused)

    def raises(rank: int) -> None:
        with pytest.raises(InputError, match="the disk of the second process is full"):
            joined(rank)

    assert together(raises) == [0, 0]
    assert not any(".tmp-" in name for name in contents(tmp_path / "log"))


def test_caches_that_no_longer_serve_go_and_other_files_stay(slices, tmp_path):
    """Also the one whole file of earlier versions."""
    log = tmp_path / "log"
    cache(slices, tmp_path, views(False, 1))
    (log / "codes-0123456789abcdef.npy").write_bytes(b"of an earlier version")
    (log / "codes-mine.npy").write_bytes(b"somebody's own")
    cache(slices, tmp_path, views(True, 2))
    left = files(slices, tmp_path, views(True, 2)).folder.name
    assert sorted(path.name for path in log.iterdir()) == sorted([left, "codes-mine.npy"])


def test_a_full_disk_is_said_before_anything_is_encoded(slices, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(InputError, match=r"packed codes(.|\n)*--code_views"):
        cache(slices, tmp_path, views(False, 1), encode=None)


def test_files_that_are_open_do_not_grow_with_the_slices(slices, tmp_path, monkeypatch):
    """Several caches and workers must fit in the 1,024 files that systems allow."""
    monkeypatch.setattr(shards, "MOST_SHARDS", 3)
    opened = Path("/proc/self/fd")
    before = len(list(opened.iterdir()))
    codes = cache(slices, tmp_path, views(False, 1))
    assert len(codes) == 7 and len(list(opened.iterdir())) - before <= 3


def test_what_is_sent_to_a_worker_is_not_the_codes(slices, tmp_path):
    codes = cache(slices, tmp_path, views(False, 500))
    sent = pickle.dumps(codes.records)
    assert 2 * len(sent) < sum(len(content) for content in contents(tmp_path / "log").values())
    assert torch.equal(pickle.loads(pickle.dumps(codes))[3, 0]["code"], codes[3, 0]["code"])
