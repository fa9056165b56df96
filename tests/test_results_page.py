"""docs/RESULTS.md is what its summaries give, and docs/render_results.py makes it so."""

import json

import pytest
from commands import ROOT, module, run
from result_folders import write_folder

from uad.errors import InputError
from uad.files import read_json, write_json

EVALUATE, COMPARE = "scripts/evaluation.py", "scripts/compare.py"
PAGE = module("docs/render_results.py")
STAGES = {
    "autoencoder": {"step": 600, "weights_hash": "0123abcd", "command": "train_ae_dist.py --data_dir 'a folder'"},
    "model": {"step": 1000, "weights_hash": "4567cdef", "command": "latent_train.py --seed 0 " + "--flag value " * 20},
}
VERSIONS = {"processor": "A processor", "python": "3.12.1", "torch": "2.7.0", "commit": "abcdef"}


def write_run(folder, **changes):
    """A result folder whose run.json says everything that the page shows."""
    stages = {"versions": VERSIONS, "command": "latent_sample_anomaly.py --data_dir x", **STAGES}
    write_folder(folder, patients=3, slices=1, **changes)
    write_json(folder / "run.json", read_json(folder / "run.json") | stages)
    return folder


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """summary.json of an evaluation, of one without healthy images, and of a comparison."""
    root = tmp_path_factory.mktemp("runs")
    healthy = [write_run(root / f"healthy_{name}", lesion=False, method=name) for name in ("first", "second")]
    runs = [write_run(root / name, method=name) for name in ("first", "second")]
    folders = f"--results {runs[0]} {runs[1]} --healthy {healthy[0]} {healthy[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evaluation.py", "--results", "runs/a folder"])  # what the summaries record
        run(EVALUATE, f"--results {runs[0]} --healthy {healthy[0]} --out {root / 'evaluation'} --bootstrap 20")
        run(EVALUATE, f"--results {runs[0]} --out {root / 'alone'} --bootstrap 20 --protocol clinical")
        run(COMPARE, f"{folders} --out {root / 'comparison'} --bootstrap 20")
    return {name: root / name / "summary.json" for name in ("evaluation", "alone", "comparison")}


def test_the_page_is_what_the_summaries_give():
    results, readme = ROOT / "docs" / "results", ROOT / "README.md"
    assert PAGE.difference(ROOT / "docs" / "RESULTS.md", PAGE.render(results)) is None
    assert PAGE.difference(readme, PAGE.first_page(readme.read_text(encoding="utf-8"), results)) is None


def test_no_study_gives_a_page_that_says_so(tmp_path):
    assert PAGE.NONE in PAGE.render(tmp_path)


def test_every_figure_is_that_of_the_summary(summaries, tmp_path):
    PAGE.take_in(tmp_path, summaries["evaluation"], "study", "Seed 0", ["autoencoder alone"])
    page = PAGE.render(tmp_path)
    clinical = json.loads(summaries["evaluation"].read_text())["clinical"]
    for row in ("first", "autoencoder alone"):
        for metric in ("auroc", "ap", "best_dice", "image_auroc", "ap_with_healthy"):
            found = clinical["rows"][row]["metrics"][metric]
            assert f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in page
    found = clinical["differences"]["first - autoencoder alone"]["ap_with_healthy"]
    assert f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" in page
    lines = [" ".join(line.replace("|", " ").split()) for line in page.splitlines()]
    assert any(line.startswith("Seed 0 3 3 0.0625 ") for line in lines)
    assert any(line.startswith("Seed 0, autoencoder alone 3 + 3 6 0.0312 ") for line in lines)
    for text in ("weights 0123abcd", "weights 4567cdef", "A processor", "torch 2.7.0", "--data_dir 'a folder'"):
        assert page.count(text) == 1
    assert (
        page.count("latent_sample_anomaly.py") == 2
        and "# evaluation\npython evaluation.py --results 'runs/a folder'" in page
    )
    assert max(map(len, page.split("```")[1].splitlines())) <= 120


def test_a_run_without_healthy_images_has_one_table(summaries, tmp_path):
    PAGE.take_in(tmp_path, summaries["alone"], "study", "alone", [])
    page = PAGE.render(tmp_path)
    assert page.count("### Counting the images of --results") == 1
    assert "n/a (no healthy images)" in page and "and the healthy images" not in page


def test_a_comparison_has_a_line_and_commands_for_each_method(summaries, tmp_path):
    PAGE.take_in(tmp_path, summaries["comparison"], "study", "comparison", [])
    study = tmp_path / "study" / "study.json"
    content = json.loads(study.read_text())
    assert [entry["label"] for entry in content["rows"]] == ["first", "second"]
    study.write_text(json.dumps(content | {"columns": ["ap", "parameters", "seconds"]}))
    page = PAGE.render(tmp_path)
    assert "**first**" in page and "**second**" in page and "first - second" in page
    assert "n/a (not recorded)" in page


def test_what_is_taken_in_twice_keeps_its_labels_and_stays_small(summaries, tmp_path):
    PAGE.take_in(tmp_path, summaries["evaluation"], "study", "Seed 0", [])
    study = tmp_path / "study" / "study.json"
    study.write_text(study.read_text().replace('"Seed 0"', '"another label"'))
    PAGE.take_in(tmp_path, summaries["evaluation"], "study", "Seed 0", ["autoencoder alone"])
    labels = [entry["label"] for entry in json.loads(study.read_text())["rows"]]
    assert labels == ["another label", "Seed 0, autoencoder alone"]
    assert (tmp_path / "study" / "seed-0.json").stat().st_size < 40_000


@pytest.mark.parametrize("key", ["versions.processor", "model.command", "command"])
def test_a_missing_key_is_named_with_its_file(summaries, tmp_path, key):
    source = tmp_path / "summary.json"
    summary = json.loads(summaries["evaluation"].read_text())
    *path, last = key.split(".")
    part = summary["run"]
    for step in path:
        part = part[step]
    del part[last]
    source.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=f"(?s){source}.*no key run.{key}"):
        PAGE.take_in(tmp_path / "results", source, "study", "label", [])
    assert not (tmp_path / "results").exists()


def test_unknown_columns_and_rows_are_named(summaries, tmp_path):
    with pytest.raises(InputError, match=r"no key clinical\.rows\.nothing"):
        PAGE.take_in(tmp_path, summaries["evaluation"], "study", "label", ["nothing"])
    PAGE.take_in(tmp_path, summaries["evaluation"], "study", "label", [])
    study = tmp_path / "study" / "study.json"
    study.write_text(study.read_text().replace('"auroc"', '"accuracy"'))
    with pytest.raises(InputError, match=r"(?s)study.json.*column 'accuracy'"):
        PAGE.render(tmp_path)


def test_the_command_checks_the_page(summaries, tmp_path, monkeypatch):
    monkeypatch.setattr(PAGE, "DOCS", tmp_path / "docs")
    readme = tmp_path / "README.md"
    readme.write_text("Head\n<!-- results of study: ap -->\n<!-- end of results -->\nFoot\n")
    run("docs/render_results.py", f"--add {summaries['evaluation']} --study study --label 'seed 0'")
    with pytest.raises(SystemExit) as same:
        run("docs/render_results.py", "--check")
    page = tmp_path / "docs" / "RESULTS.md"
    ap = json.loads(summaries["evaluation"].read_text())["clinical"]["rows"]["first"]["metrics"]["ap"]["value"]
    assert f"| {ap:.3f} [" in readme.read_text() and readme.read_text().endswith("<!-- end of results -->\nFoot\n")
    page.write_text(page.read_text().replace("seed 0", "seed 1"))
    with pytest.raises(SystemExit) as other:
        run("docs/render_results.py", "--check")
    assert same.value.code is None and "-| seed 1" in other.value.code and "+| seed 0" in other.value.code
