"""A validation that leaves groups out: no group on both sides, the same folders again, and numbers that add up."""

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import released_trees as trees
from commands import ROOT, SMALL_STAGE1, SMALL_STAGE2, module, run
from short_training import discs

from uad.data.preparing.folds import Fold, folds_of, groups_of, link_fold, random_parts
from uad.data.reading.formats import write_slice
from uad.data.reading.listing import list_folder
from uad.errors import InputError
from uad.files import write_json

COMMAND = "scripts/cross_validate.py"


@pytest.fixture
def data(tmp_path) -> Path:
    """Healthy slices of hospitals A and B, diseased ones of A, B and of C, which has no healthy ones."""
    for part, hospitals, seed in (("healthy", "AAABBB", 0), ("diseased", "AABBC", 1)):
        images, masks = discs(len(hospitals), 32, seed, lesion=part == "diseased")
        for i, (hospital, image) in enumerate(zip(hospitals, images.numpy(), strict=True)):
            name = f"{hospital}{i}_001.nii.gz"
            write_slice(tmp_path / part / name, image, np.diag([-2.0, -2.0, 3.0, 1.0]))
            if part == "diseased":
                write_slice(tmp_path / "diseased_labels" / name, masks[i].numpy()[None], np.eye(4))
    return tmp_path


def test_no_group_is_on_both_sides_and_every_slice_is_somewhere():
    healthy = {f"p{i}_{j}": f"p{i}" for i in range(7) for j in range(3)}
    diseased = {f"p{i}_9": f"p{i}" for i in range(4, 9)}
    parts = random_parts(healthy.values(), 3, seed=0)
    assert sorted(map(len, parts)) == [2, 2, 3]
    folds = folds_of(healthy, diseased, parts, ["a", "b", "c"])
    for fold in folds:
        trained = {healthy[name] for name in fold.train}
        assert trained.isdisjoint(fold.left_out) and {healthy[name] for name in fold.healthy} == set(fold.left_out)
        assert trained.isdisjoint(diseased[name] for name in fold.diseased)
        assert sorted((*fold.train, *fold.healthy)) == sorted(healthy)
        assert {"p7_9", "p8_9"} <= set(fold.diseased), "seen by no network"
    assert sorted(name for fold in folds for name in fold.healthy) == sorted(healthy)
    assert random_parts(healthy.values(), 3, seed=0) == parts != random_parts(healthy.values(), 3, seed=1)


def test_groups_are_patients_or_what_a_pattern_finds():
    names = ["TCGA_CS_4941_19960909_003", "TCGA_CS_4941_19970101_001", "TCGA_DU_0001_19960909_003"]
    assert list(groups_of(names, None).values()) == ["TCGA_CS_4941", "TCGA_CS_4941", "TCGA_DU_0001"]
    assert list(groups_of(names, re.compile("TCGA_([A-Z]+)")).values()) == ["CS", "CS", "DU"]
    assert list(groups_of(names, re.compile("CS|DU")).values()) == ["CS", "CS", "DU"]
    with pytest.raises(InputError, match="finds nothing in TCGA_CS"):
        groups_of(names, re.compile("XX"))


def test_impossible_folds_are_refused():
    with pytest.raises(InputError, match="at most 2, the number of groups"):
        random_parts(["a", "b", "b"], 3, seed=0)
    with pytest.raises(InputError, match="no slice for its part diseased"):
        folds_of({"a_1": "a", "b_1": "b"}, {"b_2": "b"}, [["a"], ["b"]], ["a", "b"])
    with pytest.raises(InputError, match="no slice for its part train"):
        folds_of({"a_1": "a"}, {"a_2": "a"}, [["a"]], ["a"])


def test_links_are_made_once_and_follow_a_change(data):
    healthy, diseased = list_folder(data / "healthy"), list_folder(data / "diseased")
    groups = [groups_of(each.slices, re.compile("^[ABC]")) for each in (healthy, diseased)]
    a, b = folds_of(*groups, [["A"], ["B"]], ["A", "B"])
    for fold in (a, b, b):
        link_fold(data / "fold", fold, healthy, diseased)
        found = list_folder(data / "fold" / "diseased")
        assert tuple(found.slices) == tuple(found.masks) == fold.diseased and not found.problems
        assert tuple(list_folder(data / "fold" / "train").slices) == fold.train


def test_masks_of_healthy_slices_come_along_and_what_is_wrong_is_refused(data):
    """So that a training refuses a lesion among them, as it does without folds."""
    script, words = (
        module(COMMAND),
        f"--healthy_dir {data / 'healthy'} --diseased_dir {data / 'diseased'} --group ^[AB] --stage1_flags=",
    )
    args = script.get_args_parser().parse_args([*words.split(), "--out", str(data / "cv")])
    for path in (data / "healthy").iterdir():
        write_slice(data / "healthy_labels" / path.name, np.zeros((32, 32), np.uint8), np.eye(4))
    (path,) = (data / "diseased").glob("C*")
    path.rename(data / f"diseased/B{path.name[1:]}")
    with pytest.raises(InputError, match=f"diseased_labels.*{path.name[:2]}"):
        script.plan_of(args)
    (data / "diseased_labels" / path.name).rename(data / f"diseased_labels/B{path.name[1:]}")
    script.plan_of(args)
    found = list_folder(data / "cv" / "folds" / "seed0" / "A" / "train")
    assert len(found.masks) == len(found.slices) == 3


def test_every_fold_is_trained_and_measured_and_the_summary_adds_up(data, tmp_path, monkeypatch):
    loaded = module(COMMAND)
    done = []

    def run_here(steps, *_) -> None:
        for step in steps:
            done.append(step.name)
            run(step.script.relative_to(ROOT).as_posix(), step.words)

    monkeypatch.setattr(loaded, "run_steps", run_here)
    train = "--dataset custom --n_channels 2 --normalise none --cache_dir none --batch_size 2 --train_steps 2"
    run(
        COMMAND,
        f"--healthy_dir {data / 'healthy'} --diseased_dir {data / 'diseased'} --out '{tmp_path / 'cv here'}' "
        f"--group '^([ABC])' --seeds 0 1 --stage1_flags '{SMALL_STAGE1} {train}' "
        f"--stage2_flags '{SMALL_STAGE2} --train_steps 2 --code_views 1 --batch_size 2' "
        f"--detection_flags '--device cpu --workers 0 --batch_size 4'",
    )
    assert len(done) == 2 * 2 * 5 and done[0] == "A, seed 0: stage 1"
    summary = json.loads((tmp_path / "cv here" / "summary.json").read_text())
    assert [(row["fold"], row["seed"], row["trained_on"], row["diseased"]) for row in summary["folds"]] == [
        ("A", 0, 3, 3), ("B", 0, 3, 3), ("A", 1, 3, 3), ("B", 1, 3, 3),
    ]  # fmt: skip
    for name, each in summary["means"].items():
        assert each["mean"] == pytest.approx(statistics.mean(row[name] for row in summary["folds"]))
        assert each["worst"] == min(each["folds"].values()) == each["folds"][each["worst_fold"]]
    assert set(summary["means"]) == {"ap_with_healthy", "best_dice_with_healthy", "image_auroc"}


def test_a_wrong_flag_of_a_later_command_is_told_before_the_first_one_trains(data, monkeypatch, capsys):
    loaded = module(COMMAND)
    monkeypatch.setattr(loaded, "run_steps", lambda *_: pytest.fail("begun"))
    words = f"--healthy_dir {data / 'healthy'} --diseased_dir {data / 'diseased'} --out {data / 'cv'} --folds 2 "
    parse = loaded.get_args_parser().parse_args
    with pytest.raises(SystemExit):
        loaded.main(parse([*words.split(), "--stage1_flags=--n_channels 2", "--detection_flags=--bach_size 4"]))
    said = capsys.readouterr().err
    assert "did you mean --batch_size?" in said and "latent_sample_anomaly.py --help lists the flags" in said
    with pytest.raises(InputError, match="--stage1_flags"):
        loaded.main(parse(words.split()))


def test_a_fold_without_masks_says_so_and_has_no_mean(tmp_path):
    script = module(COMMAND)
    folds = [Fold(name, (name,), ("c_1",), (f"{name}_1",), (f"{name}_2",)) for name in "AB"]
    plan = script.Plan(tmp_path, (0,), {0: folds}, "", "", "")
    none = {"value": None, "reason": "no masks"}
    rows = []
    for fold, ap in zip(folds, (none, {"value": 0.5}), strict=True):
        metrics = {"ap_with_healthy": ap, "best_dice_with_healthy": none, "image_auroc": {"value": 0.75}}
        folder = tmp_path / "results" / "seed0" / fold.name
        write_json(folder / "summary.json", {"clinical": {"rows": {"method": {"metrics": metrics}}}})
        rows.append(script.row_of(plan, 0, fold))
        script.write(tmp_path, rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["means"]) == ["image_auroc"]
    assert list(summary["folds"][0]["undefined"]) == ["ap_with_healthy", "best_dice_with_healthy"]
    text = (tmp_path / "summary.md").read_text()
    assert text.count("n/a (no masks)") == 3 and "0.500" in text


@pytest.mark.parametrize(
    ("left_out", "worst", "name"),
    [(["b", "a", "a", "b"], 0.4, "1of2, seed 1"), (["a", "b", "a", "b"], 0.55, "1of2")],
)
def test_the_worst_of_random_parts_is_one_part_not_a_mean_over_others(left_out, worst, name):
    """Parts of one number leave out other patients for every seed; groups leave out the same."""
    rows = [
        {"fold": fold, "seed": seed, "left_out": (part,), "image_auroc": value}
        for (seed, fold, value), part in zip(
            [(0, "1of2", 0.7), (0, "2of2", 0.6), (1, "1of2", 0.4), (1, "2of2", 0.9)], left_out, strict=True
        )
    ]
    found = module(COMMAND).means_of(rows)["image_auroc"]
    assert found["worst"] == pytest.approx(worst) and found["worst_fold"] == name
    assert found["mean"] == pytest.approx(0.65) and found["deviation"] == pytest.approx(0.0)


def test_a_table_of_patients_goes_to_every_command_that_reads_slices(data, tmp_path, monkeypatch):
    names = [path.name.removesuffix(".nii.gz") for part in ("healthy", "diseased") for path in (data / part).iterdir()]
    (tmp_path / "pat.csv").write_text("".join(f"{name},{name[:2]}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    script = module(COMMAND)
    folders = "--healthy_dir healthy --diseased_dir diseased --out cv"
    words = f"{folders} --folds 2 --seeds 0 --patients pat.csv --stage1_flags="
    plan = script.plan_of(script.get_args_parser().parse_args(words.split()))
    *reading, evaluation = script.steps_of(plan, 0, plan.folds[0][0])
    table = tmp_path / "cv" / "patients.csv"
    assert len(reading) == 4 and all(f"--patients {table}" in step.words for step in reading)
    for step in reading:
        step_module = module(step.script.relative_to(ROOT).as_posix())
        assert step_module.get_args_parser().parse_args(step.command[1:]).patients == str(table)
    assert "--patients" not in evaluation.words
    known = table.read_text()
    (tmp_path / "prepare_mri.json").write_text("{}")
    (tmp_path / "pat.csv").rename(tmp_path / "manifest.csv")
    table.unlink()
    args = script.get_args_parser().parse_args(words.replace(" --patients pat.csv", "").split())
    assert script.plan_of(args).patients == table and table.read_text() == known, "as a preparation leaves it"


def test_a_fold_is_not_continued_with_other_images(tmp_path):
    check_images, fold = module(COMMAND).check_images, Fold("A", ("A",), ("b_1", "b_2"), ("a_1",), ("a_2",))
    for _ in range(2):
        check_images(tmp_path / "A.json", fold, "files")
    with pytest.raises(InputError, match="replaced, added or removed"):
        check_images(tmp_path / "A.json", fold, "other files")
    with pytest.raises(InputError, match="2 images of train came or went since the fold was begun, such as b_1"):
        check_images(tmp_path / "A.json", fold._replace(train=("b_2", "b_3")), "files")


def test_folds_of_a_benchmark_are_of_its_train_part_and_the_diseased_of_test(tmp_path):
    root, loaded = trees.bmad(tmp_path / "Brain"), module(COMMAND)
    trees.blank(root / "train" / "good" / "label" / "00001_60.png")  # which some healthy images may have

    def plan(words: str):
        words = f"--stage1_flags= --out {tmp_path / 'cv'} {words}"
        return loaded.plan_of(loaded.get_args_parser().parse_args(words.split()))

    (fold, _) = plan(f"--data_dir {root} --folds 2 --seeds 0").folds[0]
    folder = tmp_path / "cv" / "folds" / "seed0" / fold.name
    assert len(list_folder(folder / "train").slices) == len(list_folder(folder / "healthy").slices) == 3
    assert not list_folder(folder / "train").problems and not list_folder(folder / "healthy").problems
    diseased = list_folder(folder / "diseased")
    assert list(diseased.slices) == list(diseased.masks) == ["00010_70", "00011_60", "00012_60"]
    with pytest.raises(InputError, match="one of the two ways"):
        plan(f"--data_dir {root} --healthy_dir {root}")
    with pytest.raises(InputError, match="--layout\n    found:    bmad, without --data_dir"):
        plan(f"--healthy_dir {root} --diseased_dir {root} --layout bmad")
    with pytest.raises(InputError, match="no image that the release calls diseased"):
        plan(f"--data_dir {trees.reflect(tmp_path / 'Data')} --contrast t1")
