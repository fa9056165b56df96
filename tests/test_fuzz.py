"""Input as an enemy: whatever a file holds, readers give a value or an InputError; see tests/stress/fuzz.py."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, module
from result_folders import save

from uad.checkpoints import load_checkpoint
from uad.data.reading.checks import check_folder
from uad.data.reading.formats import read_mask, read_slice, slice_stem
from uad.data.reading.layouts import Scan, Source
from uad.data.reading.scans import load_scan
from uad.errors import InputError
from uad.files import read_json
from uad.results import ResultWriter

FUZZ = module("tests/stress/fuzz.py")
CORPUS = ROOT / "tests" / "corpus"
FILES = sorted(path for path in CORPUS.iterdir() if path.suffix not in (".py", ".pyc", "") and path.name[0] != ".")
READERS = {".pt": load_checkpoint, ".json": read_json}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_corpus_is_refused(path, tmp_path, monkeypatch):
    """Soon, within 200 MiB, and no pickle of it runs (it would create a file in the working directory)."""
    monkeypatch.chdir(tmp_path)
    reader = READERS.get(path.suffix, lambda p: read_slice(p, 1))
    assert FUZZ.verdict(lambda: reader(path), allowance_mib=200) == "refused"
    if path.suffix not in READERS:
        assert FUZZ.verdict(lambda: read_mask(path), allowance_mib=200) == "refused"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [path for path in FILES if ".nii" in path.name], ids=lambda path: path.name)
def test_no_file_of_the_corpus_is_a_volume(path):
    """The same files where volumes are expected."""
    scan = Scan("scan", path.parent, {"flair": Source((path,))})
    assert FUZZ.verdict(lambda: load_scan(scan), allowance_mib=400) == "refused"


def test_a_folder_of_nothing_else_is_one_list_of_problems(tmp_path):
    slices = [path for path in FILES if path.suffix not in READERS]
    for number, path in enumerate(slices):
        (tmp_path / f"{number}{path.name.removeprefix(slice_stem(path))}").symlink_to(path)
    with pytest.raises(InputError) as caught:
        check_folder(tmp_path, 1, 16, "joint")
    assert len(caught.value.problems) == len(slices)


def test_mutated_files_are_read_or_refused():
    counts, failures = FUZZ.fuzz(inputs=600, seed=1)
    assert failures == []
    assert sum(counts.values()) == 600
    assert sum(counts[key] for key in counts if key[1] == "refused") > 300, "mutations that change nothing test nothing"


def fill_new_memory() -> None:
    """256 MiB of pages: np.ones could get what this process freed and kept in an earlier test."""
    np.frombuffer(mmap.mmap(-1, 2**28), np.uint8)[:] = 1


def test_the_fuzzer_sees_what_it_looks_for():
    assert FUZZ.verdict(lambda: [][0]).startswith("IndexError")
    assert FUZZ.verdict(fill_new_memory, allowance_mib=100).endswith("MiB")
    assert FUZZ.verdict(lambda: read_slice(Path("absent.npy"), 1)) == "refused"


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", ".hidden", ""])
def test_no_name_leads_out_of_the_output_folder(tmp_path, name):
    run = {"method": "m", "dataset": "custom", "n_channels": 1, "img_size": 4, "normalise": "joint", "seed": 0}
    writer = ResultWriter(tmp_path / "results", run)
    image = np.ones((1, 4, 4), np.float32)
    with pytest.raises(ValueError, match="plain file name"):
        save(writer, name, "p", np.eye(4), image, image, image[0])
    with pytest.raises(ValueError, match="plain file name"):
        save(writer, "fine", "p", np.eye(4), image, image, image[0], extras={name: image})
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "run.json"]
