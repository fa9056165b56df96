"""The commands on benchmarks as they are released: from a part's folders to image-level scores."""

import numpy as np
import pytest
import released_trees as trees
from commands import DETECT, EVALUATE, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, TRAIN_BASELINE, run
from sklearn.metrics import roc_auc_score

from uad.errors import InputError
from uad.evaluation.clinical import evaluate
from uad.evaluation.study import open_study
from uad.files import read_json
from uad.results import ResultFolder

TRIVIAL = "scripts/sample_trivial.py"
READING = f"--n_channels 1 --img_size {trees.SIZE} --normalise joint --device cpu --workers 0"


def intensity(root, part: str, out) -> ResultFolder:
    run(TRIVIAL, f"--method intensity {READING} --data_dir {root} --split {part} --out_dir {out}")
    return ResultFolder(out)


def estimates(out, healthy=None) -> dict[str, float | None]:
    """The metrics of a result folder's method, without the report on it."""
    study = open_study(out, "saved")
    rows = evaluate(study, healthy and open_study(healthy, "saved"), 2, 0).rows
    return {name: estimate.value for name, estimate in rows[study.rows[0].name].estimates.items()}


@pytest.mark.parametrize("make", [trees.bmad, trees.bmad_images, trees.mvtec, trees.kermany, trees.medianomaly])
def test_a_part_is_judged_by_what_the_release_says_of_its_images(tmp_path, make):
    results = intensity(make(tmp_path / "set"), "test", tmp_path / "out")
    diseased = {name: bool(results.record(name)["diseased"]) for name in results.names}
    study = open_study(tmp_path / "out", "saved")
    row = study.rows[0]
    scores = {name: row.image_score(study.maps(study.load(name))[row.name]) for name in results.names}
    higher = [
        (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b])
        for a in scores
        for b in scores
        if diseased[a] > diseased[b]
    ]
    found = estimates(tmp_path / "out")
    assert found["image_auroc"] == pytest.approx(np.mean(higher)), "the share of pairs in the right order"
    has_masks = make in (trees.bmad, trees.mvtec)
    assert (found["ap"] is not None) == has_masks
    assert {results.record(name)["has_label"] for name in results.names} == {has_masks}


@pytest.mark.parametrize("protocol", ["bmad", "medianomaly"])
def test_benchmarks_judge_a_part_without_masks_by_what_the_release_says(tmp_path, protocol):
    intensity(trees.bmad_images(tmp_path / "set"), "test", tmp_path / "out")
    run(EVALUATE, f"--results {tmp_path / 'out'} --protocol {protocol}")
    found = read_json(tmp_path / "out" / "evaluation" / "summary.json")[protocol]
    study = open_study(tmp_path / "out", "saved")
    whole = {"bmad": np.max, "medianomaly": np.mean}[protocol]
    scores = [whole(study.load(name).anomaly_map) for name in study.names]
    diseased = [study.folder.record(name)["diseased"] for name in study.names]
    metrics = found["rows"][study.rows[0].name]
    image_level = metrics["image_auroc" if protocol == "bmad" else "image_auc"]["value"]
    assert image_level == pytest.approx(roc_auc_score(diseased, scores))
    assert found["counts"]["abnormal"] == sum(diseased) and found["counts"]["left_out_without_mask"] == 0
    assert all(values["value"] is None for name, values in metrics.items() if "image" not in name)


def test_a_lesion_that_its_mask_does_not_show_still_makes_an_image_diseased(tmp_path):
    root = trees.bmad(tmp_path / "set")
    for path in (root / "test" / "Ungood" / "label").iterdir():
        trees.blank(path)
    intensity(root, "test", tmp_path / "out")
    found = estimates(tmp_path / "out")
    assert found["image_auroc"] is not None and found["ap"] is None


def test_masks_given_later_must_not_contradict_the_release(tmp_path):
    intensity(trees.kermany(tmp_path / "OCT2017"), "test", tmp_path / "out")
    trees.mask(tmp_path / "masks" / "CNV-410-1.png")
    assert open_study(tmp_path / "out", "saved", tmp_path / "masks").load("CNV-410-1").label.sum() == 16
    trees.mask(tmp_path / "masks" / "NORMAL-400-1.png")
    with pytest.raises(InputError, match=r"NORMAL-400-1\.png\n    found:    16 lesion pixels, and the release calls"):
        open_study(tmp_path / "out", "saved", tmp_path / "masks").load("NORMAL-400-1")


def test_a_report_is_written_of_a_part_without_masks(tmp_path):
    intensity(trees.bmad_images(tmp_path / "set"), "test", tmp_path / "out")
    run(EVALUATE, f"--results {tmp_path / 'out'} --protocol clinical --bootstrap 2")
    rows = read_json(tmp_path / "out" / "evaluation" / "summary.json")["clinical"]["rows"]
    metrics = next(iter(rows.values()))["metrics"]
    assert metrics["image_auroc"]["value"] is not None and metrics["ap"]["reason"] == "no masks"


def test_results_of_diseased_images_are_no_healthy_ones(tmp_path):
    root = trees.bmad_images(tmp_path / "set")
    intensity(root, "test", tmp_path / "test")
    intensity(root, "train", tmp_path / "train")
    assert estimates(tmp_path / "test", tmp_path / "train")["image_auroc"] is not None
    with pytest.raises(InputError, match="an image that its release calls diseased"):
        estimates(tmp_path / "test", tmp_path / "test")


@pytest.mark.parametrize("kept", ["all", "maps"])
def test_an_image_is_known_under_the_name_that_a_part_of_a_release_gives_it(tmp_path, kept):
    """The part test of a release has images twice by name, which its folder test/good alone has not."""
    read = f"--method intensity {READING} --save {kept}"
    root = trees.mvtec(tmp_path / "set")
    run(TRIVIAL, f"{read} --data_dir {root} --split test --out_dir {tmp_path / 'part'}")
    run(TRIVIAL, f"{read} --data_dir {root / 'test' / 'good'} --out_dir {tmp_path / 'good'}")
    run(TRIVIAL, f"{read} --data_dir {root / 'train' / 'good'} --out_dir {tmp_path / 'other'}")
    words = f"--results {tmp_path / 'part'} --protocol clinical --bootstrap 0 --viewer_cases 0"
    for flag in ("--healthy", "--calibration"):
        with pytest.raises(InputError, match=r"2 images that are in .*part, too: 000 is good_000 there"):
            run(EVALUATE, f"{words} {flag} {tmp_path / 'good'}")
        run(EVALUATE, f"{words} {flag} {tmp_path / 'other'}")


def test_the_result_folder_says_which_part_it_is_of(tmp_path, monkeypatch):
    root = trees.mvtec(tmp_path / "bottle")
    monkeypatch.chdir(tmp_path)
    run(TRIVIAL, f"--method intensity {READING} --data_dir {root} --split test --layout mvtec")
    stated = read_json(tmp_path / "results" / "intensity_bottle_test" / "run.json")
    assert (stated["data_dir"], stated["split"], stated["layout"]) == (str(root), "test", "mvtec")


def test_components_are_fitted_to_the_part_for_training(tmp_path):
    root = trees.kermany(tmp_path / "OCT")
    words = f"--components 1 --model_path {tmp_path / 'pca.pt'} --data_dir {root} --train_dir {root}"
    run(TRIVIAL, f"--method pca {READING} {words} --split test --out_dir {tmp_path / 'out'}")
    assert len(ResultFolder(tmp_path / "out").names) == 8


def test_both_stages_train_on_one_part_and_detection_reads_another(tmp_path, capsys):
    root, logs = trees.bmad(tmp_path / "Brain"), tmp_path / "logs"
    train = f"--data_dir {root} --split train --train_steps 1"
    run(STAGE1, f"{SMALL_STAGE1} --n_channels 1 --normalise joint {train} --log_dir {logs}")
    run(STAGE2, f"{SMALL_STAGE2} {train} --ae_load_dir {logs}")
    more = "--device cpu --workers 0"
    run(DETECT, f"--data_dir {root} --split val --ae_load_dir {logs} --out_dir {tmp_path / 'out'} {more}")
    assert len(ResultFolder(tmp_path / "out").names) == 5
    assert "layout bmad, part val: 2 healthy, 3 diseased" in capsys.readouterr().out


def test_trainings_refuse_what_is_not_for_training(tmp_path):
    root = trees.kermany(tmp_path / "OCT")
    words = f"--method anoddpm {READING} --data_dir {root} --log_dir {tmp_path / 'logs'} --batch_size 2 --check_data"
    run(TRAIN_BASELINE, f"{words} --split train")
    with pytest.raises(InputError, match="6 diseased images"):
        run(TRAIN_BASELINE, f"{words} --split test")
    with pytest.raises(InputError, match=r"--split\n    found:    trian, which is no file"):
        run(TRAIN_BASELINE, f"{words} --split trian")


def test_a_table_of_parts_is_still_one(tmp_path):
    root = trees.bmad(tmp_path / "Brain")
    (tmp_path / "split.csv").write_text("patient,part\n" + "".join(f"0000{i},train\n" for i in range(5)))
    folder = root / "train" / "good" / "img"
    words = f"--method anoddpm {READING} --data_dir {folder} --log_dir {tmp_path / 'logs'} --batch_size 2 --check_data"
    with pytest.raises(InputError, match="patient 00005, 1 slice"):
        run(TRAIN_BASELINE, f"{words} --split {tmp_path / 'split.csv'}")
