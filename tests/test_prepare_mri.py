"""Preparation of volumes: slices of a BraTS release, split by patient, rerunning, and answers to bad input."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import module

from uad.data.preparing.mri import Choice, Task, prepare
from uad.data.preparing.splitting import split_patients, stated_split
from uad.data.reading.formats import read_mask, read_slice, slice_stem
from uad.data.reading.layouts import Scan, find_scans
from uad.data.reading.naming import BRATS_CHANNELS as CHANNELS
from uad.data.reading.opening import Folders, check_folders, open_slices
from uad.data.reading.patients import patient_of, patient_of_scan
from uad.data.reading.planes import Framing, plane_of
from uad.data.reading.settings import Reading
from uad.errors import InputError

SCRIPTS = Path(__file__).parents[1] / "scripts"
SHAPE = (20, 24, 10)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])
CHOICE = Choice(CHANNELS, skip_low=2, skip_high=1, min_brain=0.1)
VOLUMES = (*CHANNELS, "seg")
NAMES_2020 = {name: f"_{name}.nii.gz" for name in VOLUMES}
NAMES_2023 = {
    name: f"-{later}.nii.gz" for name, later in zip(VOLUMES, ("t1n", "t1c", "t2w", "t2f", "seg"), strict=True)
}


def volumes_of(number: int) -> dict[str, np.ndarray]:
    """Brain in the middle with values that tell patient and channel; tumour in slices 4 and 5."""
    volumes = {}
    for channel, name in enumerate(CHANNELS):
        volumes[name] = np.zeros(SHAPE, np.int16)
        volumes[name][4:16, 4:20, 1:] = 100 * number + 10 * channel + np.arange(12)[:, None, None]
    volumes["seg"] = np.zeros(SHAPE, np.int16)
    volumes["seg"][6:10, 8:12, 4:6] = [2, 4]
    return volumes


def write_patient(root: Path, name: str, number: int, endings=NAMES_2020, **changed) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for volume, values in (volumes_of(number) | changed).items():
        nib.save(nib.Nifti1Image(values, AFFINE), folder / f"{name}{endings[volume]}")
    return folder


@pytest.fixture
def release(tmp_path) -> Path:
    root = tmp_path / "raw" / "MICCAI_BraTS2020_TrainingData"
    for number in range(1, 6):
        write_patient(root, f"BraTS20_Training_{number:03d}", number)
    return root


def started(
    data_dir: Path, out: Path, choice: Choice = CHOICE, workers: int = 1, val_patients: float = 2, seed: int = 0
):
    found = find_scans(data_dir, labelled=choice.health == "seg")
    patients = [patient_of_scan(scan.name) for scan in found.scans]
    validation = split_patients(patients, val_patients, seed)
    tasks = [Task(scan, patient, patient in validation) for scan, patient in zip(found.scans, patients, strict=True)]
    return prepare(tasks, out, replace(choice, channels=found.channels), {"seed": seed}, workers)


def run(*args, **more) -> list:
    return list(started(*args, **more))


def stems(folder: Path) -> set[str]:
    return {slice_stem(path) for path in folder.iterdir()}


def table(out: Path) -> list[dict]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_slices_are_split_by_patient_and_by_tumour(release, tmp_path):
    out = tmp_path / "out"
    run(release.parent, out)
    training, validation = (
        {patient_of(stem) for stem in stems(out / name)} for name in ("train_healthy", "val_healthy")
    )
    assert len(training) == 3 and len(validation) == 2
    assert not training & validation
    assert {patient_of(stem) for stem in stems(out / "val_diseased")} == validation
    assert stems(out / "val_diseased") == stems(out / "val_diseased_labels")
    assert {stem[-3:] for stem in stems(out / "val_diseased")} == {"004", "005"}
    assert {stem[-3:] for stem in stems(out / "train_healthy")} == {"002", "003", "006", "007", "008"}
    rows = table(out)
    assert len(rows) == 5 * 7
    for split in ("train_healthy", "val_healthy", "val_diseased"):
        assert {row["name"] for row in rows if row["split"] == split} == stems(out / split)
    unused = [row for row in rows if row["split"] == "unused_diseased"]
    assert len(unused) == 3 * 2 and {row["patient"] for row in unused} == training
    assert {row["tumour_pixels"] for row in unused} == {"16"}


@pytest.mark.parametrize(("size", "factor"), [(256, 1), (128, 2)])
def test_values_and_affine_follow_the_voxels(release, tmp_path, size, factor):
    """A voxel's value and place in millimetres are found again at the prepared size."""
    out = tmp_path / "out"
    run(release, out, replace(CHOICE, framing=Framing(1.0, size)))
    name = sorted(stems(out / "val_diseased"))[0]
    number, level = int(patient_of(name)[-3:]), int(name[-3:])
    prepared = read_slice(out / "val_diseased" / f"{name}.nii.gz", 4)
    assert prepared.image.shape == (4, size, size) and prepared.image.dtype == np.float32
    mask = read_mask(out / "val_diseased_labels" / f"{name}.nii.gz")
    truth = volumes_of(number)
    raw_place = AFFINE @ [*np.argwhere(truth["seg"][..., level]).mean(0), level, 1]
    assert np.allclose(prepared.affine @ [*np.argwhere(mask).mean(0), 0, 1], raw_place)
    assert mask.sum() * factor**2 == (truth["seg"][..., level] > 0).sum()
    for channel, modality in enumerate(CHANNELS):
        total = truth[modality][..., level].sum(dtype=float)
        assert prepared.image[channel].sum(dtype=float) * factor**2 == pytest.approx(total)


def test_padding_is_eight_pixels_for_the_release():
    image = np.ones((4, 240, 240, 1), np.float32)
    plane = plane_of(image[0] > 0, (1.0, 1.0), Framing())
    padded = plane.squares(image[..., 0])
    assert padded[:, 8:248, 8:248].all() and padded.sum() == image.sum()
    assert np.array_equal(plane.affine(np.eye(4), 80)[:3, 3], [-8, -8, 80])


def test_a_block_is_tumour_where_half_of_it_is():
    label = np.zeros((256, 256))
    label[0, 0:2] = 1
    label[10, 10] = 1
    reduced = plane_of(label[..., None] > 0, (1.0, 1.0), Framing(1.0, 128)).mask(label)
    assert reduced[0, 0] == 1 and reduced.sum() == 1


def test_slices_that_fit_nowhere_are_counted(tmp_path):
    speck = np.zeros(SHAPE, np.int16)
    speck[7, 9, 4] = 1
    for number in (1, 2):
        write_patient(tmp_path / "raw", f"BraTS2021_0000{number}", number, seg=speck)
    out = tmp_path / "out"
    run(tmp_path / "raw", out, replace(CHOICE, framing=Framing(1.0, 128), skip_low=0), val_patients=0.5)
    rows = table(out)
    assert [row["split"] for row in rows if row["slice"] == "0"] == ["unused_little_brain"] * 2
    assert {row["split"] for row in rows if row["slice"] == "4"} == {
        "unused_diseased",
        "unused_tumour_vanishes",
    }


def test_rerunning_changes_nothing_and_finishes_what_is_missing(release, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(release, whole, workers=2)
    before = contents(whole)
    stamps = {path: path.stat().st_mtime_ns for path in (whole / "train_healthy").iterdir()}
    run(release, whole)
    assert stamps == {path: path.stat().st_mtime_ns for path in (whole / "train_healthy").iterdir()}
    # Interrupted after three of five patients, then a slice of a complete patient is lost.
    steps = started(release, broken)
    for _ in range(3):
        next(steps)
    steps.close()
    assert not (broken / "manifest.csv").exists()
    next((broken / "train_healthy").iterdir()).unlink()
    run(release, broken)
    assert contents(broken) == before


def test_a_replaced_patient_is_prepared_anew(release, tmp_path):
    out = tmp_path / "out"
    run(release, out)
    name = sorted(patient_of(stem) for stem in stems(out / "val_diseased"))[0]
    healthy = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
    nib.save(healthy, release / name / f"{name}_seg.nii.gz")
    run(release, out)
    for folder in ("val_diseased", "val_diseased_labels"):
        assert name not in {patient_of(stem) for stem in stems(out / folder)}
    assert {f"{name}_004", f"{name}_005"} <= stems(out / "val_healthy")
    assert {row["split"] for row in table(out) if row["patient"] == name} == {"val_healthy"}


def test_patients_that_are_corrected_reach_the_tables_of_finished_scans(release, tmp_path):
    found, out = find_scans(release, None), tmp_path / "out"
    for patient in ("a", "b"):
        tasks = [Task(scan, patient, False) for scan in found.scans]
        list(prepare(tasks, out, CHOICE, {"seed": 0}))
        assert {row["patient"] for row in table(out)} == {patient}


def test_a_replaced_file_is_noticed_beside_one_of_its_name(tmp_path):
    """As in nnU-Net and the Decathlon, where image and label are called alike."""
    out, seg = tmp_path / "out", volumes_of(1)["seg"]
    for number in (1, 2, 3):
        for folder, values in (("imagesTr", volumes_of(number)["t1"]), ("labelsTr", seg)):
            (tmp_path / "raw" / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "raw" / folder / f"B_{number:03d}.nii.gz")
    content = {
        "modality": {"0": "T1"},
        "training": [{what: f"./{what}sTr/B_{n:03d}.nii.gz" for what in ("image", "label")} for n in (1, 2, 3)],
    }
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(content))
    found = find_scans(tmp_path / "raw", None)
    tasks = [Task(scan, scan.name, True) for scan in found.scans]
    choice = replace(CHOICE, channels=found.channels)

    def slices() -> dict[str, bytes]:
        list(prepare(tasks, out, choice, {"seed": 0}, 1))
        return {path.name: path.read_bytes() for path in (out / "val_healthy").glob("*.nii.gz")}

    before = slices()
    nib.save(nib.Nifti1Image(volumes_of(7)["t1"], AFFINE), tmp_path / "raw" / "imagesTr" / "B_001.nii.gz")
    changed = [name for name, content in slices().items() if content != before[name]]
    assert changed and {name[:5] for name in changed} == {"B_001"}


def test_files_of_the_same_name_and_size_are_noticed(release, tmp_path):
    out = tmp_path / "out"
    for name in [path.name for path in release.iterdir()]:
        moved = volumes_of(1)
        moved["seg"] = np.roll(moved["seg"], 1, axis=2)
        for volume, values in moved.items():
            (release / name / f"{name}_{volume}.nii.gz").unlink()
            nib.save(nib.Nifti1Image(values, AFFINE), release / name / f"{name}_{volume}.nii")
    run(release, out)
    name = sorted(patient_of(stem) for stem in stems(out / "val_diseased"))[0]
    path = release / name / f"{name}_seg.nii"
    before = path.stat().st_size
    nib.save(nib.Nifti1Image(volumes_of(1)["seg"], AFFINE), path)
    assert path.stat().st_size == before
    run(release, out)
    assert {stem for stem in stems(out / "val_diseased") if stem.startswith(name)} == {f"{name}_004", f"{name}_005"}


def test_another_configuration_in_the_same_folder_is_refused(release, tmp_path):
    out = tmp_path / "out"
    run(release, out)
    with pytest.raises(InputError) as caught:
        run(release, out, replace(CHOICE, framing=Framing(1.0, 128)), seed=1)
    assert {problem.where for problem in caught.value.problems} == {"--seed", "--img_size"}
    write_patient(release, "BraTS20_Training_009", 9)
    with pytest.raises(InputError, match="6 scans"):
        run(release, out)


def test_a_folder_with_other_slices_is_refused(release, tmp_path):
    (tmp_path / "out" / "train_healthy").mkdir(parents=True)
    (tmp_path / "out" / "train_healthy" / "other_001.png").touch()
    with pytest.raises(InputError, match="train_healthy with files"):
        run(release, tmp_path / "out")


def test_bad_headers_are_listed_before_anything_is_written(release, tmp_path):
    write_patient(release, "BraTS20_Training_010", 1, t2=np.ones((20, 24, 9), np.int16))
    (release / "BraTS20_Training_003" / "BraTS20_Training_003_t1.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError) as caught:
        run(release, tmp_path / "out")
    assert {Path(p.where).name for p in caught.value.problems} == {
        "BraTS20_Training_010_t2.nii.gz", "BraTS20_Training_003_t1.nii.gz",
    }  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="skip_low"):
        run(release.parent, tmp_path / "out", replace(CHOICE, skip_low=80, skip_high=26))


def test_damaged_contents_of_all_patients_are_reported_by_file(release, tmp_path):
    nan = volumes_of(1)["t1"].astype(np.float32)
    nan[5, 5, 5] = np.nan
    many = volumes_of(1)["seg"]
    many[0, 0, 0] = 77
    write_patient(release, "BraTS20_Training_011", 1, t1=nan)
    write_patient(release, "BraTS20_Training_012", 1, seg=many, flair=np.zeros(SHAPE, np.int16))
    cut = release / "BraTS20_Training_004" / "BraTS20_Training_004_flair.nii.gz"
    noise = np.random.default_rng(0).integers(0, 30000, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, AFFINE), cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(InputError) as caught:
        run(release, tmp_path / "out")
    found = {Path(p.where).name: p.found for p in caught.value.problems}
    assert set(found) == {
        cut.name, "BraTS20_Training_011_t1.nii.gz", "BraTS20_Training_012_seg.nii.gz",
        "BraTS20_Training_012_flair.nii.gz",
    }  # fmt: skip
    assert found["BraTS20_Training_012_seg.nii.gz"] == "4 different values from 0 to 77"
    assert not (tmp_path / "out" / "manifest.csv").exists()
    # Once the files are mended, the same command finishes.
    for number in (4, 11, 12):
        shutil.rmtree(release / f"BraTS20_Training_{number:03d}")
        write_patient(release, f"BraTS20_Training_{number:03d}", number)
    run(release, tmp_path / "out")
    assert len(table(tmp_path / "out")) == 7 * 7


def test_a_share_leaves_patients_on_both_sides_and_a_number_is_kept():
    names = [f"P{number}" for number in range(5)]
    assert len(split_patients(names, 0.01, 0)) == 1
    assert split_patients(names, 0, 0) == set() and split_patients(names, 5, 0) == set(names)
    for few, count in ((names[:1], 0.2), (names, 7)):
        with pytest.raises(InputError, match="val_patients"):
            split_patients(few, count, 0)


def test_a_stated_split_must_name_every_patient():
    assert stated_split(["P1", "P2"], {"P1": "train", "P2": "val", "P3": "val"}) == {"P2"}
    with pytest.raises(InputError, match=r"(?s)P2.*P4"):
        stated_split(["P1", "P2", "P4"], {"P1": "train"})


def test_commands_end_with_2_and_name_every_wrong_flag(tmp_path):
    def stderr_of(script, *flags):
        done = subprocess.run([sys.executable, SCRIPTS / script, *flags], capture_output=True, text=True)
        assert done.returncode == 2
        return done.stderr

    folders = ("--data_dir", tmp_path, "--out", tmp_path / "out")
    said = stderr_of("prepare_mri.py", *folders, "--img_size", "100", "--every", "0")
    assert "--img_size" in said and "--every" in said
    assert "no volume" in stderr_of("prepare_mri.py", *folders)
    said = stderr_of("make_phantoms.py", "--dataset", "brats", "--out", tmp_path, "--patients", "0")
    assert "--patients" in said


def test_values_that_all_count_as_lesion_are_said(tmp_path, capsys):
    """As in the WMH challenge: 1 is a lesion, 2 other pathology, which no file tells."""
    script = module("scripts/prepare_mri.py")
    for number, values in ((1, (1, 2)), (2, (1, 1)), (3, (0, 0))):
        seg = np.zeros(SHAPE, np.uint8)
        seg[6:8, 8:10, 4], seg[9:11, 8:10, 5] = values
        write_patient(tmp_path / "raw", f"p{number}", number, seg=seg)

    def said(out: str) -> str:
        words = ["--data_dir", str(tmp_path / "raw"), "--out", str(tmp_path / out), "--val_patients", "1"]
        script.main(script.get_args_parser().parse_args(words))
        return capsys.readouterr().out

    expected = "The segmentations hold the values 1 in 2 patients, 2 in 1 patients: all count as lesion"
    assert expected in said("out") and expected in said("out"), "also of scans that were done before"
    table = (tmp_path / "out" / "volumes.csv").read_text()
    held = [row["lesion_values"] for row in csv.DictReader(table.splitlines()) if row["shows"] == "seg"]
    assert held == ["1 2", "1", ""]

    # An earlier version wrote rows that lack a column: their scans are prepared anew.
    for path in (tmp_path / "out" / "patients").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"volumes": [[*row[:-2], row[-1]] for row in record["volumes"]]}))
    assert expected in said("out") and (tmp_path / "out" / "volumes.csv").read_text() == table

    shutil.rmtree(tmp_path / "raw" / "p1")
    assert "segmentations hold" not in said("one")


def test_lists_of_scans_say_which_are_prepared_and_their_part(tmp_path, capsys):
    header = ",img_name,age,label,img_path,mask_path,seg_path\n"
    lists = {
        "IXI_train_fold0.csv": "64,IXI076-Guys-0753_t1.nii.gz,55.83,0,/Train/IXI/t1/IXI076-Guys-0753_t1.nii.gz,,\n",
        "IXI_val_fold0.csv": "1,IXI013-HH-1212_t1.nii.gz,46.71,0,/Train/IXI/t1/IXI013-HH-1212_t1.nii.gz,,\n",
        "Brats21_test.csv": "983,BraTS2021_00538,,1,/Test/Brats21/t1/BraTS2021_00538_t1.nii.gz,,\n",
        "again_val.csv": "64,IXI076-Guys-0753_t1.nii.gz,55.83,0,,,\n",
        "IXI.csv": "64,IXI076-Guys-0753_t1.nii.gz,55.83,0,,,\n",
    }
    for name, line in lists.items():
        (tmp_path / name).write_text(header + line)
    (tmp_path / "table.csv").write_text("patient,part\nIXI076,train\n")
    scans = {"IXI076-Guys-0753": "IXI076", "IXI013-HH-1212": "IXI013", "IXI999-HH-1": "IXI999"}

    def parts(*names: str, of=scans):
        return module("scripts/prepare_mri.py").parts_of([str(tmp_path / name) for name in names], of)

    kept, told = parts("IXI_train_fold0.csv", "IXI_val_fold0.csv")
    assert told == {"IXI076": "train", "IXI013": "val"} and kept == {name: scans[name] for name in list(scans)[:2]}
    text = capsys.readouterr().out
    assert "1 scans are in none of the lists" in text and "are not there" not in text
    parts("IXI_train_fold0.csv", "IXI_val_fold0.csv", of={"IXI013-HH-1212": "IXI013"})
    assert "1 of 2 scans in the lists of --split are not there, such as IXI076-Guys-0753" in capsys.readouterr().out
    of_brats = {"BraTS2021_00538": "BraTS2021_00538"}
    assert parts("Brats21_test.csv", of=of_brats) == (of_brats, {"BraTS2021_00538": "val"}), "judged, not trained on"
    assert parts("table.csv") == (scans, {"IXI076": "train"})
    assert parts() == (scans, {})
    for names, said in (
        (("IXI_train_fold0.csv", "again_val.csv"), "IXI076-Guys-0753\n    found:    listed for training and for"),
        (("IXI.csv",), "a name that ends in its part"),
        (("IXI_val_fold0.csv", "table.csv"), "no column img_name"),
        (("table.csv", "table.csv"), "one table of patients"),
        (("Brats21_test.csv",), "pass other lists"),
    ):
        with pytest.raises(InputError, match=said):
            parts(*names)
    with pytest.raises(InputError, match="scans of the patient A for training and for validation"):
        parts("IXI_train_fold0.csv", "IXI_val_fold0.csv", of=dict.fromkeys(scans, "A"))


def test_patients_by_folders_are_kept_apart_here_and_in_what_reads_the_slices(tmp_path, capsys):
    """The names of the slices tell other patients than the folders; manifest.csv, beside them, tells the right ones."""
    for patient in "ABCDEF":
        for visit in (1, 2):
            folder = write_patient(tmp_path, f"{patient.lower()}{visit}", visit)  # a1, a2: two patients by their names
            (tmp_path / "raw" / f"P_{patient}").mkdir(parents=True, exist_ok=True)
            folder.rename(tmp_path / "raw" / f"P_{patient}" / f"Timepoint_{visit}")
    script, out = module("scripts/prepare_mri.py"), tmp_path / "out"
    words = ["--data_dir", str(tmp_path / "raw"), "--out", str(out), "--img_size", "128", "--val_patients", "2"]
    script.main(script.get_args_parser().parse_args(words))
    said = capsys.readouterr().out
    assert "12 scans of 6 patients" in said and "leave it beside their folders" in said and "hold scans" not in said
    reading = Reading("brats", 4, 128, "joint")
    train, val = (open_slices(out / part, reading) for part in ("train_healthy", "val_healthy"))
    assert set(train.patients) | set(val.patients) == {f"P_{patient}" for patient in "ABCDEF"}
    assert not set(train.patients) & set(val.patients) and len(set(val.patients)) == 2
    how = {"batch_size": None, "healthy": True, "workers": 0}
    said = check_folders(Folders(str(out / "train_healthy"), val_dir=str(out / "val_healthy")), reading, **how)
    assert "of 4 patients" in said[0] and "of 2 patients" in said[1]
    (out / "val_healthy" / "a9_001.nii.gz").write_bytes(Path(train.paths[0]).read_bytes())
    with (out / "manifest.csv").open("a") as file:
        file.write(f"a9_001,{train.patients[0]},1,val_healthy,0,1,here\n")
    with pytest.raises(InputError, match=train.patients[0]):
        check_folders(Folders(str(out / "train_healthy"), val_dir=str(out / "val_healthy")), reading, **how)


def test_folders_that_may_be_patients_are_pointed_out(tmp_path):
    script = module("scripts/prepare_mri.py")

    def notice(places: list[str], validation: str) -> str | None:
        scans = [Scan(place.replace("/", ""), tmp_path / place, {}) for place in places]
        return script.shared_folders([Task(scan, scan.name, scan.name in validation.split()) for scan in scans])

    assert notice(["A/x", "A/y", "B/x", "B/y"], "Ax Bx").startswith("2 folders such as A hold scans")
    assert notice(["all/A/x", "all/A/y", "all/B/x"], "allAx").startswith("1 folders such as A hold scans")
    assert notice(["A/x", "A/y", "B/x", "B/y"], "Ax Ay") is None
    assert notice(["A/x", "A/y", "z"], "Ax") is not None and notice(["x", "y", "z"], "x") is None
    assert notice([f"HGG/{n}" for n in range(40)] + ["LGG/1", "LGG/2"], "HGG1 LGG1") is None
