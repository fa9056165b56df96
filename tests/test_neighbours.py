"""Maps averaged across the slices of a scan: weights by millimetres, whatever the folder, the order and the batches."""

import json
import math

import numpy as np
import pytest
from result_folders import AFFINE, SIZE, run_info, save, write_folder

from uad.evaluation.clinical import evaluate
from uad.evaluation.contenders import SAVED
from uad.evaluation.study import open_study, with_neighbours
from uad.neighbours import SIGMA, UNKNOWN_DISTANCE, distance_of, neighbours_of, slice_number, smoothed
from uad.results import ResultWriter


def scan_folder(folder, numbers, lesions=(), patient="scan7", distance=None, seed=0, places=None):
    """A result folder of slices of a scan whose maps are noise, and 0.4 more where a slice has its lesion."""
    writer = ResultWriter(folder, run_info())
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[8:16, 8:16] = 1
    for number in numbers:
        noise = np.random.default_rng((seed, number)).random((SIZE, SIZE)).astype(np.float32)
        own = label if number in lesions else np.zeros_like(label)
        image = np.zeros((1, SIZE, SIZE), np.float32)
        record = {} if distance is None else {"slice_distance": distance}
        save(writer, f"{patient}_{number:03d}", patient, AFFINE, image, image, noise + 0.4 * own, own, record=record)
    return folder


def study(folder):
    return open_study(folder, SAVED)


def maps_of(opened) -> dict[str, np.ndarray]:
    row = opened.rows[0].name
    return {name: opened.maps(opened.load(name))[row] for name in opened.names}


def test_the_number_of_a_slice_is_that_within_its_scan():
    assert slice_number("TCGA_CS_4941_19960909_012") == 12
    # Names that count images, not the slices of a scan.
    assert [slice_number(name) for name in ("NORMAL_1000", "img_012", "p1", "CNV-12-3")] == [None] * 4


def test_weights_follow_the_distance_in_millimetres():
    names = [f"p1_{number:03d}" for number in range(40)]
    one, five = (neighbours_of(names, {"p1": mm}, sigma=3.0) for mm in (1.0, 5.0))
    assert [name for name, _ in one["p1_020"]] == names[14:27] and [n for n, _ in five["p1_020"]] == names[19:22]
    for found in (*one.values(), *five.values()):
        assert sum(weight for _, weight in found) == pytest.approx(1)
    # At the same distance the same ratio, whatever lies between.
    ratio = {name: weight / dict(one["p1_020"])["p1_020"] for name, weight in one["p1_020"]}
    assert ratio["p1_025"] == pytest.approx(math.exp(-0.5 * (5 / 3) ** 2))
    assert dict(five["p1_020"])["p1_021"] / dict(five["p1_020"])["p1_020"] == pytest.approx(ratio["p1_025"])


@pytest.mark.parametrize("distance", [1.0, 2.0, 3.0, 6.0])
def test_rounding_of_a_distance_changes_nothing(distance):
    names = [f"p1_{number:03d}" for number in range(20)]
    exact, rounded = (neighbours_of(names, {"p1": distance * share})["p1_010"] for share in (1, 1 + 1e-7))
    assert [name for name, _ in exact] == [name for name, _ in rounded] and len(exact) > 1
    values = np.random.default_rng(0).normal(size=(20, 2))
    places = np.arange(20) * distance
    np.testing.assert_allclose(smoothed(values, places * (1 + 1e-7)), smoothed(values, places), atol=1e-5)


def test_scans_do_not_meet_and_gaps_are_not_bridged():
    near = neighbours_of(["a1_001", "a1_002", "b1_002", "a1_030", "lonely"], {"a1": 3.0, "b1": 3.0})
    assert {name: sorted(each for each, _ in found) for name, found in near.items()} == {
        "a1_001": ["a1_001", "a1_002"], "a1_002": ["a1_001", "a1_002"], "b1_002": ["b1_002"], "a1_030": ["a1_030"],
        "lonely": ["lonely"],
    }  # fmt: skip
    assert neighbours_of(["a1_001", "a1_002"], {}, sigma=0)["a1_001"] == (("a1_001", 1.0),)


def test_slices_of_one_number_stand_at_one_place(tmp_path):
    names = ["p1_5", "p1_05", "p1_6"]
    near = neighbours_of(names, {"p1": 3.0})
    assert near["p1_5"] == near["p1_05"] and {name for name, _ in near["p1_6"]} == set(names)
    values = np.random.default_rng(0).random((3, 4, 4))
    for found, name in zip(smoothed(values, [15.0, 15.0, 18.0]), names, strict=True):
        expected = sum(weight * values[names.index(each)] for each, weight in near[name])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    writer = ResultWriter(tmp_path, run_info())
    for name, map_ in zip(names, values.astype(np.float32), strict=True):
        save(writer, name, "p1", AFFINE, map_[None], map_[None], map_, np.zeros((4, 4), np.uint8))
    assert list(maps_of(with_neighbours([study(tmp_path)], SIGMA)[0])) == sorted(names)


def test_a_stack_is_smoothed_as_its_slices_are():
    """The same in memory, as detect.py does it, as over result folders; equal slices stay, a step is blurred."""
    values = np.random.default_rng(0).random((9, 4, 4)).astype(np.float32)
    places = np.arange(9) * 2.0
    found = smoothed(values, places)
    near = neighbours_of([f"p1_{i:03d}" for i in range(9)], {"p1": 2.0})
    for i in range(9):
        expected = sum(weight * values[int(name[-3:])] for name, weight in near[f"p1_{i:03d}"])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)
    np.testing.assert_allclose(smoothed(np.ones((5, 2, 2)), np.arange(5)), 1, rtol=1e-6)
    order = np.random.default_rng(1).permutation(9)
    np.testing.assert_allclose(smoothed(values[order], places[order]), found[order], rtol=1e-6)


def test_maps_are_averaged_between_the_folders_of_a_patient(tmp_path):
    whole = scan_folder(tmp_path / "whole", range(12), lesions=(4, 5, 6))
    sick = scan_folder(tmp_path / "sick", (4, 5, 6), lesions=(4, 5, 6))
    healthy = scan_folder(tmp_path / "healthy", (0, 1, 2, 3, 7, 8, 9, 10, 11))
    together = maps_of(with_neighbours([study(whole)], SIGMA)[0])
    apart = [maps_of(each) for each in with_neighbours([study(sick), study(healthy)], SIGMA)]
    for name, found in {**apart[0], **apart[1]}.items():
        np.testing.assert_allclose(found, together[name], rtol=1e-6)
    # Slice 4 by hand; pictures do not say how far apart they are.
    alone = maps_of(study(whole))
    raw = {n: math.exp(-0.5 * (n * UNKNOWN_DISTANCE / SIGMA) ** 2) for n in (-2, -1, 0, 1, 2)}
    expected = sum(weight * alone[f"scan7_{4 + n:03d}"] for n, weight in raw.items()) / sum(raw.values())
    np.testing.assert_allclose(together["scan7_004"], expected, rtol=1e-5)


def test_two_studies_beside_one_folder_of_healthy_images_do_not_meet(tmp_path):
    """Their names are the same, and what was judged beside the first is not taken for the second."""
    first, second = (scan_folder(tmp_path / name, (4, 5, 6), seed=seed) for seed, name in enumerate(("a", "b")))
    healthy = study(scan_folder(tmp_path / "healthy", (2, 3, 7, 8)))
    found = [maps_of(with_neighbours([study(each), healthy], SIGMA)[1]) for each in (first, second)]
    alone = maps_of(with_neighbours([study(second), study(tmp_path / "healthy")], SIGMA)[1])
    assert all(np.array_equal(found[1][name], alone[name]) for name in alone)
    assert not np.array_equal(found[0]["scan7_003"], found[1]["scan7_003"])


def test_a_lesion_of_several_slices_stands_out_from_noise(tmp_path):
    sick = scan_folder(tmp_path / "sick", range(3, 9), lesions=range(3, 9))
    healthy = scan_folder(tmp_path / "healthy", (*range(3), *range(9, 14)))
    found = []
    for sigma in (0, SIGMA):
        pair = with_neighbours([study(sick), study(healthy)], sigma)
        row = evaluate(*pair, n_resamples=0, seed=0).rows["planted"]
        found.append(row.estimates["ap_with_healthy"].value)
    assert found[1] > found[0] + 0.05


def test_slices_alone_are_scored_as_ever(tmp_path):
    folder = write_folder(tmp_path / "r", slices=1, evidence=True)
    alone, beside = study(folder), with_neighbours([study(folder)], SIGMA)[0]
    for name in alone.names:
        for row, found in alone.maps(alone.load(name)).items():
            assert np.array_equal(found, beside.maps(beside.load(name))[row])


def test_the_distance_of_slices_comes_from_their_files(tmp_path):
    thick = scan_folder(tmp_path / "thick", range(5), distance=20.0)
    opened = study(thick)
    for name, found in maps_of(with_neighbours([opened], SIGMA)[0]).items():
        assert np.array_equal(found, opened.load(name).anomaly_map), "20 mm are out of reach"
    assert json.loads((thick / "records" / "scan7_000.json").read_text())["slice_distance"] == 20.0


def test_pictures_state_no_distance(tmp_path):
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    assert distance_of(tmp_path / "p1_001.nii.gz", affine) == 4.0
    assert distance_of(tmp_path / "p1_001.png", affine) is None
