import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from result_folders import AFFINE, SIZE, run_info, save, slice_with_lesion, write_folder
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from uad.cli.command import run_command
from uad.data.reading.formats import write_slice
from uad.errors import InputError
from uad.evaluation.bootstrap import resample_weights
from uad.evaluation.clinical import METRICS, difference, evaluate
from uad.evaluation.metrics import float16_scale
from uad.evaluation.notices import averaged_across
from uad.evaluation.study import check_comparable, check_no_image_twice, mapping, open_study
from uad.results import ResultFolder, ResultWriter
from uad.scores import DIFFUSE, FOCAL
from uad.sides import one_sided

SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluation.py"
TABLES = ["per_image.csv", "per_patient.csv", "report.html", "summary.json", "tables.md"]
FIGURES = ["dice_vs_threshold", "panels", "pr", "roc", "scores"]


class Done(NamedTuple):
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_evaluation(tmp_path, monkeypatch, capsys):
    """Runs the command's main function in tmp_path: without the seconds that a fresh interpreter takes."""
    spec = importlib.util.spec_from_file_location("evaluation_command", SCRIPT)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> Done:
        code = 0
        try:
            run_command(lambda: command.main(command.get_args_parser().parse_args([str(a) for a in arguments])))
        except SystemExit as ended:
            code = ended.code
        return Done(code, *capsys.readouterr())

    return run


def clinical(folder, healthy=None, n_resamples=50, seed=0, workers=0):
    study = open_study(folder, "saved")
    with mapping(workers) as spread:
        return evaluate(study, healthy and open_study(healthy, "saved"), n_resamples, seed, spread("test"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return write_folder(root / "diseased"), write_folder(root / "healthy", lesion=False)


def test_a_planted_lesion_is_found(folders):
    found = clinical(*folders).rows["planted"]
    for metric in ("auroc", "ap", "best_dice", "aupro", "image_auroc", "image_ap"):
        assert found.estimates[metric].value > 0.9, metric
    assert found.estimates["dice_at_fpr1%"].value > 0.7
    assert 0.04 < found.estimates["healthy_false_positive_rate_at_fpr5%"].value <= 0.05
    assert found.lesion_sensitivity["sensitivity"] == 1


def test_pooled_metrics_equal_scikit_learn(folders):
    """On the stored float32 maps: rounding to 11 significant bits may cost no more than 1e-4."""
    labels, scores = pixels(loaded(folders[0]))
    found = clinical(folders[0]).rows["planted"].estimates
    assert found["auroc"].value == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert found["ap"].value == pytest.approx(average_precision_score(labels, scores), abs=1e-4)


def test_dice_per_patient_is_that_of_all_its_pixels(folders):
    """scikit-learn's F1 of what reaches the 1 % threshold, of the pixels of all slices of a patient."""
    row = clinical(*folders, n_resamples=0).rows["planted"]
    results, threshold = loaded(folders[0]), row.thresholds["fpr1%"]
    scale = float16_scale(max(result.anomaly_map.max() for result in results))
    for patient, dice in row.patient_dice.items():
        labels, scores = pixels(result for result in results if result.patient == patient)
        called = (scores * scale).astype(np.float16) >= threshold * scale
        assert dice == pytest.approx(f1_score(labels, called), abs=1e-12)
    assert len(row.patient_dice) == 4 and min(row.patient_dice.values()) > 0


def pixels(results) -> tuple[np.ndarray, np.ndarray]:
    """(labels, scores) of the stored maps of all results, one after the other."""
    results = list(results)
    scores = [result.anomaly_map for result in results]
    labels = [np.zeros_like(result.anomaly_map) if result.label is None else result.label for result in results]
    return np.stack(labels).ravel(), np.stack(scores).ravel()


def loaded(*folders) -> list:
    return [folder.load(name) for folder in map(ResultFolder, folders) for name in folder.names]


def healthy_patients(folder, *patients):
    """A folder of healthy images, without masks, one a patient."""
    writer, generator = ResultWriter(folder, run_info()), np.random.default_rng(7)
    for patient in patients:
        image, reconstruction, _ = slice_with_lesion(generator, False)
        scores = (image[0] - reconstruction[0]) ** 2
        save(writer, f"{patient}_900", patient, AFFINE, image, reconstruction, scores, None, {"autoencoder": image})
    return folder


def test_pooled_metrics_with_the_healthy_images_equal_scikit_learn(folders, tmp_path):
    """On all pixels of both folders; a healthy folder without masks counts as one with empty masks."""
    without = clinical(*folders, n_resamples=0)
    for healthy in (folders[1], healthy_patients(tmp_path, "diseased0", "other")):
        labels, scores = pixels(loaded(folders[0], healthy))
        found = clinical(folders[0], healthy, n_resamples=0)
        estimates = found.rows["planted"].estimates
        expected = average_precision_score(labels, scores)
        assert estimates["ap_with_healthy"].value == pytest.approx(expected, abs=1e-4)
        assert estimates["auroc_with_healthy"].value == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
        dice = [2 * (labels * (scores >= t)).sum() / ((scores >= t).sum() + labels.sum()) for t in np.unique(scores)]
        assert estimates["best_dice_with_healthy"].value == pytest.approx(max(dice), abs=1e-3)
        assert found.prevalence_with_healthy == pytest.approx(labels.mean())
        assert estimates["ap"] == without.rows["planted"].estimates["ap"] and found.prevalence == without.prevalence


def test_a_patient_of_both_folders_is_drawn_with_all_images(tmp_path):
    """Each resample's number is that of the drawn patients' pixels, of whichever folder they are."""
    diseased = write_folder(tmp_path / "diseased", patients=3)
    healthy = healthy_patients(tmp_path / "healthy", "diseased0", "other", "another")
    found = clinical(diseased, healthy, n_resamples=8, seed=3)
    assert found.counts["patients"] == 3 and found.counts["patients_with_healthy_images_only"] == 2
    patients = ["diseased0", "diseased1", "diseased2", "another", "other"]
    results = loaded(diseased, healthy)
    labels, scores = pixels(results)
    samples = found.rows["planted"].samples["ap_with_healthy"]
    for weights, ap in zip(resample_weights([0, 0, 0, 1, 1], 8, 3), samples, strict=True):
        drawn = np.repeat([weights[patients.index(result.patient)] for result in results], SIZE * SIZE)
        assert ap == pytest.approx(average_precision_score(labels, scores, sample_weight=drawn), abs=1e-4)


def test_intervals_with_the_healthy_images_are_seeded_and_paired(folders):
    rows = [clinical(*folders, seed=seed).rows for seed in (0, 0, 1)]
    ap = [each["raw intensity"].estimates["ap_with_healthy"] for each in rows]
    samples = [each["planted"].samples["ap_with_healthy"] for each in rows]
    assert ap[0] == ap[1] and np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[0], samples[2])
    paired = difference(rows[0]["planted"], rows[0]["raw intensity"], "ap_with_healthy")
    assert paired.value == rows[0]["planted"].estimates["ap_with_healthy"].value - ap[0].value
    expected = np.quantile(samples[0] - rows[0]["raw intensity"].samples["ap_with_healthy"], [0.025, 0.975])
    assert (paired.low, paired.high) == tuple(expected)


def test_results_do_not_depend_on_workers_or_on_the_order_of_writing(folders, tmp_path):
    first = clinical(*folders)
    source = ResultFolder(folders[0])
    writer = ResultWriter(tmp_path / "reversed", run_info())
    for name in source.names[::-1]:
        result = source.load(name, ("autoencoder",))
        arrays = result.image, result.reconstruction, result.anomaly_map, result.label, result.extras
        save(writer, name, result.patient, result.affine, *arrays)
    second = clinical(tmp_path / "reversed", folders[1], workers=2)
    for name, row in first.rows.items():
        assert row.estimates == second.rows[name].estimates
        for metric in METRICS:
            np.testing.assert_array_equal(row.samples[metric], second.rows[name].samples[metric])


def test_a_method_differs_from_itself_by_exactly_nothing(folders):
    row = clinical(*folders).rows["planted"]
    for metric in METRICS:
        assert (difference(row, row, metric).low, difference(row, row, metric).high) == (0, 0)


def test_bootstrap_points_agree_with_the_resamples_of_duplicated_patients(tmp_path):
    """All patients hold the same images: every resample gives the pooled number, and the interval is a point."""
    image, reconstruction, label = slice_with_lesion(np.random.default_rng(0), True)
    writer = ResultWriter(tmp_path, run_info())
    for patient in ("a1", "b1", "c1"):
        save(writer, f"{patient}_000", patient, AFFINE, image, reconstruction, image[0], label)
    row = clinical(tmp_path).rows["planted"]
    for metric in ("auroc", "ap", "best_dice", "aupro"):
        found = row.estimates[metric]
        assert found.low == pytest.approx(found.value, abs=1e-12) == found.high


def test_undefined_numbers_are_refused_with_the_reason(folders, tmp_path):
    without_healthy = clinical(folders[0]).rows["planted"].estimates
    assert without_healthy["dice_at_fpr5%"].reason == "no folder of healthy images, --healthy"
    assert without_healthy["image_auroc"].reason == "no healthy images"
    assert without_healthy["ap_with_healthy"].reason == "no folder of healthy images, --healthy"
    for lesion in (True, False):
        write_folder(tmp_path / "both", lesion=lesion)
    both = clinical(tmp_path / "both").rows["planted"].estimates
    assert both["image_auroc"].value is not None, "healthy images among the scored ones"
    assert both["dice_at_fpr1%"].reason == both["patient_dice"].reason == "no folder of healthy images, --healthy"
    write_folder(tmp_path / "unmasked", masks=False)
    unmasked = clinical(tmp_path / "unmasked", folders[1])
    for metric in ("auroc", "auroc_with_healthy"):
        assert unmasked.rows["planted"].estimates[metric].reason == "no masks"
    assert unmasked.rows["planted"].estimates["image_auroc"].value > 0.9
    assert unmasked.counts["images_without_mask"] == 8
    empty = clinical(folders[1]).rows["planted"].estimates
    assert empty["best_dice"].reason == "no lesion pixel in any mask"
    assert empty["image_auroc"].reason == "no diseased images"
    write_folder(tmp_path / "single", patients=1)
    single = clinical(tmp_path / "single").rows["planted"].estimates["auroc"]
    assert single.value is not None and single.interval_reason == "one patient only"


def test_all_lesion_is_refused(tmp_path):
    image, reconstruction, label = slice_with_lesion(np.random.default_rng(0), True)
    save(ResultWriter(tmp_path, run_info()), "a", "a", AFFINE, image, reconstruction, image[0], label * 0 + 1)
    estimates = clinical(tmp_path).rows["planted"].estimates
    assert estimates["auroc"].reason == "every pixel is lesion"
    assert estimates["best_dice"].value == 1


def test_lesions_in_the_healthy_folder_and_other_settings_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"lesion pixels\n.* given with --healthy and --calibration"):
        clinical(folders[0], folders[0])
    other = write_folder(tmp_path, lesion=False, normalise="joint", flags={"noise_level": 100})
    with pytest.raises(InputError) as raised:
        check_comparable(open_study(folders[0], "saved"), open_study(other, "saved"))
    assert len(raised.value.problems) == 2


def test_healthy_images_may_have_been_judged_in_another_precision(run_evaluation, tmp_path):
    """As --amp chooses by what it measures: their maps differ by rounding, which is said."""
    words = "--results", write_folder(tmp_path / "a", amp="off"), "--bootstrap", 5, "--workers", 0, "--healthy"
    done = run_evaluation(*words, write_folder(tmp_path / "b", lesion=False, amp="bf16"))
    assert done.returncode == 0 and "made with --amp bf16, the others with off: rounding differs" in done.stdout
    done = run_evaluation(*words, write_folder(tmp_path / "c", lesion=False, amp="off"))
    assert done.returncode == 0 and "rounding" not in done.stdout


def test_the_command_scores_a_folder_whole(run_evaluation, folders, tmp_path):
    out = tmp_path / "out"
    done = run_evaluation(
        "--results", folders[0], "--healthy", folders[1], "--out", out, "--bootstrap", 20, "--workers", 0
    )
    assert done.returncode == 0, done.stderr
    assert "| planted" in done.stdout and "autoencoder alone" in done.stdout and "raw intensity" in done.stdout
    written = sorted(path.name for path in out.iterdir())
    paper = ["per_image_paper_baselines.csv", "per_image_paper_ours.csv"]
    assert written == sorted(TABLES + [f"{name}.{end}" for name in FIGURES for end in ("pdf", "png")] + paper)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["clinical"]["rows"]["planted"]["metrics"]["auroc"]["value"] > 0.9
    assert summary["paper_ours"]["planted"]["dice"]["n"] == 8
    assert summary["clinical"]["counts"]["images_with_lesion"] == 8
    rows = list(csv.DictReader((out / "per_image.csv").open()))
    assert len(rows) == 5 * 16  # five contenders, 8 diseased and 8 healthy images
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "<img src='http" not in page
    metrics = summary["clinical"]["rows"]["raw intensity"]["metrics"]["ap_with_healthy"]
    for text in ("scored images (8)", "with the healthy images (8 + 8)"):
        assert f"Detection, {text}" in page and f"Difference to the competitors, {text}" in page
    assert f"{metrics['value']:.3f} [{metrics['low']:.3f}, {metrics['high']:.3f}]" in page
    assert summary["clinical"]["prevalence_with_healthy"] == summary["clinical"]["prevalence"] / 2
    assert summary["run"]["method"] == summary["healthy_run"]["method"] == "planted" and summary["command"]


def test_the_command_without_arguments_takes_the_newest_folder_and_refuses_what_is_undefined(run_evaluation, tmp_path):
    write_folder(tmp_path / "results" / "run", masks=False, patients=2)
    (tmp_path / "results" / "run" / "records" / "diseased0_000.json").unlink()
    done = run_evaluation("--bootstrap", "5")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "results" / "run" / "evaluation"
    assert "n/a (no masks)" in done.stdout and "scored images (0 with a mask of 3)" in done.stdout
    assert not (out / "roc.png").exists() and (out / "panels.png").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["incomplete_images_skipped"] == 1
    assert summary["clinical"]["rows"]["planted"]["metrics"]["ap"] == {"value": None, "reason": "no masks"}


def test_masks_from_another_folder(tmp_path, folders):
    """The same masks, at twice the size, give the same numbers as those in the result folder."""
    write_folder(tmp_path / "run", masks=False)
    with_masks = ResultFolder(folders[0])
    for name in with_masks.names:
        label = with_masks.load(name).label
        write_slice(tmp_path / "masks" / f"{name}.nii.gz", np.kron(label, np.ones((2, 2), np.uint8)), AFFINE)
    study = open_study(tmp_path / "run", "saved", tmp_path / "masks")
    assert (
        evaluate(study, None, 10, 0).rows["planted"].estimates
        == clinical(folders[0], n_resamples=10).rows["planted"].estimates
    )
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none named as an image"):
        open_study(tmp_path / "run", "saved", tmp_path / "none")


def test_scans_that_both_folders_have_slices_of_are_counted():
    """They are of one person, or of two data sets that number their patients alike."""
    names = {"a": ("1_050", "2_050"), "b": ("2_051", "3_051")}
    studies = [SimpleNamespace(names=names[key], folder=SimpleNamespace(folder=key)) for key in "ab"]
    said = "Maps are averaged across slices: 2 images of 2 scans, by their names"
    assert averaged_across(studies[0], None) == said
    assert averaged_across(*studies) == f"{said}; 1 of these scans have slices in b, too"


def test_given_masks_hold_in_place_of_those_in_the_results(tmp_path, folders):
    """Those of another reader, who has not marked every image."""
    names = ResultFolder(folders[0]).names
    for name in names[1:]:
        write_slice(tmp_path / "masks" / f"{name}.nii.gz", np.eye(SIZE, dtype=np.uint8), AFFINE)
    study = open_study(folders[0], "saved", tmp_path / "masks")
    assert study.load(names[0]).label is None
    np.testing.assert_array_equal(study.load(names[1]).label, np.eye(SIZE))


def test_a_small_lesion_of_a_larger_mask_stays(tmp_path, folders):
    """It lies between the centres of the map's pixels, four times as far apart; its image is diseased all the same."""
    name = ResultFolder(folders[0]).names[0]
    mask = np.zeros((4 * SIZE, 4 * SIZE), dtype=np.uint8)
    mask[41, 81] = 1
    write_slice(tmp_path / "masks" / f"{name}.nii.gz", mask, AFFINE)
    label = open_study(folders[0], "saved", tmp_path / "masks").load(name).label
    assert np.argwhere(label).tolist() == [[10, 20]]


def test_no_image_is_scored_as_diseased_and_as_healthy(tmp_path, folders, run_evaluation):
    """Copies without masks, as of a folder of all images, would turn lesions into false positives."""
    shutil.copytree(folders[0], tmp_path / "all", ignore=shutil.ignore_patterns("label", "evaluation"))
    for path in (tmp_path / "all" / "records").iterdir():
        path.write_text(path.read_text().replace('"has_label": true', '"has_label": false'))
    found = run_evaluation("--results", folders[0], "--healthy", tmp_path / "all", "--bootstrap", 4)
    assert found.returncode == 2 and f"images that are in {folders[0]}, too" in found.stderr


def test_an_image_is_known_though_its_map_was_made_with_another_seed(tmp_path):
    for name, change in (("a", 0.0), ("b", 0.1)):
        writer = ResultWriter(tmp_path / name, run_info(seed=int(10 * change)))
        image = np.arange(SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE) / SIZE**2
        save(writer, "p1_000", "p1", AFFINE, image, image, image[0] + np.float32(change))
    with pytest.raises(InputError, match="1 images that are in"):
        check_no_image_twice(*(open_study(tmp_path / name, "saved") for name in "ab"))


@pytest.mark.parametrize("of_nifti", [True, False])
def test_a_mask_of_another_folder_is_turned_as_its_image_lies_where_that_is_known(tmp_path, of_nifti):
    """Only results of NIfTI images say how far apart slices are; to a picture's a mask belongs by index."""
    write_folder(tmp_path / "run", masks=False, numbers={"slice_distance": 5.0} if of_nifti else None)
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[2:6, 10:20] = 1
    turned = AFFINE @ np.array([[0, 1, 0, 0], [-1, 0, 0, SIZE - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for name in ResultFolder(tmp_path / "run").names:
        write_slice(tmp_path / "masks" / f"{name}.nii.gz", np.rot90(label), turned)
    study = open_study(tmp_path / "run", "saved", tmp_path / "masks")
    found = study.load(study.names[0]).label
    np.testing.assert_array_equal(found, label if of_nifti else np.rot90(label))


def test_a_stored_folder_is_scored_anew_with_its_evidence(tmp_path):
    study = open_study(write_folder(tmp_path / "with", evidence=True), "evidence")
    assert [row.score for row in study.rows[:2]] == ["evidence", "smooth"]
    result = study.load(study.names[0])
    smooth = open_study(tmp_path / "with", "smooth").rows[0].map(result)
    scored = study.rows[0].map(result)
    difference = np.sqrt(smooth)
    most = difference / (difference + 0.1)
    assert (scored[result.label > 0] > 0).all() and (scored <= most / scored.mean() ** (1 / 3)).all()
    with pytest.raises(InputError, match="flip_probability"):
        open_study(write_folder(tmp_path / "without"), "evidence")


def test_sides_are_compared_as_in_the_run(tmp_path):
    """Maps that are made anew are those that the run would have made; the autoencoder alone is scored alike."""
    plain = open_study(write_folder(tmp_path / "plain", evidence=True, score="evidence"), "evidence")
    study = open_study(write_folder(tmp_path / "run", evidence=True, score="evidence", compare_sides=True), "evidence")
    result = study.load(study.names[0])
    image = torch.from_numpy(result.image)[None]
    for row, single in zip(study.rows[:2], plain.rows[:2], strict=True):
        expected = one_sided(torch.from_numpy(single.map(result))[None], image, [result.affine], [result.name])[
            0
        ].numpy()
        assert np.array_equal(row.map(result), expected)
    assert (study.rows[0].map(result) < plain.rows[0].map(result)).any()


def test_images_are_scored_as_suits_the_data_set(tmp_path):
    for dataset, expected in (("OCT", DIFFUSE), ("brats", FOCAL)):
        study = open_study(write_folder(tmp_path / dataset, dataset=dataset), "saved")
        assert {row.image_score for row in study.rows} == {expected}
        name = study.names[0]
        (measured,) = [image for image in evaluate(study, None, 2, 0).images if image.name == name]
        row = study.rows[0]
        assert measured.rows[row.name].image_score == expected(row.map(study.load(name)))


def test_several_folders_are_compared(run_evaluation, tmp_path):
    for name, method in (("a", "first"), ("b", "second")):
        write_folder(tmp_path / name, patients=2, method=method)
    done = run_evaluation("--results", "a", "b", "--out", "out", "--bootstrap", "5", "--protocol", "clinical")
    assert done.returncode == 0, done.stderr
    assert "first (a) - second (b)" in (tmp_path / "out" / "comparison.md").read_text()
    write_folder(tmp_path / "c", patients=3, method="third")
    # The same names in other data, two parts of a release for instance, are other images.
    write_folder(tmp_path / "d", patients=2, method="fourth", data_hash="of other data")
    for other in "cd":
        done = run_evaluation("--results", "a", other, "--out", "out", "--bootstrap", "5", "--protocol", "clinical")
        assert "AP (prevalence of each)" in done.stdout and "different images" in done.stdout


@pytest.mark.parametrize("damage", ["missing", "truncated", "absent"])
def test_damaged_folders_end_with_code_2(run_evaluation, tmp_path, damage):
    write_folder(tmp_path / "run", patients=1, slices=1)
    path = tmp_path / "run" / "reconstruction" / "diseased0_000.nii.gz"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    done = run_evaluation("--results", "nowhere" if damage == "absent" else "run")
    assert done.returncode == 2
    assert ("nowhere" if damage == "absent" else path.name) in done.stderr and "remedy" in done.stderr


def test_unknown_flags_end_with_code_2():
    command = [sys.executable, str(SCRIPT), "--reslts", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--reslts" in done.stderr


def test_results_of_which_only_maps_were_kept_are_scored_by_these(folders, tmp_path, run_evaluation):
    """The numbers of the maps are those of the whole results; what inputs are needed for is left out, with the reason.
    Where the healthy images were kept whole, they are scored alike.
    """
    maps = write_folder(tmp_path / "maps", evidence=True, save="maps", score="evidence")
    whole = write_folder(tmp_path / "whole", evidence=True, score="evidence")
    healthy = write_folder(tmp_path / "healthy", evidence=True, lesion=False, score="evidence")
    for folder in (maps, whole):
        done = run_evaluation("--results", folder, "--healthy", healthy, "--bootstrap", 20)
        assert done.returncode == 0, done.stderr
    of_maps, of_whole = (json.loads((folder / "evaluation" / "summary.json").read_text()) for folder in (maps, whole))
    assert list(of_maps["clinical"]["rows"]) == ["planted"] and "only maps were kept" in of_maps["left_out"]
    assert "paper_ours" in of_whole and "paper_ours" not in of_maps and "left_out" not in of_whole
    metrics = [each["clinical"]["rows"]["planted"]["metrics"] for each in (of_maps, of_whole)]
    assert metrics[0] == metrics[1]
    assert (maps / "evaluation" / "panels.png").is_file()
    for words in (("--score", "smooth"), ("--protocol", "paper_ours")):
        done = run_evaluation("--results", maps, *words)
        assert done.returncode == 2 and "only maps were kept" in done.stderr and "--save all" in done.stderr
