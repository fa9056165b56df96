"""Folders of a command checked together: patients by a table, and the parts of a split."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uad.data.reading.opening import Folders, check_folders
from uad.data.reading.settings import Reading
from uad.errors import InputError

READING = Reading("custom", 1, 16, "joint")
RAMP = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8)


@pytest.fixture
def root(tmp_path) -> Path:
    """Training, validation and test slices of the scans s1, s2 and s3; s1 and s3 are of one person, but not by name."""
    for path in ("train/s1_0.png", "train/s1_1.png", "val/s2_0.png", "test/s3_0.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(RAMP).save(tmp_path / path)
    (tmp_path / "patients.csv").write_text("name,patient\ns1,Ann\ns2,Bob\ns3,Ann\n")
    (tmp_path / "split.csv").write_text("patient,part\nAnn,train\nBob,val\n")
    return tmp_path


def check(root: Path, **more) -> str:
    folders = Folders(*(str(root / name) for name in ("train", "val", "test")), **more)
    return "\n".join(check_folders(folders, READING, None, True, 1))


def problems_of(root: Path, **more):
    with pytest.raises(InputError) as caught:
        check(root, **more)
    return caught.value.problems


def test_a_table_tells_shared_patients_that_the_names_do_not(root):
    assert "2 images of 1 patients" in check(root)
    (problem,) = problems_of(root, patients=root / "patients.csv")
    assert problem.where == str(root / "test")
    assert problem.found.startswith("patient Ann: 1 slice(s) here and 2 in")
    assert "--patients" in problem.remedy


def test_the_data_set_has_the_patients_of_the_table(root):
    folders = Folders(str(root / "train"), str(root / "val"), patients=str(root / "patients.csv"))
    assert folders.open(READING).patients == ["Ann", "Ann"]
    assert folders.open(READING)[0]["patient"] == "Ann"
    assert folders.open_validation(READING).patients == ["Bob"]


def test_a_table_of_files_instead_of_names_is_refused(root):
    (root / "patients.csv").write_text("train/s1_0.png,Ann\ns2.nii.gz,Bob\ns9.png,Eve\n")
    (problem,) = problems_of(root, patients=root / "patients.csv")
    assert problem.where == str(root / "patients.csv")
    assert "2 names of files, e.g. train/s1_0.png" in problem.found and problem.expected.endswith("e.g. s1_0")
    (root / "patients.csv").write_text("s9,Eve\n")
    check(root, patients=root / "patients.csv")


def test_every_patient_on_the_wrong_side_of_a_split_is_named(root):
    (root / "split.csv").write_text("patient,part\ns1,val\ns2,train\ns3,val\n")
    first, second = problems_of(root, split=root / "split.csv")
    assert (first.where, second.where) == (str(root / "train"), str(root / "val"))
    assert first.found == "patient s1, 2 slice(s): val of the split"
    assert second.found == "patient s2, 1 slice(s): train of the split"


def test_a_training_patient_must_be_in_the_split_and_others_need_not(root):
    (root / "split.csv").write_text("s1,train\n")
    check(root, split=root / "split.csv")
    (root / "split.csv").write_text("s2,val\n")
    (problem,) = problems_of(root, split=root / "split.csv")
    assert problem.found == "patient s1, 2 slice(s): in no part of the split"


def test_split_and_table_work_together(root):
    (root / "test" / "s3_0.png").rename(root / "test" / "s2_1.png")
    assert "2 images of 1 patients" in check(root, patients=root / "patients.csv", split=root / "split.csv")


def test_wrong_tables_and_wrong_folders_are_reported_together(root):
    (root / "val" / "s2_0.png").unlink()
    (root / "split.csv").write_text("Ann,training\n")
    found = problems_of(root, patients=root / "none.csv", split=root / "split.csv")
    places = [str(root / "none.csv"), f"{root / 'split.csv'}, Ann", str(root / "val")]
    assert [problem.where for problem in found] == places, "each once"
