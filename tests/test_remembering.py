"""Checks and hashes are remembered as long as nothing has changed that they depend on, and no longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from released_trees import bmad_images, masks
from test_checks import brains, image, labels  # noqa: F401

from uad.data.reading import checks, remembering, spreading
from uad.data.reading.checks import check_folder, data_hash
from uad.data.reading.formats import write_slice
from uad.data.reading.listing import list_folder
from uad.data.reading.released import Released
from uad.data.reading.remembering import MEMORY_FOLDER, Memory
from uad.errors import InputError


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the images that checks and hashes read; few files are remembered, too, and as soon as they are there."""
    names, check, hashed = [], checks._check_file, checks.file_hash

    def counted(path, *known, expected):
        names.append(path.name)
        return check(path, *known, expected=expected)

    def counted_hash(path):
        names.append(path.name)
        return hashed(path)

    monkeypatch.setattr(checks, "_check_file", counted)
    monkeypatch.setattr(checks, "file_hash", counted_hash)
    monkeypatch.setattr(remembering, "FEW", 1)
    monkeypatch.setattr(remembering, "JUST_NOW", -1.0)
    return names


def check(folder: Path, **changes):
    return check_folder(folder, **{"n_channels": 2, "img_size": 16, "normalise": "joint", **changes})


def read_anew(read: list[str], look) -> list[str]:
    """The names that a second look reads."""
    read.clear()
    look()
    return sorted(read)


def test_a_second_check_reads_nothing_and_finds_the_same(brains, read):  # noqa: F811
    first = check(brains)
    assert sorted(read) == [f"P{p}_00{i}.nii.gz" for p, i in ((0, 0), (0, 1), (1, 0), (1, 1))]
    read.clear()
    assert check(brains) == first and check(f"{brains}/") == first and not read


@pytest.mark.parametrize("looking", [check, data_hash])
def test_a_changed_file_is_noticed_though_size_and_time_are_restored(brains, read, looking):  # noqa: F811
    before = looking(brains)
    path = brains / "P1_000.nii.gz"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-5] ^= 1  # of the checksum
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size and path.stat().st_mtime_ns == times.st_mtime_ns
    read.clear()
    if looking is data_hash:
        assert looking(brains) != before
    else:
        with pytest.raises(InputError, match=r"P1_000\.nii\.gz"):
            looking(brains)
    assert read == ["P1_000.nii.gz"]


def test_a_replaced_mask_and_one_that_is_gone_are_noticed(brains, read):  # noqa: F811
    check(brains, healthy=False)
    mask = labels(brains) / "P1_001.nii.gz"
    write_slice(mask, np.ones((16, 16), np.uint8), np.eye(4))
    assert read_anew(read, lambda: check(brains)) == ["P1_001.nii.gz"]
    for path in labels(brains).iterdir():
        path.unlink()
    labels(brains).rmdir()
    assert len(read_anew(read, lambda: check(brains))) == 4


@pytest.mark.parametrize("change", [{"img_size": 8}, {"normalise": "percentile"}])
def test_another_setting_is_another_check_and_both_are_remembered(brains, read, change):  # noqa: F811
    check(brains)
    assert len(read_anew(read, lambda: check(brains, **change))) == 4
    assert not read_anew(read, lambda: check(brains)) and not read_anew(read, lambda: check(brains, **change))


def test_another_version_of_the_reader_checks_anew(brains, read, monkeypatch):  # noqa: F811
    check(brains)
    monkeypatch.setattr(remembering, "_code", lambda: "another")
    assert len(read_anew(read, lambda: check(brains))) == 4


def test_a_file_that_was_changed_just_now_is_not_trusted(brains, read, monkeypatch):  # noqa: F811
    """It may change again within the tick of the file system's clock."""
    monkeypatch.setattr(remembering, "JUST_NOW", 60.0)
    check(brains)
    assert len(read_anew(read, lambda: check(brains))) == 4


def test_problems_are_found_again(brains, read):  # noqa: F811
    write_slice(brains / "P0_000.nii.gz", np.full((2, 16, 16), np.nan), np.eye(4))
    for _ in range(2):
        read.clear()
        with pytest.raises(InputError, match="NaN"):
            check(brains)
    assert read == ["P0_000.nii.gz"]


def test_where_nothing_can_be_written_nothing_is_remembered(brains, read):  # noqa: F811
    (brains.parent / MEMORY_FOLDER).write_text("in the way, as a read-only disk is")
    first, digest = check(brains), data_hash(brains)
    read.clear()
    assert check(brains) == first and data_hash(brains) == digest
    assert len(read) == 4 + 8, "images checked, images and masks hashed"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe{", b'"x"\n[1]\n', b"[]\n"])
def test_a_damaged_memory_is_forgotten(brains, read, damage):  # noqa: F811
    first = check(brains)
    (memory,) = (brains.parent / MEMORY_FOLDER).iterdir()
    whole = memory.read_bytes()
    for content in (damage, whole[: len(whole) // 2], whole[: whole.index(b"\n") + 1] + damage):
        memory.write_bytes(content)
        assert check(brains) == first
    assert not read_anew(read, lambda: check(brains))


def test_an_interrupted_check_goes_on_where_it_was(brains, read, monkeypatch):  # noqa: F811
    monkeypatch.setattr(spreading, "BLOCK", 1)
    counted = checks._check_file

    def stopped(path, *known, expected):
        if path.name.startswith("P1"):
            raise KeyboardInterrupt
        return counted(path, *known, expected=expected)

    monkeypatch.setattr(checks, "_check_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        check(brains, workers=1)
    monkeypatch.setattr(checks, "_check_file", counted)
    assert read_anew(read, lambda: check(brains)) == ["P1_000.nii.gz", "P1_001.nii.gz"]


def test_hashes_are_those_of_all_that_is_there_now(brains, read, tmp_path):  # noqa: F811
    first = data_hash(brains)
    assert not read_anew(read, lambda: data_hash(f"{brains}/"))
    (brains / "P0_000.nii.gz").rename(brains / "P9_000.nii.gz")
    (labels(brains) / "P0_000.nii.gz").rename(labels(brains) / "P9_000.nii.gz")
    other = data_hash(brains)
    for path in (tmp_path / MEMORY_FOLDER).iterdir():
        path.unlink()
    assert data_hash(brains) == other != first, "as without a memory"


def test_of_few_files_nothing_is_kept_and_the_memory_is_no_subfolder(tmp_path):
    for index in range(3):
        np.save(tmp_path / f"a_{index}.npy", image(index)[0])
    check(tmp_path, n_channels=1)
    assert not (tmp_path.parent / MEMORY_FOLDER).exists()
    (tmp_path / MEMORY_FOLDER).mkdir()
    assert not list_folder(tmp_path).subfolders


def test_values_are_kept_in_one_memory_only(tmp_path, read):
    path = tmp_path / "data" / "a"
    path.parent.mkdir()
    path.write_text("x")
    for settings, value in (("a", [1, None]), ("b", 2.5)):
        memory = Memory(path.parent, "things", settings)
        assert memory.recall({"a": [path]}) == {}
        memory.remember({"a": value, "of a missing file": 1})
    assert Memory(path.parent, "things", "a").recall({"a": [path]}) == {"a": [1, None]}
    assert Memory(path.parent, "others", "a").recall({"a": [path]}) == {}


def test_processes_find_what_threads_find(brains, monkeypatch):  # noqa: F811
    """Summaries and problems, in the same order."""
    found = []
    for many in (10**9, 1):
        monkeypatch.setattr(spreading, "MANY", many)
        monkeypatch.setattr(spreading, "BLOCK", 3)
        with pytest.raises(InputError) as raised:
            check(brains, img_size=64, healthy=True)
        found.append((check(brains), raised.value.problems))
    assert found[0] == found[1] and len(found[0][1]) >= 4


def test_processes_that_check_end_with_the_one_that_started_them(tmp_path):
    """Also where that is killed, as nothing is then said to them."""
    script = tmp_path / "waiting.py"
    script.write_text(
        "import os, time\n"
        "from uad.data.reading import spreading\n"
        "def wait(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    spreading.MANY = 1\n"
        "    list(spreading.spread(wait, [(1,)], 1, 'waiting', True))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_parts_of_a_release_are_remembered_apart(read, tmp_path):
    root = bmad_images(tmp_path / "set")
    for part, names in (("test", 3), ("val", 3), ("test", 0)):
        found = read_anew(read, lambda part=part: check_folder(Released(str(root), part), 1, 32, "joint"))
        assert len(found) == names


def test_masks_that_appear_change_what_is_known_of_healthy_images(read, tmp_path):
    place = Released(str(bmad_images(tmp_path / "set")), "test")
    assert check_folder(place, 1, 32, "joint").labelled == 0
    masks(tmp_path / "set" / "test" / "Ungood" / "label", "1000.png")
    assert check_folder(place, 1, 32, "joint").labelled == 3
