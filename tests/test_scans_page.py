"""The page of scans without a model: what it says of records, and what its viewer keeps from case to case."""

import json
import re

import pytest

from uad.application.page import write_scans_page
from uad.application.writing import read_records, record_path
from uad.files import write_json


def write_record(out, name: str, **changes) -> None:
    """The record of a scan with a threshold of 0.25, beside 12 healthy patients."""
    record = {
        "name": name, "score": 0.5, "percentile": 75.0, "healthy_patients": 12, "anomalous_ml": 1.5,
        "anomalous_voxels": 3, "threshold": 0.25, "false_positive_rate": 0.01, "slice_of_maximum": 0,
        "voxel_of_maximum": [0, 1, 2], "slices": 9, "judged_slices": [0], "median": 0, "notices": [],
    }  # fmt: skip
    write_json(record_path(out, name), record | changes)


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
