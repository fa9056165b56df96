"""Calibration on healthy images, and the method by groups of images."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from commands import EVALUATE, run
from result_folders import AFFINE, SIZE, run_info, save, write_folder
from sklearn.metrics import average_precision_score, f1_score

from uad.errors import InputError
from uad.evaluation.attributes import NOT_STATED, read_attributes
from uad.evaluation.breakdown import breakdown, groups_of
from uad.evaluation.calibration import Calibration, calibrate, check_apart, realised
from uad.evaluation.clinical import evaluate
from uad.evaluation.contenders import SAVED
from uad.evaluation.study import method_alone, open_study
from uad.results import ResultWriter


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Diseased images of four patients, healthy ones of two, and healthy ones of three others."""
    root = tmp_path_factory.mktemp("results")
    folders = (
        write_folder(root / "diseased", save="maps"),
        write_folder(root / "healthy", patients=2, lesion=False, save="maps"),
        write_folder(root / "calibration", patients=3, first=2, lesion=False, save="maps"),
    )
    return tuple(method_alone(open_study(folder, "saved"), "planted") for folder in folders)


def maps(study) -> np.ndarray:
    return np.stack([study.folder.load(name).anomaly_map for name in study.names])


def test_p_values_by_hand():
    calibration = Calibration(np.array([1.0, 2.0, 2.0, 5.0]), {})
    expected = {0.5: 1.0, 2.0: 4 / 5, 3.0: 2 / 5, 5.0: 2 / 5, 6.0: 1 / 5}
    assert {score: calibration.p_value(score) for score in expected} == expected


def test_p_values_of_exchangeable_scores_are_valid():
    """P(p <= a) <= a, and no less than a - 1 / (n + 1), for every a."""
    scores = np.random.default_rng(0).normal(size=(4000, 20))
    p_values = np.array([Calibration(np.sort(row[1:]), {}).p_value(row[0]) for row in scores])
    for rate in (0.05, 0.1, 0.5):
        assert rate - 0.015 < (p_values <= rate).mean() < rate + 0.015


def test_thresholds_are_the_lowest_with_the_nominal_rate(studies):
    found = calibrate(studies[2])["planted"]
    scores = maps(studies[2])
    for rate, threshold in found.thresholds.items():
        assert (
            (scores >= threshold).mean()
            <= rate
            < (scores >= np.nextafter(np.float32(threshold), np.float32(-1))).mean()
        )
    assert len(found.scores) == len(studies[2].names) and (np.diff(found.scores) >= 0).all()


def test_realised_rates_are_those_of_the_healthy_test_images(studies):
    calibrations = calibrate(studies[2])
    found = realised(studies[1], calibrations, 200, 0)["planted"]
    scores = maps(studies[1])
    for rate, threshold in calibrations["planted"].thresholds.items():
        estimate = found.pixels[rate]
        assert estimate.value == pytest.approx((scores >= threshold).mean(), abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high
        each = [(part >= threshold).mean() for part in scores.reshape(2, -1)]  # of two patients
        assert (estimate.low, estimate.high) == (pytest.approx(min(each)), pytest.approx(max(each)))
    row = studies[1].rows[0]
    found_maps = [row.map(studies[1].load(name)) for name in studies[1].names]
    p_values = np.array([calibrations["planted"].p_value(row.image_score(each)) for each in found_maps])
    for rate, estimate in found.images.items():
        assert estimate.value == (p_values <= rate).mean()
    own = realised(studies[2], calibrations, 0, 0)["planted"]
    assert all(own.pixels[rate].value <= rate for rate in own.pixels)


def test_calibration_patients_must_be_others(studies):
    check_apart(studies[2], *studies[:2])
    with pytest.raises(InputError, match=r"2 patients of .*healthy0 for instance"):
        check_apart(studies[1], studies[0], studies[1])


def table(tmp_path, text):
    path = tmp_path / "meta.csv"
    path.write_text(text)
    return path


def test_groups_and_their_numbers(studies, tmp_path):
    """AP and best Dice of a group are scikit-learn's on its pixels."""
    study, healthy, _ = studies
    clinical = evaluate(study, healthy, 0, 0)
    lines = "".join(f"diseased{n},{'ab'[n % 2]}\n" for n in range(4)) + "healthy0,a\nhealthy1,\n"
    attributes = read_attributes(table(tmp_path, "patient,scanner\n" + lines))
    groups = [group for group in groups_of(clinical, attributes) if group.column == "scanner"]
    assert [(g.value, len(g.scored), len(g.healthy)) for g in groups] == [("a", 4, 2), ("b", 4, 0), (NOT_STATED, 0, 2)]
    threshold = clinical.rows["planted"].thresholds["fpr1%"]
    numbers = breakdown(study, healthy, clinical, groups, threshold)
    results = [study.folder.load(study.names[place]) for place in sorted(groups[0].scored)]
    labels = np.stack([result.label for result in results]).ravel()
    scores = np.stack([result.anomaly_map for result in results]).ravel()
    assert numbers[0].ap.value == pytest.approx(average_precision_score(labels, scores), abs=1e-4)
    best = max(f1_score(labels, scores >= each) for each in np.quantile(scores, np.linspace(0.9, 1, 30)))
    assert best <= numbers[0].best_dice.value + 1e-4
    of_healthy = maps(healthy)[sorted(groups[0].healthy)]
    assert numbers[0].false_positive_rate.value == pytest.approx((of_healthy >= threshold).mean(), abs=1e-3)
    assert numbers[1].image_auroc.reason == numbers[1].false_positive_rate.reason == "no healthy images"
    assert numbers[2].ap.reason == "no lesion"


def test_groups_take_from_a_release_who_is_diseased(tmp_path):
    """Without masks; the numbers are scikit-learn's."""
    scores = {"p1": 4.0, "p2": 1.0, "p3": 2.0, "p4": 3.0}
    writer = ResultWriter(tmp_path / "run", run_info())
    for name, score in scores.items():
        image, found = np.zeros((1, SIZE, SIZE), np.float32), np.full((SIZE, SIZE), score, np.float32)
        save(writer, name, name, AFFINE, image, image, found, record={"diseased": float(name in ("p1", "p2"))})
    study = open_study(tmp_path / "run", SAVED)
    attributes = read_attributes(table(tmp_path, "name,scanner\n" + "".join(f"{name},a\n" for name in scores)))
    clinical = evaluate(study, None, 0, 0)
    groups = groups_of(clinical, attributes)
    assert breakdown(study, None, clinical, groups, None)[0].image_auroc.value == 0.5
    first = [replace(groups[0], scored=frozenset([2, 3]))]
    assert breakdown(study, None, clinical, first, None)[0].image_auroc.reason == "no diseased images"


def test_a_table_of_other_images_is_refused_before_anything_is_measured(studies, tmp_path):
    text = "name,scanner\nother,a\n"
    words = f"--results {studies[0].folder.folder} --out {tmp_path / 'out'}"
    with pytest.raises(InputError, match="none of the images"):
        run(EVALUATE, f"{words} --meta {table(tmp_path, text)}")
    assert not (tmp_path / "out").exists()


def test_groups_by_lesion_size_hold_every_image_with_a_lesion_once(studies):
    study, healthy, _ = studies
    groups = groups_of(evaluate(study, healthy, 0, 0), None)
    assert sorted(place for group in groups for place in group.scored) == list(range(8))
    assert all(group.healthy == frozenset(range(4)) for group in groups)


def test_many_numbers_become_quartiles_and_few_do_not(tmp_path):
    many = read_attributes(table(tmp_path, "name,age\n" + "".join(f"p{n}_0,{n}\n" for n in range(12))))
    images = [(f"p{n}_0", f"p{n}") for n in range(13)]
    found = many.groups("age", images)
    assert found[:4] == ["0 to 2"] * 3 + ["3 to 5"] and found[-2:] == ["9 to 11", NOT_STATED]
    lines = "".join(f"p{n}_0,{n}\n" for n in range(11)) + "p11_0,nan\np12_0,unknown\n"
    words = read_attributes(table(tmp_path, "name,age\n" + lines)).groups("age", images)
    assert words[:4] == ["0 to 2"] * 3 + ["3 to 5"] and words[-2:] == ["nan", "unknown"]
    few = read_attributes(table(tmp_path, "name,age\n" + "".join(f"p{n},{n % 8}\n" for n in range(12))))
    assert few.groups("age", images)[:2] == ["0", "1"], "a scan names its slices"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,age\na,1\n", "columns subject, age"),
        ("patient\na\n", "columns patient"),
        ("patient,age\na,1\na,2\n", "line 3\n.*a a second time"),
        ("patient,age\n,1\n", "no patient"),
        ("patient,age\na,1,2\n", "more cells"),
        ("patient,age\n", "no line"),
        ("patient,age,age\na,1,2\n", "several columns age"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_attributes(table(tmp_path, text))


def test_the_command_writes_p_values_rates_and_groups(studies, tmp_path, capsys):
    diseased, healthy, calibration = (study.folder.folder for study in studies)
    meta = table(tmp_path, "patient,site\ndiseased0,x\ndiseased1,y\nhealthy0,x\n")
    words = f"--results {diseased} --healthy {healthy} --protocol clinical --bootstrap 5 --out {tmp_path / 'out'}"
    run(EVALUATE, f"{words} --calibration {calibration} --meta {meta}")
    printed = capsys.readouterr().out
    assert "nominal FPR" in printed and "site: x" in printed and "lesion pixels of an image" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "per_image.csv").open()))
    assert all(0 < float(row["p_value"]) <= 1 for row in rows)
    lesions = [float(row["p_value"]) for row in rows if row["folder"] == "scored" and row["method"] == "planted"]
    assert lesions == pytest.approx([1 / 7] * 8), "of six images none is as high"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["calibration"] == str(calibration) and summary["calibrations"]["planted"]["images"] == 6
    assert {(group["column"], group["value"]) for group in summary["groups"]} >= {("site", "x"), ("site", "y")}
    with pytest.raises(InputError, match=r"--meta(.|\n)*--protocol bmad"):
        run(EVALUATE, f"--results {diseased} --protocol bmad --meta {meta}")
    others = table(tmp_path, "patient,site\nq,x\n")
    with pytest.raises(InputError, match="none of the images"):
        run(EVALUATE, f"{words} --meta {others}")


def test_every_table_says_how_masks_images_and_thresholds_came_to_be(tmp_path):
    """All tables of an evaluation whose numbers depend on them; differences stand below their own tables."""
    folders = {
        "results": write_folder(tmp_path / "diseased"),
        "healthy": write_folder(tmp_path / "healthy", patients=2, lesion=False),
        "calibration": write_folder(tmp_path / "calibration", patients=3, first=2, lesion=False),
    }
    words = " ".join(f"--{name} {folder}" for name, folder in folders.items())
    run(EVALUATE, f"{words} --bootstrap 4 --viewer_cases 0 --out {tmp_path / 'out'}")
    tables = (tmp_path / "out" / "tables.md").read_text().split("### ")[1:]
    titles = {table.splitlines()[0].split(",")[0] for table in tables}
    assert {"Detection", "Calibration", "At thresholds from healthy images", "By groups of images"} <= titles
    for table in tables:
        if not table.startswith(("Difference", "Reconstruction")):
            assert table.startswith("Calibration") or "Masks: lesion where the label is above 0" in table
            assert "image AUROC" not in table or "Image score: mean of the highest" in table
            assert "best Dice" not in table or "est Dice chooses its" in table
    assert all("label chose" in table for table in tables if table.startswith(("At thresholds", "Paper")))
