import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import EVALUATE, run
from PIL import Image
from result_folders import AFFINE, write_folder
from sklearn.metrics import average_precision_score, roc_auc_score

from uad.data.reading.formats import write_slice
from uad.errors import InputError
from uad.evaluation.clinical import evaluate
from uad.evaluation.foreign_files import read_planes
from uad.evaluation.foreign_maps import METHOD, open_maps
from uad.evaluation.notices import notices
from uad.evaluation.pairing import Pair, image_name, pairs_of
from uad.evaluation.study import mapping, open_study
from uad.results import ResultFolder

SHAPE = (24, 20, 9)
LPS = np.diag([-1.0, -1.5, 2.0, 1.0])
LAS = np.array([[-1.0, 0, 0, 0], [0, 1.5, 0, -1.5 * (SHAPE[1] - 1)], [0, 0, 2.0, 0], [0, 0, 0, 1]])


def scan(number: int, lesion: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A map and a label: a bright box, of which the map knows the place roughly; some slices are empty."""
    generator = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    if lesion:
        label[4:9, 3 + number : 8 + number, 2:6] = 1
    scores = generator.random(SHAPE).astype(np.float32) + np.float32(0.6) * label
    scores[..., 0] = 0
    return scores, label


def write(path: Path, values: np.ndarray, affine: np.ndarray | None = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def volumes(tmp_path) -> tuple[Path, Path]:
    """Two scans as volumes, and their labels."""
    for number in (0, 1):
        scores, label = scan(number)
        write(tmp_path / "maps" / f"p{number}_anomaly_map.nii.gz", scores)
        write(tmp_path / "labels" / f"p{number}_seg.nii.gz", label)
    return tmp_path / "maps", tmp_path / "labels"


def row_of(study, healthy=None, mapper=map):
    return evaluate(study, healthy, 20, 0, mapper).rows[study.rows[0].name]


def assert_same_numbers(one, other) -> None:
    assert one.estimates == other.estimates and one.thresholds == other.thresholds
    assert one.lesion_sensitivity == other.lesion_sensitivity and one.patient_dice == other.patient_dice


def test_maps_of_a_result_folder_score_as_the_folder_does(tmp_path):
    results, healthy = write_folder(tmp_path / "results"), write_folder(tmp_path / "healthy", lesion=False)
    maps = open_maps(results / "anomaly_map", results / "label")
    healthy_maps = open_maps(healthy / "anomaly_map", None)
    assert maps.names == ResultFolder(results).names
    expected = row_of(open_study(results, "saved"), open_study(healthy, "saved"))
    assert_same_numbers(row_of(maps, healthy_maps), expected)
    with mapping(1) as spread:
        assert_same_numbers(row_of(maps, healthy_maps, spread("test")), expected)
    assert expected.thresholds.keys() == {"fpr1%", "fpr5%", "fpr10%", "best_dice"}


def test_a_volume_counts_as_its_axial_slices(volumes, tmp_path):
    for number in (0, 1):
        for values, folder in zip(scan(number), ("slices", "slices_labels"), strict=True):
            for level in range(SHAPE[2]):
                write_slice(tmp_path / folder / f"p{number}_{level:03d}.nii.gz", values[..., level], LPS)
    study, slices = open_maps(*volumes), open_maps(tmp_path / "slices", tmp_path / "slices_labels")
    assert study.names == slices.names and len(study.names) == 2 * SHAPE[2]
    assert [study.folder.record(name) for name in study.names] == [slices.folder.record(name) for name in study.names]
    assert_same_numbers(row_of(study), row_of(slices))


@pytest.mark.parametrize("sign", [1, -1])
def test_pixel_metrics_are_those_of_scikit_learn_also_below_zero(tmp_path, sign):
    """On scores that float16 holds exactly."""
    scores, label = scan(0)
    scores = np.round(scores * 100) - (200 if sign < 0 else 0)
    write(tmp_path / "maps" / "p0.nii.gz", scores)
    write(tmp_path / "labels" / "p0.nii.gz", label)
    found = row_of(open_maps(tmp_path / "maps", tmp_path / "labels"))
    assert found.estimates["auroc"].value == pytest.approx(roc_auc_score(label.ravel(), scores.ravel()), abs=1e-12)
    expected = average_precision_score(label.ravel(), scores.ravel())
    assert found.estimates["ap"].value == pytest.approx(expected, abs=1e-12)
    assert np.sign(found.thresholds["best_dice"]) == sign and found.thresholds["best_dice"] in scores


@pytest.mark.parametrize("turned", ["label", "map"])
def test_a_file_in_another_orientation_is_turned(tmp_path, turned):
    scores, label = scan(0)
    flipped = {"map": scores, "label": label}
    flipped[turned] = flipped[turned][:, ::-1]
    files = [
        write(tmp_path / f"{what}.nii.gz", values, LAS if what == turned else LPS) for what, values in flipped.items()
    ]
    planes = read_planes(Pair("p0", *files))
    np.testing.assert_array_equal(planes.maps, np.moveaxis(scores, 2, 0))
    np.testing.assert_array_equal(planes.labels, np.moveaxis(label, 2, 0))
    np.testing.assert_array_equal(planes.affine, LPS)


def test_a_slice_keeps_its_layout_and_turns_its_label(tmp_path):
    scores, label = (values[..., 3] for values in scan(0))
    turned = np.array([[-1.0, 0, 0, 0], [0, 1.5, 0, -1.5 * (SHAPE[1] - 1)], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    pair = Pair("p0", write(tmp_path / "map.nii", scores), write(tmp_path / "label.nii", label[:, ::-1], turned))
    planes = read_planes(pair)
    np.testing.assert_array_equal(planes.maps[0], scores)
    np.testing.assert_array_equal(planes.labels[0], label)


def test_other_grids_are_refused_with_both_geometries(volumes):
    maps, labels = volumes
    moved = LPS.copy()
    moved[0, 3] = 3
    write(labels / "p0_seg.nii.gz", scan(0)[1], moved)
    write(labels / "p1_seg.nii.gz", scan(1)[1][:, :-1])
    with pytest.raises(InputError) as raised:
        open_maps(maps, labels)
    first, second = raised.value.problems
    assert "axes LPS, the first voxel at (0, 0, 0)" in first.found and "at (3, 0, 0)" in first.expected
    assert "24 x 20 x 9" in second.found and "24 x 19 x 9" in second.expected and "affine" in second.remedy


def test_everything_that_does_not_match_is_listed_at_once(volumes):
    maps, labels = volumes
    scores, label = scan(0)
    write(maps / "p2_map.nii.gz", scores)
    write(labels / "p3.nii", label)
    write(maps / "p0.nii", scores)
    write(labels / "p1_mask.nii", label)
    with pytest.raises(InputError) as raised:
        open_maps(maps, labels)
    assert [(Path(problem.where).name, problem.found) for problem in raised.value.problems] == [
        ("maps", "2 files of the image p0: p0.nii, p0_anomaly_map.nii.gz"),
        ("labels", "2 files of the image p1: p1_mask.nii, p1_seg.nii.gz"),
        ("p2_map.nii.gz", "a map without label"),
        ("p3.nii", "a label without map"),
    ]


def test_names_without_anything_in_common_are_one_problem(volumes, tmp_path):
    write(tmp_path / "others" / "x.nii", scan(0)[1])
    with pytest.raises(InputError, match="none of which has the name of a map"):
        pairs_of(volumes[0], tmp_path / "others")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("p1.npy", "p1"), ("p1_anomaly_map.nii.gz", "p1"), ("p1-pred.mha", "p1"), ("BraTS_003_SEG.nii", "BraTS_003"),
        ("p1_gt_mask.png", "p1"), ("mask.png", "mask"), ("heatmap_7.png", "heatmap_7"), ("bitmap.png", "bitmap"),
        ("P04/lesion.nii.gz", "P04"), ("P04/gt_mask.nii.gz", "P04"), ("P04/P04_seg.nii.gz", "P04"),
    ],
)  # fmt: skip
def test_the_image_that_a_file_belongs_to(file, name):
    assert image_name(Path("labels") / file, Path("labels")) == name


def test_damaged_files_and_values_are_all_listed(tmp_path):
    maps, labels = tmp_path / "maps", tmp_path / "labels"
    for number in range(4):
        scores, label = scan(number)
        scores[0, 0, 0] = np.nan if number == 1 else 0
        write(maps / f"p{number}.nii.gz", scores)
        write(labels / f"p{number}.nii.gz", label if number != 2 else 0.1 + 0.3 * label)
    (maps / "p0.nii.gz").write_bytes((maps / "p0.nii.gz").read_bytes()[:400])
    write(maps / "p3.nii.gz", np.stack([scan(3)[0], scan(2)[0]], axis=-1))
    with mapping(1) as spread, pytest.raises(InputError) as raised:
        open_maps(maps, labels, mapper=spread("test"))
    places = [Path(problem.where).relative_to(tmp_path).as_posix() for problem in raised.value.problems]
    assert places == ["maps/p0.nii.gz", "maps/p1.nii.gz", "labels/p2.nii.gz", "maps/p3.nii.gz"]
    damaged, nan, _, channels = (problem.found for problem in raised.value.problems)
    assert "unreadable" in damaged and nan == "NaN or infinity in 1 voxels" and channels == "2 channels that differ"


def test_masks_and_maps_of_other_formats(tmp_path):
    scores, label = (values[..., 3] for values in scan(0))
    (tmp_path / "maps").mkdir()
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "maps" / "a_score.npy", scores[None])
    np.save(tmp_path / "maps" / "b.npy", np.stack([scan(0)[0][..., level] for level in (2, 3)], axis=-1))
    np.save(tmp_path / "labels" / "b.npy", scan(0)[1][..., 2:4])
    Image.fromarray(np.round(scores * 100).astype(np.uint8)).save(tmp_path / "maps" / "c.tif")
    for name in "ac":
        Image.fromarray(label * 255).save(tmp_path / "labels" / f"{name}_mask.png")
    study = open_maps(tmp_path / "maps", tmp_path / "labels")
    assert study.names == ["a", "b_000", "b_001", "c"] and study.folder.run["paired_by_index"] == 3
    (said,) = notices(study, None, None)
    assert said.startswith("1 volume(s) without a place in the patient") and "(Z, Y, X)" in said
    np.testing.assert_array_equal(study.load("a").anomaly_map, scores)
    np.testing.assert_array_equal(study.load("a").label, label)
    np.testing.assert_array_equal(study.load("b_001").label, label)
    assert row_of(study).estimates["auroc"].value > 0.5
    Image.fromarray(label[:, :-1]).save(tmp_path / "labels" / "a_mask.png")
    coloured = np.broadcast_to(np.arange(3, dtype=np.uint8), (*SHAPE[:2], 3))
    Image.fromarray(np.ascontiguousarray(coloured)).save(tmp_path / "maps" / "c.tif")
    with pytest.raises(InputError) as raised:
        open_maps(tmp_path / "maps", tmp_path / "labels")
    shape, picture = raised.value.problems
    assert (shape.found, picture.found) == (
        "24 x 20 values, without a place in the patient",
        "3 channels that differ",
    )
    assert "24 x 19 values" in shape.expected


def test_images_of_simpleitk(volumes, tmp_path):
    itk = pytest.importorskip("SimpleITK")
    maps, labels = volumes
    itk.WriteImage(itk.ReadImage(str(maps / "p0_anomaly_map.nii.gz")), str(maps / "p0.mha"))
    (maps / "p0_anomaly_map.nii.gz").unlink()
    np.testing.assert_array_equal(open_maps(maps, labels).load("p0_003").anomaly_map, scan(0)[0][..., 3])


def test_patients_are_named_or_in_a_table(volumes):
    named = open_maps(*volumes)
    table = open_maps(*volumes, {"p0": "one", "p1": "one"})
    assert {named.load(name).patient for name in named.names} == {"p0", "p1"}
    assert {table.load(name).patient for name in table.names} == {"one"}
    assert table.folder.run["patients_from_table"] == 2


def test_the_command_writes_what_it_writes_for_results(volumes, tmp_path):
    maps, labels = volumes
    for number in (5, 6):
        write(tmp_path / "healthy" / f"h{number}.nii.gz", scan(number, lesion=False)[0])
    table = tmp_path / "patients.csv"
    table.write_text("p0,x\np1,y\n")
    words = f"--maps {maps} --labels {labels} --healthy {tmp_path / 'healthy'} --patients {table} --bootstrap 5"
    run(EVALUATE, words)
    out = maps / "evaluation"
    summary = json.loads((out / "summary.json").read_text())
    metrics = summary["clinical"]["rows"][METHOD]["metrics"]
    assert metrics["image_auroc"]["value"] > 0.5 and metrics["dice_at_fpr1%"]["value"] > 0
    assert summary["maps"] == str(maps) and summary["protocol"] == "clinical" and summary["paired_by_index"] == 0
    with (out / "per_patient.csv").open() as file:
        assert [line["patient"] for line in csv.DictReader(file)] == ["x", "y"]
    assert {path.name for path in out.glob("*.png")} == {
        "panels.png", "roc.png", "pr.png", "dice_vs_threshold.png", "scores.png"
    }  # fmt: skip
    run(EVALUATE, words)  # what the first call wrote is not taken for maps


def test_several_folders_of_maps_are_compared(volumes, tmp_path):
    maps, labels = volumes
    for number in (0, 1):
        write(tmp_path / "b" / "maps" / f"p{number}.nii.gz", -scan(number)[0])
    run(EVALUATE, f"--maps {maps} {tmp_path / 'b' / 'maps'} --labels {labels} --bootstrap 5")
    text = (maps / "evaluation" / "comparison.md").read_text()
    assert f"{METHOD} ({maps}) - {METHOD} ({tmp_path / 'b' / 'maps'})" in text


def test_flags_that_do_not_go_together_are_listed_at_once(volumes, tmp_path):
    maps, _ = volumes
    words = "--score smooth --polarity 1 0 --protocol paper_ours --healthy a b"
    with pytest.raises(InputError) as raised:
        run(EVALUATE, f"--maps {maps} --results {maps} --out {maps} {words}")
    flags = [problem.where for problem in raised.value.problems]
    assert flags == ["--results", "--score", "--polarity", "--protocol", "--labels", "--healthy", "--out"]
    with pytest.raises(InputError, match="without --maps"):
        run(EVALUATE, f"--results {maps} --patients {tmp_path / 'table.csv'}")


def test_a_table_of_other_patients_and_missing_folders(volumes, tmp_path):
    maps, labels = volumes
    table = tmp_path / "patients.csv"
    table.write_text("q0,x\n")
    with pytest.raises(InputError, match="no image of the folders"):
        run(EVALUATE, f"--maps {maps} --labels {labels} --patients {table}")
    with pytest.raises(InputError) as raised:
        run(EVALUATE, f"--maps {tmp_path / 'a'} --labels {tmp_path / 'b'} --healthy {tmp_path / 'c'}")
    assert [Path(problem.where).name for problem in raised.value.problems] == ["a", "b", "c"]


def test_a_slice_and_a_volume_of_one_name(tmp_path):
    scores, label = scan(0)
    for folder, values in (("maps", scores), ("labels", label)):
        write(tmp_path / folder / "p0.nii", values)
        write_slice(tmp_path / folder / "p0_003.nii.gz", values[..., 3], AFFINE)
    with pytest.raises(InputError, match="p0_003"):
        open_maps(tmp_path / "maps", tmp_path / "labels")


def test_labels_are_found_in_the_folders_of_a_release(tmp_path):
    """Patient folders hold the label beside the images; masks of detect.py name their rate."""
    for name in ("p1", "p2"):
        for ending in ("t1", "seg"):
            path = tmp_path / "release" / name / f"{name}_{ending}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "mask").mkdir(exist_ok=True)
        (tmp_path / "mask" / f"{name}_fpr0.01.nii.gz").touch()
    pairs = pairs_of(tmp_path / "mask", tmp_path / "release")
    assert [(pair.name, pair.label.name) for pair in pairs] == [("p1", "p1_seg.nii.gz"), ("p2", "p2_seg.nii.gz")]


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda scores: scores, False),
        (lambda scores: scores - 3, False),
        (lambda scores: scores + 5000, True),
        (lambda scores: 1 / (1 + np.exp(-(scores + 6))), True),
    ],
)
def test_scores_that_rounding_ties_are_noticed(tmp_path, change, noticed):
    """Of one order all, as float32: only those that differ little compared with their size lose it."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        label = np.zeros((64, 64), dtype=np.uint8)
        label[20:30, 20:30] = 1
        write(tmp_path / "labels" / f"{name}.nii.gz", label[..., None])
        scores = np.abs(rng.normal(size=label.shape)) + label
        write(tmp_path / "maps" / f"{name}.nii.gz", change(scores).astype(np.float32)[..., None])
    said = notices(open_maps(tmp_path / "maps", tmp_path / "labels"), None, None)
    assert any("float16" in each for each in said) is noticed
