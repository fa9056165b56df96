"""The page of scans without a model: what it says of records, and what its viewer keeps from case to case."""

import json
import re

import numpy as np
import pytest
from browser import look_at, needs_browser

from uad.application.page import write_scans_page
from uad.application.showing import case_name
from uad.application.writing import read_records, record_path
from uad.files import write_json, write_text
from uad.report.viewer import CASES, case_script
from uad.report.volumes import Seen, pack_scan

LPS = ((2, False), (1, False), (0, False))


def write_record(out, name: str, **changes) -> None:
    """The record of a scan with a threshold of 0.25, beside 12 healthy patients."""
    record = {
        "name": name, "score": 0.5, "percentile": 75.0, "healthy_patients": 12, "anomalous_ml": 1.5,
        "anomalous_voxels": 3, "threshold": 0.25, "false_positive_rate": 0.01, "slice_of_maximum": 0,
        "voxel_of_maximum": [0, 1, 2], "slices": 9, "judged_slices": [0], "median": 0, "notices": [],
    }  # fmt: skip
    write_json(record_path(out, name), record | changes)


def write_input(
    out, name: str, slices: bool = False, threshold: float | None = 0.25, height: float = 1.0
) -> np.ndarray:
    """Record and pictures of an input whose map, which is returned, rises to `height`; (4, 5, 6) or (1, 5, 6)."""
    maps = np.linspace(0, height, 30 if slices else 120, dtype=np.float32).reshape(-1, 5, 6)
    axes, ml = (None, None) if slices else (LPS, 0.5)
    images = np.ones((1, *maps.shape), np.float32)
    content = pack_scan(Seen(maps, images, images, (1.0, 1.0, 1.0), threshold, ml, axes))
    write_text(out / CASES / case_name(name), case_script(case_name(name), content))
    none = dict.fromkeys(("percentile", "healthy_patients", "anomalous_voxels", "anomalous_ml", "false_positive_rate"))
    changes = {"threshold": threshold, "voxel_of_maximum": [4, 5] if slices else [5, 4, 3]}
    changes |= {"anomalous_ml": None} if slices else {}
    write_record(out, name, **changes | ({} if threshold else none))
    return maps


def page_of(out) -> str:
    return write_scans_page(out, read_records(out), ("t1",), 0, {}).read_text(encoding="utf-8")


def answer_in(page: str) -> str:
    return re.search('<p class="answer">(.*?)</p>', page)[1]


def test_the_first_of_the_table_is_not_said_to_have_the_highest_score(tmp_path):
    """Scans and single slices have healthy patients, and so percentiles, of their own."""
    write_record(tmp_path, "scan", score=0.5, percentile=100.0)
    write_record(tmp_path, "slice", score=0.9, anomalous_ml=None, voxel_of_maximum=[1, 2])
    write_record(tmp_path, "unknown", score=7.0, percentile=None, healthy_patients=None, threshold=None)
    assert [record["name"] for record in read_records(tmp_path)] == ["scan", "slice", "unknown"]
    said = answer_in(page_of(tmp_path))
    assert said == (
        "3 inputs judged. First in the table: the score of scan is 0.5, higher than that of all 12 healthy patients, "
        "with 1.5 ml at the threshold. Not for clinical use."
    )


@pytest.mark.parametrize(
    "percentile, count, said",
    [
        (75.0, 12, "higher than that of 9 of the 12 healthy patients"),
        (100 / 3, 3, "higher than that of 1 of the 3 healthy patients"),
        (0.0, 12, "higher than that of 0 of the 12 healthy patients"),
        (100.0, 1, "higher than that of the only healthy patient"),
        (0.0, 1, "not higher than that of the only healthy patient"),
        (75.0, None, "higher than that of 75 % of the healthy patients"),
    ],
)
def test_a_percentile_says_of_how_many_healthy_patients(tmp_path, percentile, count, said):
    write_record(tmp_path, "p1", percentile=percentile, healthy_patients=count)
    page = page_of(tmp_path)
    assert f"1 input judged. The score of p1 is 0.5, {said}, with" in answer_in(page)
    assert f'"score 0.5, {said}"' in page


def test_records_of_earlier_versions_do_not_tell_the_number_of_healthy_patients(tmp_path):
    write_record(tmp_path, "p1")
    path = record_path(tmp_path, "p1")
    record = json.loads(path.read_text())
    del record["healthy_patients"]
    write_json(path, record)
    assert "higher than that of 75 % of the healthy patients" in answer_in(page_of(tmp_path))


@pytest.mark.parametrize("changes", [None, {}, {"percentile": None, "anomalous_ml": None, "threshold": None}])
def test_no_page_is_for_clinical_use(tmp_path, changes):
    if changes is not None:
        write_record(tmp_path, "p1", **changes)
    assert answer_in(page_of(tmp_path)).endswith(". Not for clinical use.")


def test_a_page_of_single_slices_has_no_column_of_volumes(tmp_path):
    write_record(tmp_path, "s1", anomalous_ml=None, voxel_of_maximum=[1, 2])
    page = page_of(tmp_path)
    heads = re.findall("<th scope='col'>(.*?)</th>", page)
    assert heads == [
        "", "score", "percentile among healthy patients", "healthy patients", "pixels at the threshold",
        "pixel of the maximum", "notices",
    ]  # fmt: skip
    assert "<h1>Slices in " in page and "<td data-column='pixel of the maximum'>1 2</td>" in page
    write_record(tmp_path, "scan")
    assert {"ml at the threshold", "slices judged"} < set(re.findall("<th scope='col'>(.*?)</th>", page_of(tmp_path)))


CHOOSE = """
  const text = (name) => (document.querySelector(name) || { textContent: null }).textContent;
  const choose = async (name) => { viewer.list.choose(name); await shown(name); };
  const move = (bin) => {
    const slider = document.querySelector('input.threshold');
    slider.value = bin;
    slider.dispatchEvent(new Event('input'));
  };
  const typed = () => document.querySelector('.marks input').value;
"""


@needs_browser
def test_a_threshold_that_was_moved_stays_for_the_next_case(tmp_path):
    """Also beyond the values that the slider of a case would have by itself, and until the calibrated one is chosen."""
    maps = {name: write_input(tmp_path, name, height=height) for name, height in (("a", 1.0), ("b", 8.0))}
    maps["c"] = write_input(tmp_path, "c", threshold=0.5)
    page_of(tmp_path)
    steps = """
      const seen = [];
      const look = () => seen.push([document.documentElement.dataset.shown, typed(), Number(text('.marked'))]);
      await choose('b');
      look();
      move(binOf(0.7, viewer.method.scale));
      look();
      for (const name of ['a', 'c']) { await choose(name); look(); }
      document.querySelector('.marks button').click();
      for (const name of ['a', 'c']) { await choose(name); look(); }
      return seen;
    """
    seen = look_at(tmp_path / "report.html", CHOOSE + steps, tmp_path)
    assert seen["errors"] == ""
    thresholds = [("b", 0.25), ("b", 0.7), ("a", 0.7), ("c", 0.7), ("a", 0.25), ("c", 0.5)]
    for (shown, typed, marked), (name, threshold) in zip(seen["found"], thresholds, strict=True):
        assert shown == name and float(typed) == pytest.approx(threshold, rel=1e-3)
        assert abs(marked - (maps[name] >= threshold).sum()) <= (threshold == 0.7), "scores are rounded to float16"


@needs_browser
def test_without_a_calibration_nothing_is_marked_until_the_slider_moves(tmp_path):
    write_input(tmp_path, "a", threshold=None)
    page_of(tmp_path)
    steps = """
      const seen = () => [typed(), text('.marked'), text('.ml')];
      const before = seen();
      move(viewer.method.bins[0]);
      return { before, after: seen().map((each) => each !== '') };
    """
    seen = look_at(tmp_path / "report.html", CHOOSE + steps, tmp_path)
    assert seen["errors"] == "" and seen["found"] == {"before": ["", "", ""], "after": [True, True, True]}


@needs_browser
def test_single_slices_are_shown_without_words_of_volumes(tmp_path):
    for name, slices in (("a", True), ("b", False)):
        write_input(tmp_path, name, slices=slices)
    page_of(tmp_path)
    steps = """
      const found = [];
      for (const name of ['a', 'b']) {
        await choose(name);
        const words = document.getElementById('viewer').innerText;
        found.push([text('.counts dt'), document.querySelectorAll('.counts dt').length, words.includes('A: front'),
          getComputedStyle(document.querySelector('.planes canvas')).cursor]);
      }
      return found;
    """
    seen = look_at(tmp_path / "report.html", CHOOSE + steps, tmp_path)
    assert seen["errors"] == ""
    assert seen["found"] == [["Marked pixels", 1, False, "auto"], ["Marked voxels", 2, True, "crosshair"]]


@needs_browser
def test_cases_of_earlier_versions_are_shown_without_numbers_of_slices(tmp_path):
    write_input(tmp_path, "a")
    path = tmp_path / CASES / case_name("a")
    path.write_text(re.sub(r',"file_axes":\[[^\]]*\]', "", path.read_text()))
    page_of(tmp_path)
    steps = "return [...document.querySelectorAll('.planes figcaption')].map((each) => each.textContent)"
    seen = look_at(tmp_path / "report.html", steps, tmp_path)
    assert seen["errors"] == "" and seen["found"] == ["Axial", "Coronal", "Sagittal"]
