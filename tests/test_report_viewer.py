"""The page's viewer in a browser: it opens, its numbers are Python's, nothing is wider than the window."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import look_at, needs_browser
from commands import EVALUATE, run
from result_folders import write_folder
from test_compare import COMPARE, write_method
from test_film import any_film

from uad.evaluation.tables import Table
from uad.films import write_film
from uad.report.markup import table_html
from uad.results import ResultFolder

pytestmark = needs_browser
MOVE = """
  const slider = document.querySelectorAll('input.threshold')[%d];
  const lowest = Number(slider.min);
  const span = Number(slider.max) - lowest;
  const rows = [];
  for (const share of [0, 0.3, 0.55, 0.8, 1]) {
    slider.value = Math.round(lowest + share * span);
    slider.dispatchEvent(new Event('input'));
    const method = slider.closest('.method');
    const text = (name) => method.querySelector('.' + name).textContent.replaceAll(',', '');
    rows.push({ threshold: valueOf(Number(slider.value), index.methods[%d].scale), dice: text('dice'),
      counts: ['tp', 'fp', 'fn', 'tn'].map((name) => Number(text(name))) });
  }
  return { case: document.documentElement.dataset.shown, rows };
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An evaluation of 24 diseased and 6 healthy images, more than lie in its page."""
    root = tmp_path_factory.mktemp("viewer")
    folders = (
        write_folder(root / "diseased", 12, 2, autoencoder=False),
        write_folder(root / "healthy", 3, 2, lesion=False, autoencoder=False),
    )
    write_film(folders[0], ResultFolder(folders[0]).names[0], any_film(3))
    run(EVALUATE, f"--results {folders[0]} --healthy {folders[1]} --protocol clinical --bootstrap 20 --neighbours 0")
    return folders[0]


def test_a_film_is_gone_through_step_by_step(written, tmp_path):
    steps = """
      const number = index.cases.findIndex((each) => each.film);
      const select = document.querySelector('.case');
      select.value = number;
      select.dispatchEvent(new Event('change'));
      await shown(index.cases[number].name);
      const film = document.querySelector('.film');
      const slider = film.querySelector('input');
      const text = () => film.querySelector('.position').textContent;
      const last = text();
      slider.value = 0;
      slider.dispatchEvent(new Event('input'));
      return [index.cases[number].name, film.hidden, last, text(), film.querySelectorAll('canvas')[2].width];
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path)
    name = ResultFolder(written).names[0]
    assert seen["errors"] == ""
    assert seen["found"] == [name, False, "step 2 of 2, to noise level 2", "the code of the image", 480]


def agrees(seen: dict, folder) -> None:
    """The Dice and the counts that a page showed are those of the saved map at the same thresholds."""
    result = ResultFolder(folder).load(seen["case"])
    lesion = result.label > 0
    for row in seen["rows"]:
        marked = result.anomaly_map >= row["threshold"]
        true, total = (marked & lesion).sum(), marked.sum() + lesion.sum()
        assert float(row["dice"]) == pytest.approx(2 * true / total, abs=1e-3)
        tp, fp, fn, tn = row["counts"]
        assert (tp + fn, fp + tn) == (lesion.sum(), (~lesion).sum())
        # Thresholds and scores are rounded to float16: what lies between may be counted on either side.
        assert abs(tp - true) + abs(fp - (marked & ~lesion).sum()) <= 1e-3 * lesion.size
    assert len({row["dice"] for row in seen["rows"]}) > 2


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_opens_and_fits(written, tmp_path, width):
    seen = look_at(written / "evaluation" / "report.html", "return faults.length", tmp_path, width)
    assert seen["errors"] == "" and seen["found"] == 0
    assert seen["inside"] == width and seen["width"] <= width


def test_best_and_worst_case_have_a_legend_and_say_how_large_the_lesion_is(written, tmp_path):
    steps = """
      await wait(() => document.querySelector('.lead .legend'));
      const text = (name) => document.querySelector(name).textContent;
      return [text('h1'), text('.example'), text('.lead .legend')];
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path)
    title, example, legend = seen["found"]
    assert seen["errors"] == "" and title == "Planted: results in diseased"
    assert "lesion of 64 pixels" in example
    assert legend == "predicted mask at 1 % FPRtrue maskLeft the input, right the anomaly map."


@pytest.mark.parametrize("width", [400, 1200])
def test_a_long_table_is_scrolled_through_in_a_box_of_its_own(written, tmp_path, width):
    page = Path(shutil.copy(written / "evaluation" / "report.html", tmp_path))
    table = Table("Inputs", ["", "score", "voxel"], [[f"p{number}", "0.1234", "1 2 3"] for number in range(1025)], "")
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", f"{table_html(table)}</main>"), encoding="utf-8")
    steps = """
      const box = document.querySelector('.long');
      const others = [...document.querySelectorAll('.box')].filter((each) => each !== box);
      const scrolled = others.some((each) => each.scrollHeight > each.clientHeight);
      return [box.clientHeight, box.scrollHeight, box.tabIndex, scrolled];
    """
    seen = look_at(page, steps, tmp_path, width)
    assert seen["errors"] == "" and seen["width"] <= width
    shown, whole, place, scrolled = seen["found"]
    assert shown <= 900 < 20000 < whole and place == 0 and not scrolled


def test_the_slider_shows_the_dice_that_python_computes(written, tmp_path):
    seen = look_at(written / "evaluation" / "report.html", MOVE % (0, 0), tmp_path)
    assert seen["errors"] == ""
    agrees(seen["found"], written)


def test_thresholds_with_a_meaning_give_the_numbers_of_the_csv(written, tmp_path):
    steps = """
      [...document.querySelectorAll('.marks button')].find((button) => button.textContent === '1 % FPR').click();
      const order = document.querySelector('.bar label select');
      order.value = 'lowest-dice';
      order.dispatchEvent(new Event('change'));
      const first = Number(document.querySelector('.case').options[0].value);
      await shown(index.cases[first].name);
      document.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
      const second = Number(document.querySelector('.case').value);
      await shown(index.cases[second].name);
      const typed = document.querySelector('.marks input').value;
      return { name: index.cases[second].name, number: index.cases[second].numbers[0].dice,
        lowest: index.cases[first].numbers[0].dice, dice: document.querySelector('.dice').textContent, typed };
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path)
    assert seen["errors"] == ""
    found = seen["found"]
    assert found["dice"] == f"{found['number']:.3f}" and found["number"] >= found["lowest"]
    summary = json.loads((written / "evaluation" / "summary.json").read_text())
    assert found["typed"] == f"{summary['clinical']['rows']['planted']['thresholds']['fpr1%']:.4g}"


def test_arrow_keys_go_through_the_cases_also_after_a_box_was_ticked(written, tmp_path):
    steps = """
      const place = () => document.querySelector('.position').textContent;
      const found = [];
      for (const name of ['.tick input', '.switch button', 'input.threshold', '.marks input', '.case']) {
        const before = place();
        const key = new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true });
        document.querySelector(name).dispatchEvent(key);
        found.push(place() !== before);
      }
      return found;
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path)
    assert seen["errors"] == "" and seen["found"] == [True, True, False, False, False]


def test_on_a_phone_a_number_and_its_interval_stay_together_where_the_column_has_a_long_name(written, tmp_path):
    steps = """
      const cells = [...document.querySelectorAll('td')]
        .filter((cell) => cell.querySelector('.quiet') && cell.offsetHeight);
      const top = (cell, name) => cell.querySelector(name).getBoundingClientRect().top;
      const below = cells.map((cell) => top(cell, '.quiet') - top(cell, '.value'));
      const names = cells.map((cell) => cell.dataset.column.length);
      return [Math.max(...below), Math.max(...names)];
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path, 400)
    below, longest = seen["found"]
    assert longest >= len("AP (prevalence 0.0625)") and 10 < below < 26, "lines are 20 pixels apart"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_controls_stand_out_from_their_surroundings(written, tmp_path, theme):
    """WCAG 2.2, 1.4.11: a contrast of 3:1."""
    steps = """
      const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
      const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const style = (name) => getComputedStyle(document.querySelector(name));
      const found = ['.step', '.case', '.marks input'].flatMap((name) => [style('.card'), style('body')]
        .map((around) => contrast(light(style(name).borderTopColor), light(around.backgroundColor))));
      return [Math.min(...found), style('.threshold').accentColor, style('.tick input').accentColor];
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path, address=f"#theme={theme}")
    contrast, *accents = seen["found"]
    assert seen["errors"] == "" and contrast >= 3 and len(set(accents)) == 1 and accents[0] != "auto"


def test_cases_beside_the_page_are_loaded_and_missing_ones_named(written, tmp_path):
    steps = """
      const beside = index.cases.findIndex((each, i) => !document.getElementById('case-' + i) && !isHealthy(each));
      const select = document.querySelector('.case');
      const choose = (number) => { select.value = number; select.dispatchEvent(new Event('change')); };
      choose(beside);
      await shown(index.cases[beside].name);
      const dice = document.querySelector('.dice').textContent;
      index.cases.at(-1).file = '9999.js';
      choose(index.cases.length - 1);
      const text = (name) => document.querySelector(name).textContent;
      await wait(() => text('.message'));
      const left = [document.querySelector('.panels').children.length, text('.dice'), text('.tn')];
      const message = text('.message');
      choose(beside);
      await wait(() => !text('.message'));
      return { dice, message, left, again: text('.dice') };
    """
    seen = look_at(written / "evaluation" / "report.html", steps, tmp_path)
    assert 0 < float(seen["found"]["dice"]) <= 1 and seen["found"]["again"] == seen["found"]["dice"]
    assert seen["found"]["message"].startswith("report_cases/9999.js is missing")
    assert seen["found"]["left"] == [0, "", ""], "of the case before nothing stays under the name of this one"


def test_an_address_sets_the_state(written, tmp_path):
    name = ResultFolder(written).names[3]
    steps = """await shown(%s);
      const figure = document.querySelector('.panels figure');
      const { width, height } = figure.querySelector('canvas');
      return [figure.textContent, document.documentElement.dataset.theme, width, height];
    """
    address = f"#case={name}&view=over&theme=dark"
    seen = look_at(written / "evaluation" / "report.html", steps % json.dumps(name), tmp_path, address=address)
    assert seen["errors"] == "" and seen["found"] == ["Anomaly map over the input", "dark", 480, 480]


@pytest.mark.parametrize("asked", ["channel=7", "channel=-1", "colours=foo", "view=foo", "threshold=foo", "case=foo"])
def test_what_an_address_asks_for_in_vain_changes_nothing(written, tmp_path, asked):
    steps = """
      return [document.documentElement.dataset.shown, document.querySelector('.message').textContent,
        document.querySelector('.marks input').value, document.querySelector('.dice').textContent,
        ...[...document.querySelectorAll('.panels figcaption')].map((each) => each.textContent)];
    """
    page = written / "evaluation" / "report.html"
    plain, seen = (look_at(page, steps, tmp_path, address=address) for address in ("", f"#{asked}"))
    assert seen["errors"] == "" and seen["found"] == plain["found"] and seen["found"][0]


def test_without_a_threshold_that_means_something_none_is_set_until_the_slider_moves(tmp_path):
    folder = write_folder(tmp_path / "diseased", masks=False, autoencoder=False)
    run(EVALUATE, f"--results {folder} --protocol clinical --bootstrap 5 --neighbours 0")
    steps = """
      const control = viewer.controls[0];
      const marked = () => viewer.outlines(0)[0].inside.some(Boolean);
      const seen = () => [control.typed.value, document.querySelector('.fp').textContent, marked()];
      const before = seen();
      control.slider.value = control.slider.min;
      control.slider.dispatchEvent(new Event('input'));
      const [typed, count, any] = seen();
      return { before, after: [typed !== '', count !== '', any] };
    """
    seen = look_at(folder / "evaluation" / "report.html", steps, tmp_path)
    assert seen["errors"] == "" and seen["found"] == {"before": ["", "", False], "after": [True, True, True]}


@pytest.mark.parametrize("protocol", ["bmad", "paper_ours"])
def test_other_protocols_show_the_same_maps_and_whose_thresholds_are_marked(written, tmp_path, protocol):
    out = tmp_path / "out"
    run(EVALUATE, f"--results {written} --protocol {protocol} --neighbours 0 --out {out}")
    note = "return [...document.querySelectorAll('p.note')].map((each) => each.textContent).join()"
    seen = look_at(out / "report.html", note, tmp_path, 400)
    assert seen["errors"] == "" and seen["width"] <= 400
    assert "Marked thresholds and the numbers of single images are those of --protocol clinical" in seen["found"]
    agrees(look_at(out / "report.html", MOVE % (0, 0), tmp_path)["found"], written)
    run(EVALUATE, f"--results {written} --protocol {protocol} --neighbours 0 --viewer_cases 0 --out {out}")
    assert 'id="case-0"' not in (out / "report.html").read_text()


def test_methods_are_shown_side_by_side_with_thresholds_of_their_own(tmp_path):
    results = [write_method(tmp_path / name, name, strength) for name, strength in (("strong", 1.0), ("weak", 0.2))]
    healthy = [write_method(tmp_path / f"{name}_h", name, 1.0, lesion=False) for name in ("strong", "weak")]
    folders = f"--results {results[0]} {results[1]} --healthy {healthy[0]} {healthy[1]}"
    run(COMPARE, f"{folders} --out {tmp_path / 'out'} --bootstrap 5 --neighbours 0")
    for number, folder in enumerate(results):
        seen = look_at(tmp_path / "out" / "report.html", MOVE % (number, number), tmp_path, 400)
        assert seen["errors"] == "" and seen["width"] <= 400
        agrees(seen["found"], folder)
    shutil.rmtree(tmp_path / "out" / "report_cases", ignore_errors=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Of 2 methods on the same 6 images of 3 patients, strong has the highest average precision" in page
    assert np.all([name in page for name in ("strong - weak", "Comparison")])
