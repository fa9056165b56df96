"""scripts/compare.py: one table of several methods, on the same images or not at all."""

import csv
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commands import module, run
from result_folders import AFFINE, run_info, save, slice_with_lesion, write_folder

from uad.data.reading.normalise import CONTRASTED
from uad.errors import InputError
from uad.evaluation.comparison import Cost, check_same_images, cost_of, latex, method_names, notices_on
from uad.evaluation.study import open_study
from uad.evaluation.tables import Table
from uad.results import ResultWriter
from uad.suited import suited_to

COMPARE = "scripts/compare.py"


def write_method(folder, method: str, strength: float, records=({},), lesion=True, shift=0.0, **run):
    """A result folder whose map is the lesion, times `strength`, under the same noise for every method."""
    generator, noise = np.random.default_rng(5 + lesion), np.random.default_rng(9)
    writer = ResultWriter(folder, run_info(method=method, **run))
    for number in range(6):
        image, reconstruction, label = slice_with_lesion(generator, lesion)
        image = np.clip(image + shift, 0, 1)
        scores = (strength * label + noise.random(label.shape)).astype(np.float32)
        name = f"{'diseased' if lesion else 'healthy'}{number // 2}_{number % 2:03d}"
        record = records[number % len(records)]
        arrays = image, reconstruction, scores, label
        save(writer, name, name.rsplit("_", 1)[0], AFFINE, *arrays, record=record)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Result folders of a strong and a weak method, diseased and healthy."""
    root = tmp_path_factory.mktemp("results")
    costs = [{"seconds": 0.5, "network_evaluations": 7}, {"seconds": 1.5, "network_evaluations": 9}]
    peaks = [costs[0] | {"peak_memory_mib": 100}, costs[1] | {"peak_memory_mib": 300}]
    return {
        "strong": write_method(root / "strong", "strong", 1.0, peaks, parameters=1234567),
        "weak": write_method(root / "weak", "weak", 0.2),
        "strong_healthy": write_method(root / "sh", "strong", 1.0, lesion=False, parameters=1234567),
        "weak_healthy": write_method(root / "wh", "weak", 0.2, lesion=False),
    }


def test_one_table_and_one_figure_of_all_methods(folders, tmp_path):
    results = f"{folders['strong']} {folders['weak']}"
    healthy = f"{folders['strong_healthy']} {folders['weak_healthy']}"
    run(COMPARE, f"--results {results} --healthy {healthy} --out {tmp_path} --bootstrap 30")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [f"comparison.{end}" for end in ("csv", "md", "pdf", "png", "tex")] + [
        "report.html",
        "summary.json",
    ]
    strong, weak = csv.DictReader((tmp_path / "comparison.csv").open())
    assert float(strong["ap"]) > float(weak["ap"]) + 0.3
    assert float(strong["ap_low"]) <= float(strong["ap"]) <= float(strong["ap_high"])
    assert float(weak["difference_ap"]) == pytest.approx(float(strong["ap"]) - float(weak["ap"]))
    assert float(weak["difference_ap_low"]) > 0
    assert (strong["parameters"], strong["seconds"], strong["peak_memory_mib"]) == ("1234567", "1.0", "300.0")
    assert weak["parameters"] == ""
    text = (tmp_path / "comparison.md").read_text()
    assert "1,234,567" in text and "n/a (not recorded)" in text and "strong - weak" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["methods"]["strong"]["clinical"]["counts"]["healthy_images"] == 6
    assert summary["methods"]["weak"]["healthy_run"]["method"] == "weak"
    for metric in ("ap", "ap_with_healthy"):
        values = {name: each["clinical"]["rows"][name]["metrics"] for name, each in summary["methods"].items()}
        expected = values["strong"][metric]["value"] - values["weak"][metric]["value"]
        assert summary["differences"]["strong - weak"][metric]["value"] == pytest.approx(expected)
        assert float(weak[f"difference_{metric}"]) == pytest.approx(expected)
    assert "Comparison, scored images (6)" in text and "Comparison, with the healthy images (6 + 6)" in text
    assert summary["methods"]["weak"]["cost"]["seconds"] == "not recorded"


def test_what_can_be_of_one_method_is_of_the_best_and_says_so(folders, tmp_path):
    """Also where another one is named first: figures on top, best and worst case, the order of cases, the picture."""
    healthy = f"{folders['weak_healthy']} {folders['strong_healthy']}"
    run(COMPARE, f"--results {folders['weak']} {folders['strong']} --healthy {healthy} --out {tmp_path} --bootstrap 20")
    page = (tmp_path / "report.html").read_text()
    _, strong = csv.DictReader((tmp_path / "comparison.csv").open())
    assert strong["method"] == "strong" and "strong, the method with the highest AP: its figures" in page
    for metric in ("ap", "best_dice", "auroc", "image_auroc"):
        assert f"<div class='number'>{float(strong[metric]):.3f}</div>" in page
        assert f"[{float(strong[f'{metric}_low']):.3f}, {float(strong[f'{metric}_high']):.3f}]</div>" in page
    index = json.loads(re.search('id="index">(.*?)</script>', page)[1])
    assert index["methods"][index["leading"]]["name"] == "strong"
    by_strong = [case["numbers"][1]["ap"] for case in index["cases"] if "ap" in case["numbers"][1]]
    assert by_strong[:2] == [max(by_strong), min(by_strong)]
    assert f"<strong>Best case of strong</strong> AP {max(by_strong):.3f}, lesion of 64 pixels" in page
    assert "chosen by the numbers of strong" in page and "Weak minus strong, AP: the difference is -0." in page


def test_a_method_compared_with_itself_differs_by_exactly_nothing(folders, tmp_path):
    again = write_method(tmp_path / "again$_$1", "strong", 1.0)
    run(COMPARE, f"--results {folders['strong']} {again} --out {tmp_path / 'out'} --bootstrap 20")
    first, second = csv.DictReader((tmp_path / "out" / "comparison.csv").open())
    assert (first["method"], second["method"]) == ("strong (strong)", "strong (again$_$1)")
    assert first["ap"] == second["ap"]
    for key in ("difference_ap", "difference_ap_low", "difference_ap_high", "difference_auroc_high"):
        assert float(second[key]) == 0


def test_different_image_sets_are_refused(folders, tmp_path):
    studies = {name: open_study(folders[name], "saved") for name in ("strong", "weak")}
    check_same_images(list(studies.values()))
    other = write_folder(tmp_path / "other", patients=5)
    with pytest.raises(InputError, match="are others, e"):
        run(COMPARE, f"--results {folders['strong']} {other} --out {tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    for change, found in (
        ({"shift": 0.1}, "another image"),
        ({"img_size": 64}, "img_size"),
        ({"normalise": "joint"}, "normalise"),
        ({"match_contrast": True}, "match_contrast"),
    ):
        folder = write_method(tmp_path / found.replace(" ", "_"), "changed", 1.0, **change)
        with pytest.raises(InputError, match=found):
            check_same_images([studies["strong"], open_study(folder, "saved")])
    one, two = (
        write_method(tmp_path / name, name, 1.0, shift=shift, match_contrast=True, matched_to=[[shift]])
        for name, shift in (("one", 0.1), ("two", 0.125))
    )
    check_same_images([open_study(one, "saved"), open_study(two, "saved")])  # of different training images
    far = write_method(tmp_path / "far", "far", 1.0, shift=0.3, match_contrast=True, matched_to=[[0.3]])
    with pytest.raises(InputError, match="another image"):
        check_same_images([open_study(one, "saved"), open_study(far, "saved")])
    assert not notices_on(list(studies.values()))
    run(COMPARE, f"--results {one} {two} --out {tmp_path / 'matched'} --bootstrap 0")
    (said,) = json.loads((tmp_path / "matched" / "summary.json").read_text())["notices"]
    assert said.startswith(f"{two} and {one} were matched to the contrast of different")
    assert "differ by up to 0.025." in said
    assert said in (tmp_path / "matched" / "comparison.md").read_text()
    masks = write_method(tmp_path / "masks", "changed", 1.0)
    (masks / "label" / "diseased0_000.nii.gz").unlink()
    (masks / "label" / "diseased0_001.nii.gz").rename(masks / "label" / "diseased0_000.nii.gz")
    (masks / "label" / "diseased0_001.nii.gz").write_bytes((masks / "label" / "diseased1_000.nii.gz").read_bytes())
    with pytest.raises(InputError, match="another mask"):
        check_same_images([studies["strong"], open_study(masks, "saved")])


def test_healthy_folders_are_checked_too(folders, tmp_path):
    results = f"--results {folders['strong']} {folders['weak']} --out {tmp_path}"
    with pytest.raises(InputError, match="one for each"):
        run(COMPARE, f"{results} --healthy {folders['strong_healthy']}")
    with pytest.raises(InputError, match="method"):
        run(COMPARE, f"{results} --healthy {folders['weak_healthy']} {folders['strong_healthy']}")


def test_costs_that_some_images_lack_are_refused(tmp_path):
    folder = write_method(tmp_path / "part", "part", 1.0, [{"seconds": 1.0}, {}])
    assert cost_of(open_study(folder, "saved")) == Cost(
        *["not recorded"] * 2, "recorded for 3 images only", "not recorded"
    )


def test_two_folders_that_cannot_be_told_apart_are_refused(folders):
    study = open_study(folders["strong"], "saved")
    with pytest.raises(InputError, match="same method"):
        method_names([study, study])


def test_runs_of_one_method_are_told_apart_by_the_part_of_their_paths_that_differs(tmp_path):
    studies = [open_study(write_method(tmp_path / seed / "val", "ours", 0.2), "saved") for seed in ("seed1", "seed2")]
    other = open_study(write_method(tmp_path / "other" / "val", "theirs", 0.2), "saved")
    assert method_names([studies[0], other, studies[1]]) == ["ours (seed1)", "theirs", "ours (seed2)"]


def test_latex_escapes_what_is_special():
    text = latex(Table("Title", ["a_b", "50 %"], [["x & y", "{1}"]]))
    assert r"a\_b & 50 \% \\" in text and r"x \& y & \{1\} \\" in text
    assert text.count(r"\\") == 2 and r"\begin{tabular}{lr}" in text


@pytest.mark.parametrize("dataset", ["brats", "OCT"])
def test_every_step_of_the_demonstration_is_a_command_that_exists(dataset):
    demo = module("scripts/compare_demo.py")
    steps = demo.steps_of(dataset, 5)
    for step in steps:
        module(step.command[0]).get_args_parser().parse_args(shlex.split(step.words))
    matched = suited_to(dataset).normalise == CONTRASTED
    others = [step.words for step in steps if step.command[0].startswith("scripts/sample_")]
    assert others and {"--match_contrast" in words for words in others} == {matched}
    results = shlex.split(steps[-1].words)
    assert {method for method, *_ in demo.VARIANTS.values()} == demo.TRAINING.keys()
    # --results, ours, the variants of the comparing methods, five trivial ones
    assert results.index("--healthy") == 1 + 1 + len(demo.VARIANTS) + 5


@pytest.mark.parametrize("script", [COMPARE, "scripts/sample_trivial.py", "scripts/compare_demo.py"])
def test_help_names_every_flag_with_its_default(script, capsys):
    with pytest.raises(SystemExit):
        module(script).get_args_parser().parse_args(["--help"])
    assert capsys.readouterr().out
    for action in module(script).get_args_parser()._actions:
        if action.option_strings and action.help != "==SUPPRESS==" and "--help" not in action.option_strings:
            assert "(default:" in action.help, action.option_strings


def test_methods_of_which_only_maps_were_kept_are_compared(folders, tmp_path):
    """Names, sizes and masks have to be alike there; the picture takes the inputs from a folder that holds them."""
    maps, more = (write_method(tmp_path / name, name, 0.2, save="maps") for name in ("maps", "more"))
    for other in (folders["strong"], more):
        out = tmp_path / f"with_{other.name}"
        run(COMPARE, f"--results {maps} {other} --out {out} --bootstrap 20")
        assert (out / "comparison.png").is_file()


def test_what_makes_a_comparison_unfair_or_wrong_is_said(folders, tmp_path):
    """Maps of which only one method's were compared with the other side, files that differ behind maps alone, and an
    image that is diseased and healthy.
    """
    sides = write_method(tmp_path / "sides", "sides", 1.0, compare_sides=True)
    (said,) = notices_on([open_study(folders["strong"], "saved"), open_study(sides, "saved")])
    assert "other values of --compare_sides: True and None" in said
    studies = [
        SimpleNamespace(folder=SimpleNamespace(folder=name, has_inputs=name == "a", run={"data_hash": name}))
        for name in "ab"
    ]
    (said,) = notices_on(studies)
    assert said.startswith("b and a are of files that differ, and inputs were not kept")
    copy = shutil.copytree(folders["strong"], tmp_path / "copy", ignore=shutil.ignore_patterns("label"))
    for path in (copy / "records").iterdir():
        path.write_text(path.read_text().replace('"has_label": true', '"has_label": false'))
    with pytest.raises(InputError, match=r"images that are in .*strong, too"):
        run(COMPARE, f"--results {folders['strong']} --healthy {copy} --out {tmp_path / 'out'} --bootstrap 0")
