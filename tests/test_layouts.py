"""Layouts of releases and of people: which files are one scan, and what each shows. No image is read."""

import json
import os
from pathlib import Path

import pytest

from uad.data.reading.layouts import find_scans
from uad.data.reading.naming import BRATS_CHANNELS, endings_of, named
from uad.errors import InputError

LATER = ("t1n", "t1c", "t2w", "t2f", "seg")
FORMER = ("t1", "t1ce", "t2", "flair", "seg")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def files_of(root: Path, *more, **how) -> dict[str, dict[str, str]]:
    """scan -> what it shows -> file and component."""
    found = find_scans(root, *more, **how)
    return {
        scan.name: {
            shows: source.paths[0].relative_to(root).as_posix() + (f"[{source.component}]" if source.component else "")
            for shows, source in scan.files.items()
        }
        for scan in found.scans
    }


@pytest.mark.parametrize(
    ("folder", "separator", "words", "ending"),
    [
        ("HGG/Brats17_TCIA_100_1", "_", FORMER, ".nii.gz"),
        ("LGG/Brats18_2013_0_1", "_", FORMER, ".nii.gz"),
        ("HGG/BraTS19_CBICA_AAB_1", "_", FORMER, ".nii"),
        ("archive/MICCAI_BraTS2020_TrainingData/BraTS20_Training_001", "_", FORMER, ".nii"),
        ("BraTS2021_00495", "_", FORMER, ".nii.gz"),
        ("BraTS-GLI-00013-001", "-", LATER, ".nii.gz"),
        ("BraTS-MET-00001-000", "-", LATER, ".nii.gz"),
    ],
)
def test_every_brats_release_is_read(tmp_path, folder, separator, words, ending):
    name = Path(folder).name
    touch(tmp_path, *(f"{folder}/{name}{separator}{word}{ending}" for word in words))
    found = find_scans(tmp_path)
    assert found.channels == BRATS_CHANNELS and found.foreign == 0
    assert list(found.scans[0].files) == [*BRATS_CHANNELS, "seg"] and found.scans[0].name == name
    shown = [source.paths[0].name for source in found.scans[0].files.values()]
    assert shown == [f"{name}{separator}{word}{ending}" for word in words]


def test_faults_of_the_releases_are_known(tmp_path):
    """A segmentation of another name, and folders named as the file that lies in them."""
    name = "BraTS20_Training_355"
    touch(tmp_path, *(f"{name}/{name}_{word}.nii.gz" for word in FORMER[:3]), f"{name}/W39_1998.09.19_Segm.nii.gz")
    touch(tmp_path, f"{name}/{name}_flair.nii/00000057_brain_x.nii")
    files = files_of(tmp_path)[name]
    assert files["seg"].endswith("Segm.nii.gz") and files["flair"].endswith("_flair.nii/00000057_brain_x.nii")


def test_validation_sets_have_no_segmentation(tmp_path):
    name = "BraTS-GLI-00001-000"
    touch(tmp_path, *(f"{name}/{name}-{word}.nii.gz" for word in LATER[:4]))
    with pytest.raises(InputError, match=r"(?s)no seg volume.*--no_labels"):
        find_scans(tmp_path)
    assert list(files_of(tmp_path, labelled=False)[name]) == list(BRATS_CHANNELS)


def test_flat_folders_hold_one_contrast_or_several(tmp_path):
    touch(tmp_path / "one", *(f"IXI00{i}-Guys-0828-T2.nii.gz" for i in (2, 3)), "MANIFEST.TXT", "._IXI002-T2.nii.gz")
    found = find_scans(tmp_path / "one", labelled=False)
    assert found.channels == ("t2",) and [scan.name for scan in found.scans] == ["IXI002-Guys-0828", "IXI003-Guys-0828"]
    assert found.foreign == 2
    # A folder for each contrast.
    touch(tmp_path / "two", "T1/IXI002-Guys-0828-T1.nii.gz", "T2/IXI002-Guys-0828-T2.nii.gz")
    assert list(files_of(tmp_path / "two", labelled=False)["IXI002-Guys-0828"]) == ["t1", "t2"]
    touch(tmp_path / "three", "p1_flair.nii.gz", "p1_mask.nii.gz", "p2_flair.nii.gz", "p2_mask.nii.gz")
    assert list(files_of(tmp_path / "three")["p2"]) == ["flair", "seg"]


def test_files_may_bear_the_contrast_alone(tmp_path):
    touch(tmp_path, "patient_07/FLAIR.nii.gz", "patient_07/T1.nii.gz", "patient_07/seg.nii.gz")
    assert files_of(tmp_path, ["flair"]) == {
        "patient_07": {"flair": "patient_07/FLAIR.nii.gz", "seg": "patient_07/seg.nii.gz"}
    }


def test_bids_with_sessions_and_derivatives(tmp_path):
    touch(
        tmp_path,
        "dataset_description.json",
        "participants.tsv",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-iso_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_T1w.nii.gz",
        "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_space-orig_label-lesion_mask.nii.gz",
        "derivatives/prep/sub-01/ses-a/anat/sub-01_ses-a_space-MNI_desc-preproc_T1w.nii.gz",
    )
    (files,) = files_of(tmp_path).values()
    assert list(files) == ["t1", "t1ce", "flair", "seg"] and "derivatives/manual" in files["seg"]
    assert list(files_of(tmp_path)) == ["sub-01_ses-a"]
    assert files["t1"].endswith("ses-a_T1w.nii.gz")


@pytest.mark.parametrize("lesion", ["label-lesion_mask", "label-lesion_dseg", "space-orig_desc-lesion_mask", "roi"])
def test_tissues_of_fmriprep_are_no_lesion(tmp_path, lesion):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz")
    for name in ("dseg", "desc-aseg_dseg", "space-MNI_dseg", "desc-brain_mask"):
        touch(tmp_path, f"derivatives/fmriprep/sub-01/anat/sub-01_{name}.nii.gz")
    # A segmentation beside the image is that of its lesion where nothing else is.
    assert files_of(tmp_path)["sub-01"]["seg"] == "sub-01/anat/sub-01_dseg.nii.gz"
    touch(tmp_path, f"derivatives/manual/sub-01/anat/sub-01_{lesion}.nii.gz")
    assert files_of(tmp_path)["sub-01"]["seg"] == f"derivatives/manual/sub-01/anat/sub-01_{lesion}.nii.gz"
    (tmp_path / f"derivatives/manual/sub-01/anat/sub-01_{lesion}.nii.gz").unlink()
    (tmp_path / "sub-01/anat/sub-01_dseg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"(?s)no seg volume of sub-01.*--channels seg=ENDING"):
        find_scans(tmp_path)
    stated = files_of(tmp_path, ["seg=desc-aseg_dseg"])["sub-01"]["seg"]
    assert stated == "derivatives/fmriprep/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz"


def test_decathlon_files_hold_all_contrasts(tmp_path):
    root = touch(tmp_path / "Task01_BrainTumour", "imagesTr/._BRATS_001.nii.gz", "imagesTr/BRATS_001.nii.gz")
    touch(root, "labelsTr/BRATS_001.nii.gz", "imagesTs/BRATS_485.nii.gz")
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    image = "Task01_BrainTumour/imagesTr/BRATS_001.nii.gz"
    expected = {"flair": image, "t1": f"{image}[1]", "t1ce": f"{image}[2]", "t2": f"{image}[3]"}
    files = files_of(tmp_path)["BRATS_001"]
    assert files == {**expected, "seg": "Task01_BrainTumour/labelsTr/BRATS_001.nii.gz"}
    assert find_scans(tmp_path).channels == BRATS_CHANNELS
    assert set(files_of(tmp_path, labelled=False)) == {"BRATS_001", "BRATS_485"}
    (root / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset.json"):
        find_scans(tmp_path)


def test_nnunet_files_hold_one_contrast_each(tmp_path):
    touch(tmp_path, "imagesTr/P_001_0000.nii.gz", "imagesTr/P_001_0001.nii.gz", "labelsTr/P_001.nii.gz")
    expected = {
        "t1": "imagesTr/P_001_0001.nii.gz", "flair": "imagesTr/P_001_0000.nii.gz", "seg": "labelsTr/P_001.nii.gz",
    }  # fmt: skip
    content = {"channel_names": {"0": "FLAIR", "1": "T1"}, "numTraining": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert files_of(tmp_path)["P_001"] == expected
    # The former version lists files by the name of the scan.
    listed = {"training": [{"image": "./imagesTr/P_001.nii.gz", "label": "./labelsTr/P_001.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR", "1": "T1"}} | listed))
    assert files_of(tmp_path)["P_001"] == expected


def test_kaggle_3m_is_a_stack_of_colour_slices(tmp_path):
    name = "TCGA_CS_4941_19960909"
    for number in (1, 2, 10):
        touch(tmp_path, f"kaggle_3m/{name}/{name}_{number}.tif", f"kaggle_3m/{name}/{name}_{number}_mask.tif")
    touch(tmp_path, "kaggle_3m/data.csv", "kaggle_3m/README.md")
    found = find_scans(tmp_path)
    (scan,) = found.scans
    assert scan.name == name and found.channels == ("t1", "t1ce", "flair") and found.foreign == 2
    assert [path.stem.split("_")[-1] for path in scan.files["flair"].paths] == ["1", "2", "10"]
    assert [scan.files[channel].component for channel in ("t1", "flair", "t1ce")] == [0, 1, 2]
    assert all("mask" in path.name for path in scan.files["seg"].paths)


def test_channels_are_chosen_ordered_and_named(tmp_path):
    touch(tmp_path, "p1_flair.nii.gz", "p1_T1.nii.gz", "p1_T1_brain.nii.gz")
    assert list(files_of(tmp_path, ["flair", "t1"], labelled=False)["p1"]) == ["flair", "t1"]
    touch(tmp_path / "named", "p1_brain_FL.nii.gz", "p1_other.nii.gz")
    assert files_of(tmp_path / "named", ["flair=brain_fl"], labelled=False) == {"p1": {"flair": "p1_brain_FL.nii.gz"}}
    # Names that tell nothing, once it is said what they show.
    touch(tmp_path / "plain", "a1.nii.gz", "b2.nii.gz")
    assert set(files_of(tmp_path / "plain", ["ct"], labelled=False)) == {"a1", "b2"}
    assert files_of(tmp_path / "plain", ["t1", "t2"], labelled=False)["a1"] == {
        "t1": "a1.nii.gz", "t2": "a1.nii.gz[1]",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"(?s)2 volumes, none named.*--channels"):
        find_scans(tmp_path / "plain", labelled=False)
    with pytest.raises(InputError, match="each channel once"):
        find_scans(tmp_path, ["t1", "t1"], labelled=False)


def test_what_is_missing_or_there_twice_is_listed_together(tmp_path):
    for number in (1, 2, 3):
        name = f"BraTS20_Training_00{number}"
        touch(tmp_path, *(f"{name}/{name}_{word}.nii.gz" for word in FORMER))
    (tmp_path / "BraTS20_Training_001/BraTS20_Training_001_t2.nii.gz").unlink()
    (tmp_path / "BraTS20_Training_002/BraTS20_Training_002_seg.nii.gz").unlink()
    touch(tmp_path, "copy/BraTS20_Training_003_flair.nii.gz", "BraTS20_Training_002/BraTS20_Training_002_T1.nii.gz")
    (tmp_path / "BraTS20_Training_007").mkdir()
    with pytest.raises(InputError) as caught:
        find_scans(tmp_path)
    found = " | ".join(problem.found for problem in caught.value.problems)
    assert len(caught.value.problems) == 5
    for text in (
        "no t2 volume of BraTS20_Training_001",
        "no seg volume",
        "2 t1 volumes",
        "in different folders",
        "no volume",
    ):
        assert text in found


def test_links_that_lead_in_circles_are_not_followed(tmp_path):
    touch(tmp_path / "data", "p1_flair.nii.gz")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    assert len(find_scans(tmp_path / "link", ["flair"], labelled=False).scans) == 1
    (tmp_path / "data" / "p2_flair.nii").symlink_to(tmp_path / "data" / "p2_flair.nii")
    with pytest.raises(InputError, match="leads nowhere or to itself"):
        find_scans(tmp_path / "link", ["flair"], labelled=False)


def test_folders_name_the_scans_of_bare_files(tmp_path):
    """Sessions of the same name belong to different patients, and all of a patient's to one."""
    for patient in ("pat1", "pat2"):
        touch(tmp_path, *(f"{patient}/{date}/FLAIR.nii.gz" for date in ("2019", "2021")))
    scans = find_scans(tmp_path, labelled=False).scans
    assert [scan.name for scan in scans] == ["pat1_2019", "pat1_2021", "pat2_2019", "pat2_2021"]
    assert [scan.patient for scan in scans] == ["pat1", "pat1", "pat2", "pat2"]


def test_files_of_unrelated_folders_make_no_scan(tmp_path):
    touch(tmp_path, "pat1/ses1_T1.nii.gz", "pat2/ses1_FLAIR.nii.gz")
    with pytest.raises(InputError, match="files called ses1 in different folders"):
        find_scans(tmp_path, labelled=False)


def test_what_cannot_be_read_is_no_empty_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a/p1_flair.nii.gz", "b/p2_flair.nii.gz")
    scandir = os.scandir

    def refused(path="."):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match="Permission denied"):
        find_scans(tmp_path, ["flair"], labelled=False)


def test_tiff_slices_and_masks_are_paired_by_number(tmp_path):
    name = "TCGA_CS_4941_19960909"
    touch(tmp_path, *(f"{name}/{name}_{number}.tif" for number in (1, 2, 4)))
    touch(tmp_path, *(f"{name}/{name}_{number}_mask.tif" for number in (1, 3, 4)))
    with pytest.raises(InputError, match=r"(?s)_2.tif.*a slice without a mask.*_3_mask.tif.*a mask without a slice"):
        find_scans(tmp_path)


def test_an_ending_may_hold_entities_of_bids(tmp_path):
    touch(tmp_path, *(f"sub-1/anat/sub-1_run-{run}_FLAIR.nii.gz" for run in (1, 2)))
    with pytest.raises(InputError, match="2 flair volumes"):
        find_scans(tmp_path, labelled=False)
    files = files_of(tmp_path, ["flair=run-2_FLAIR"], labelled=False)
    assert files == {"sub-1": {"flair": "sub-1/anat/sub-1_run-2_FLAIR.nii.gz"}}


def test_only_folders_below_count_as_derivatives(tmp_path):
    touch(tmp_path / "derivatives" / "prep", "sub-1/anat/sub-1_FLAIR.nii.gz")
    assert list(files_of(tmp_path / "derivatives" / "prep", labelled=False)) == ["sub-1"]


def test_a_folder_can_be_left_out(tmp_path):
    touch(tmp_path, "p1_flair.nii.gz", "out/p2_flair.nii.gz")
    found = find_scans(tmp_path, labelled=False, without=tmp_path / "out")
    assert [scan.name for scan in found.scans] == ["p1"]


def test_a_folder_without_volumes_is_refused(tmp_path):
    touch(tmp_path / "empty", "notes.txt")
    for folder, text in (("empty", "it holds notes.txt"), ("none", "no such folder")):
        with pytest.raises(InputError, match=text):
            find_scans(tmp_path / folder)


@pytest.mark.parametrize(
    ("stem", "scan", "shows"),
    [
        ("UPENN-GBM-00001_11_T1GD", "UPENN-GBM-00001_11", "t1ce"),
        ("UPENN-GBM-00001_11_segm", "UPENN-GBM-00001_11", "seg"),
        ("MS07_t1ce", "MS07", "t1ce"),
        ("p1_t2_flair", "p1", "flair"),
        ("p1_T2-FLAIR", "p1", "flair"),
        ("FLAIR", "", "flair"),
        ("notflair", "notflair", None),
        ("sub-7_run-1_T2w", "sub-7", "t2"),
    ],
)
def test_names_are_split_before_the_contrast(stem, scan, shows):
    assert named(stem, endings_of(None)) == (scan, shows)


@pytest.mark.parametrize(
    ("file", "patient"),
    [
        ("ADNI/002_S_0412/MPRAGE/2006-04-18_08_20_30.0/I4521/ADNI_002_S_0412_MR_x_I4521_t1.nii.gz", "002_S_0412"),
        ("ADNI/002_S_0412/MPRAGE/2006-04-18_08_20_30.0/I4521/scan_t1.nii.gz", "002_S_0412"),
        ("PatientID_0003/Timepoint_1/PatientID_0003_Timepoint_1_brain_t1.nii.gz", "PatientID_0003"),
        ("PatientID_0003/Timepoint_1/brain_t1.nii.gz", "PatientID_0003"),
        ("sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz", "sub-01"),
        ("p7/20190412/images/x_t1.nii.gz", "p7"),
        ("training01/preprocessed/training01_02_t1_pp.nii", "training01"),
        ("HGG/Brats18_2013_10_1/Brats18_2013_10_1_t1.nii.gz", None),
        ("export/20190412/p7/p7_t1.nii.gz", None),  # the date of an export is none of a patient
    ],
)
def test_the_patient_is_told_by_the_name_or_by_the_folders(tmp_path, file, patient):
    touch(tmp_path, file)
    (scan,) = find_scans(tmp_path, ["t1=t1_pp" if "_pp" in file else "t1"], labelled=False).scans
    assert scan.patient == patient


def test_masks_of_the_brain_beside_segmentations_are_left_alone(tmp_path):
    root = tmp_path / "Test" / "Brats21"
    for shows in ("t2", "seg", "mask"):
        touch(root, *(f"{shows}/BraTS2021_0000{i}_{shows}.nii.gz" for i in (1, 2)))
    found = find_scans(root, ["t2"])
    assert [set(scan.files) for scan in found.scans] == [{"t2", "seg"}] * 2 and found.foreign == 2
    assert all(scan.files["seg"].paths[0].parent.name == "seg" for scan in found.scans)
    touch(tmp_path / "Train" / "ixi", "t2/IXI002-Guys-0828_t2.nii.gz", "mask/IXI002-Guys-0828_mask.nii.gz")
    with pytest.raises(InputError, match=r"no seg volume of IXI002-Guys-0828; there are t2\n(.*\n)*.*--healthy"):
        find_scans(tmp_path / "Train" / "ixi")
    (root / "seg" / "BraTS2021_00002_seg.nii.gz").unlink()
    with pytest.raises(InputError, match="no seg volume of BraTS2021_00002"):
        find_scans(root, ["t2"])


def test_a_mask_of_the_brain_is_no_lesion(tmp_path):
    touch(tmp_path, *(f"p{n}/p{n}_{what}.nii.gz" for n in (1, 2) for what in ("flair", "brain_mask", "flair_bet-mask")))
    with pytest.raises(InputError, match=r"(?s)seg"):
        find_scans(tmp_path, ["flair"])
    assert [set(scan.files) for scan in find_scans(tmp_path, ["flair"], labelled=False).scans] == [{"flair"}] * 2
    touch(tmp_path, *(f"p{n}/p{n}_lesion_mask.nii.gz" for n in (1, 2)))
    assert all("lesion" in str(scan.files["seg"].paths[0]) for scan in find_scans(tmp_path, ["flair"]).scans)


def test_two_segmentations_are_no_matter_where_none_is_looked_for(tmp_path):
    touch(tmp_path, *(f"p1/p1_{what}.nii.gz" for what in ("flair", "seg", "lesion")))
    assert len(find_scans(tmp_path, ["flair"], labelled=False).scans) == 1
    with pytest.raises(InputError, match="2 seg volumes"):
        find_scans(tmp_path, ["flair"])
    (scan,) = find_scans(tmp_path, ["flair", "seg=lesion"]).scans
    assert "lesion" in str(scan.files["seg"].paths[0]) and set(scan.files) == {"flair", "seg"}


def test_labels_are_no_images_where_names_tell_no_contrast(tmp_path):
    touch(tmp_path, *(f"{folder}/p{n}.nii.gz" for folder in ("imagesTr", "labelsTr") for n in (1, 2)))
    scans = find_scans(tmp_path, ["flair"], labelled=False).scans
    assert [scan.files["flair"].paths[0].parent.name for scan in scans] == ["imagesTr"] * 2
