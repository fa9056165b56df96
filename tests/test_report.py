"""The page of results without a browser: packed maps, which cases lie in it, and what it says."""

import base64
import json
import re
import zlib
from dataclasses import replace
from html import escape, unescape

import numpy as np
import pytest
from commands import EVALUATE, run
from result_folders import AFFINE, run_info, save, slice_with_lesion, write_folder

from uad.evaluation.metrics import bin_values, float16_bins
from uad.evaluation.tables import Table
from uad.report.choosing import EMBEDDED, Entry, by_interest
from uad.report.facts import facts_of_run
from uad.report.markup import table_html
from uad.report.packing import bins_at, json_in_page, packed
from uad.report.page import write_page
from uad.report.slices import _beyond, slice_viewer
from uad.report.viewer import CASES, EMBEDDED_BYTES, MethodShown, Viewer, case_content, case_file, case_script
from uad.report.volumes import Seen, pack_scan
from uad.results import ResultWriter


def unpacked(content: dict) -> np.ndarray:
    """What the page's script does, written once more."""
    raw = zlib.decompress(base64.b64decode(content["data"]))
    halves = np.frombuffer(raw, np.uint8).reshape(content["bits"] // 8, *content["shape"])
    return halves[0] if content["bits"] == 8 else halves[0].astype(np.uint16) | halves[1].astype(np.uint16) << 8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_arrays_come_back_as_they_were(kind):
    array = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (3, 17, 5), kind, endpoint=True)
    found = unpacked(packed(array.transpose(0, 2, 1)))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, array.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="float32"):
        packed(array.astype(np.float32))


@pytest.mark.parametrize("threshold", [1e-4, 0.1, 0.3, 7.77])
def test_a_score_reaches_a_threshold_where_its_bin_does(threshold):
    """Also the nearest float32 numbers below and above, which float16 cannot tell from it."""
    threshold = np.float32(threshold)
    near = np.nextafter(threshold, np.float32([0, np.inf]), dtype=np.float32)
    many = np.random.default_rng(1).exponential(float(threshold), 20000).astype(np.float32)
    scores = np.concatenate([[0, threshold], near, many]).astype(np.float32)
    bins, scale = bins_at(scores, float(threshold))
    mark = int(float16_bins(np.array(float(threshold) * scale), 1.0))
    np.testing.assert_array_equal(bins >= mark, scores >= threshold)
    np.testing.assert_allclose(bin_values(bins, scale), scores, rtol=2e-3, atol=1e-6 * float(scores.max()))
    with pytest.raises(ValueError, match="positive"):
        bins_at(scores, 0.0)


def entries(count: int, healthy: int) -> list[Entry]:
    rng = np.random.default_rng(2)
    diseased = [
        Entry(f"d{i}", f"d{i}", "scored", True, 9, ({"score": float(rng.random()), "ap": float(rng.random())},))
        for i in range(count)
    ]
    return diseased + [
        Entry(f"h{i}", f"h{i}", "healthy", False, 0, ({"score": float(rng.random())},)) for i in range(healthy)
    ]


def test_the_first_cases_are_extremes_and_the_next_ones_are_spread_evenly():
    every = entries(300, 200)
    found = by_interest(every)
    assert len(found) == 500 and {(e.group, e.name) for e in found} == {(e.group, e.name) for e in every}
    by_ap = sorted(every[:300], key=lambda entry: entry.numbers[0]["ap"])
    assert found[:3] == [by_ap[-1], by_ap[0], by_ap[150]]
    by_score = sorted(every, key=lambda entry: entry.numbers[0]["score"])
    assert found[3] == [entry for entry in by_score if entry.group == "healthy"][-1]
    assert found[4] == next(entry for entry in by_score if entry.group == "scored")
    ranks = sorted(by_score.index(entry) for entry in found[:EMBEDDED])
    assert max(np.diff([0, *ranks, 499])) < 500 / 6
    filmed = [replace(entry, film=entry.name in ("d7", "d299", "h42")) for entry in every]
    assert {entry.name for entry in by_interest(filmed)[:8] if entry.film} == {"d7", "d299", "h42"}
    assert len(by_interest(entries(0, 3))) == 3 and len(by_interest(entries(1, 0))) == 1


def test_a_page_of_a_thousand_large_images_stays_small(tmp_path):
    """What lies in it is bounded in number and in bytes; of the others there is a line each."""
    texts = dict.fromkeys(range(EMBEDDED), "x" * 2**20)
    for number in _beyond(texts, EMBEDDED_BYTES):
        del texts[number]
    assert len(texts) == EMBEDDED_BYTES // 2**20
    assert len(dict.fromkeys(range(EMBEDDED))) - len(_beyond(dict.fromkeys(range(EMBEDDED), "x"), 0)) == 3
    numbers = {"score": 0.123456789012345, "ap": 0.123456789012345, "dice": 0.123456789012345}
    cases = tuple(
        {"file": case_file(i), "name": f"patient_{i:06d}_{i:03d}", "patient": f"patient_{i:06d}", "group": "scored"}
        | {"diseased": True, "lesion_pixels": 1000, "numbers": [numbers]}
        for i in range(1000)
    )
    viewer = Viewer("slices", ("t1",), 0, (MethodShown("m", 1.0, (0, 9), (0.0, 1.0)),), cases, texts)
    write_page(tmp_path / "page.html", "t", "k", "a", "", "", viewer)
    assert (tmp_path / "page.html").stat().st_size < EMBEDDED_BYTES + 2**20


def test_without_a_viewer_no_cases_of_an_earlier_one_stay(tmp_path):
    (tmp_path / CASES).mkdir()
    for name in ("0024.js", "notes.js"):
        (tmp_path / CASES / name).write_text("")
    assert slice_viewer(tmp_path, [], 0) is None
    assert [path.name for path in (tmp_path / CASES).iterdir()] == ["notes.js"]


def test_what_is_handed_over_comes_back():
    text = json_in_page({"name": "</script><b>&"})
    assert "<" not in text and "&" not in text and json.loads(text) == {"name": "</script><b>&"}
    script = case_script('a";//.js', text)
    assert case_content('a";//.js', script) == text


def test_a_scan_is_cut_to_what_is_not_empty_and_keeps_its_places():
    images, maps = np.zeros((1, 6, 8, 10), np.float32), np.zeros((6, 8, 10), np.float32)
    images[0, 2:4, 3:7, 4] = 1
    maps[3, 3, 2:5] = 0.3
    axes = ((1, False), (0, True), (2, True))
    content = json.loads(pack_scan(Seen(maps, images, images, (2.0, 1.0, 1.0), 0.25, 0.002, axes)))
    first = {"axis": 1, "first": 2, "step": 1}, {"axis": 0, "first": 4, "step": -1}, {"axis": 2, "first": 7, "step": -1}
    assert content["file_axes"] == list(first) and content["map"]["shape"] == [2, 4, 3]
    assert (unpacked(content["map"]) >= content["mark"]).sum() == (maps >= 0.25).sum() == 3
    assert content["bins"][0] <= content["mark"] <= content["bins"][1]


def test_a_run_is_told_with_its_model_settings_weights_and_versions():
    weights = {"step": 600, "weights_hash": {"diffusion": "cf36"}, "command": "train.py --seed 0"}
    run = {
        "format": 1,
        "method": "ours",
        "noise_level": 10,
        "prob_threshold": 0.5,
        "denoise_steps": 4,
        "compile": False,
    }
    run |= {"polarity": None, "matched_to": [[0.1] * 3], "channel_names": ["t1", "flair"], "model": [weights, weights]}
    run |= {"autoencoder": weights, "parameters": 5505395, "seed": 0, "versions": {"torch": "2.7", "commit": "abc"}}
    told = facts_of_run(run)
    assert list(told) == [
        "method", "noise level L", "threshold P of the flip probability", "denoising steps K", "compile",
        "channel names", "model", "autoencoder", "command of the autoencoder", "parameters", "seed", "versions",
    ]  # fmt: skip
    assert told["autoencoder"] == "step 600, weights hash diffusion cf36"
    assert told["command of the autoencoder"] == "train.py --seed 0" and told["model"].count("cf36") == 2
    assert (told["compile"], told["parameters"], told["channel names"]) == ("no", "5,505,395", "t1; flair")
    assert told["versions"] == "torch 2.7, commit abc"


def test_settings_of_the_results_are_on_the_page(written):
    page = (written / "report.html").read_text()
    assert f"<h3>Results, as run.json says</h3><dl class='facts'><dt>method</dt><dd>{escape(HOSTILE)}</dd>" in page
    assert "<dt>score of the maps</dt><dd>paper</dd>" in page and "<dt>image size</dt><dd>32</dd>" in page


HOSTILE = "<img onerror=alert(1) src=x>&'\"$_$"


def folder_with_a_hostile_name(folder, patients: int, lesion: bool):
    """A result folder of a method whose name, as that of one of its images, is an element of HTML
    and, for a figure, no formula."""
    write_folder(folder, patients, 2, lesion=lesion, autoencoder=False, method=HOSTILE)
    image, reconstruction, label = slice_with_lesion(np.random.default_rng(3), lesion)
    scores, name = np.abs(image - reconstruction)[0], f"{HOSTILE}{'hd'[lesion]}"
    writer = ResultWriter(folder, run_info(method=HOSTILE))
    save(writer, name, name, AFFINE, image, reconstruction, scores, label)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An evaluation of 23 diseased and 7 healthy images, more than lie in its page."""
    root = tmp_path_factory.mktemp("report")
    diseased = folder_with_a_hostile_name(root / "diseased", 11, True)
    healthy = folder_with_a_hostile_name(root / "healthy", 3, False)
    words = f"--results {diseased} --healthy {healthy} --protocol clinical --bootstrap 20"
    run(EVALUATE, f"{words} --out {root / 'out'}")
    return root / "out"


def test_names_cannot_become_elements(written):
    page = (written / "report.html").read_text()
    assert "<img onerror" not in page and "&lt;img onerror" in page and "\\u003cimg onerror" in page


def test_the_page_needs_no_network(written):
    page = re.sub(r'"data":"[^"]*"|base64,[^\']*', "", (written / "report.html").read_text())
    assert not re.search(r"https?:|src=[\"']?//|@import|url\(", page)
    assert "default-src 'none'" in page


def test_the_page_says_what_the_tables_say(written):
    page = (written / "report.html").read_text()
    cells = {unescape(cell) for cell in re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)}
    for line in (written / "tables.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith("|-"):
            assert {cell.strip() for cell in line.strip("|").split(" | ")} <= cells
    metrics = json.loads((written / "summary.json").read_text())["clinical"]["rows"][HOSTILE]["metrics"]
    for metric in ("ap", "best_dice", "auroc", "image_auroc"):
        number = metrics[metric]
        assert f"<div class='number'>{number['value']:.3f}</div>" in page
        assert f"<div class='interval'>[{number['low']:.3f}, {number['high']:.3f}]</div>" in page


def test_cases_beside_the_page_are_those_that_are_not_in_it(written, tmp_path):
    page = (written / "report.html").read_text()
    embedded = [int(number) for number in re.findall(r'id="case-(\d+)"', page)]
    beside = sorted(int(path.stem) for path in (written / CASES).glob("*.js"))
    assert embedded == list(range(EMBEDDED)) and beside == list(range(EMBEDDED, 30))
    assert all(path.with_suffix(".pdf").read_bytes().startswith(b"%PDF") for path in written.glob("*.png"))


def test_the_answer_is_one_sentence_and_the_rest_is_small(written):
    page = (written / "report.html").read_text()
    answer = unescape(re.search('<p class="answer">(.*?)</p>', page)[1])
    metrics = json.loads((written / "summary.json").read_text())["clinical"]["rows"][HOSTILE]["metrics"]
    ap = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**metrics["ap"])
    prevalence = json.loads((written / "summary.json").read_text())["clinical"]["prevalence"]
    said = f"marks lesions with an average precision of {ap}, where random scores have {prevalence:.4f}."
    assert answer == f"{HOSTILE} {said}"
    details = unescape(re.search("</header>\\s*<p class='note'>(.*?)</p>", page)[1])
    assert details.startswith("23 images of 12 patients. The best of 3 simple competitors, raw intensity")


@pytest.mark.parametrize(
    "healthy, said",
    [
        (False, "cannot be measured on these images; of pixels: n/a (no masks); of images: n/a (no healthy images)."),
        (True, "tells diseased from healthy images with an AUROC of 1.000 [1.000, 1.000]; of pixels: n/a (no masks)."),
    ],
)
def test_without_masks_the_answer_is_one_sentence_too(tmp_path, healthy, said):
    words = f"--results {write_folder(tmp_path / 'd', masks=False)} --protocol clinical --bootstrap 5"
    others = f" --healthy {write_folder(tmp_path / 'h', lesion=False)}" if healthy else ""
    run(EVALUATE, f"{words}{others} --out {tmp_path / 'out'}")
    page = (tmp_path / "out" / "report.html").read_text()
    assert unescape(re.search('<p class="answer">(.*?)</p>', page)[1]) == f"Planted {said}"
    assert "<p class='note'>8 images of 4 patients.</p>" in page


def test_what_is_of_the_method_stands_out_and_nothing_else(written):
    page = (written / "report.html").read_text()
    own = re.findall("class='own'><th scope='row'>([^<]*)<", page)
    assert own and {unescape(name) for name in own} == {HOSTILE}
    assert " minus " not in str(own) and "<li class='own'><span class='name'>" in page
    table = Table("t", ["", "a"], [["first", "1"], ["second", "2"]])
    assert table_html(table).count("class='own'") == 0 and "<tr class='own'><th scope='row'>second" in table_html(
        table, "second"
    )


def test_no_table_cell_lacks_the_name_of_its_column():
    text = table_html(Table("t", ["", "a<b"], [["row", "1.000 [0.900, 1.000]"]], "note"))
    assert "<td data-column='a&lt;b'>1.000 [0.900, 1.000]</td>" in text
