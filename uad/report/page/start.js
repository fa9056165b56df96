'use strict';
// Begins when the page is there: theme, intervals in tables, pictures of single cases, the viewer.

/** Put what is in brackets, the interval, on a line that is not broken, and in a quieter tone. */
function quietIntervals() {
  for (const cell of document.querySelectorAll('td, .forest .shown')) {
    const parts = cell.textContent.match(/^([^[]+) (\[[^\]]+\])(.*)$/);
    if (parts) cell.replaceChildren(make('span', { class: 'value' }, parts[1]), ' ', make('span', { class: 'quiet' }, parts[2]), parts[3]);
  }
}

/** Draw a case where the answer shows it: the input with truth and prediction, and the map; gives what it outlined. */
async function drawExample(figure, viewer) {
  const number = Number(figure.dataset.case);
  const content = await loadCase(number);
  const [first, second] = figure.querySelectorAll('canvas');
  const [method, control] = [index.methods[index.leading], viewer.controls[index.leading]];
  const { shape, values } = content.methods[index.leading].map;
  const lines = [{ inside: reaching(values, control.bin), colour: PREDICTED }];
  if (content.label) lines.push({ inside: content.label.values, colour: TRUTH, dashed: true });
  if (content.input) paint(first, grey(content.input[index.shown_channel].values), shape, lines);
  else first.remove();
  paint(second, coloured(values, colourTables.inferno, lookupOf(method)), shape, []);
  return { input: Boolean(content.input), truth: Boolean(content.label) };
}

/** Draw the cases that the answer shows and say below what their outlines are. */
async function drawExamples(figures, viewer) {
  const drawn = await Promise.all(figures.map((figure) => drawExample(figure, viewer)));
  if (!drawn.some((each) => each.input)) return;
  const { mark, bin } = viewer.controls[index.leading];
  const parts = [];
  if (bin < Infinity) parts.push(make('span', { class: 'key predicted line' }), `predicted mask at ${mark ? mark.meaning : 'the threshold below'}`);
  if (drawn.some((each) => each.truth)) parts.push(make('span', { class: 'key truth' }), 'true mask');
  figures.at(-1).after(make('p', { class: 'legend' }, ...parts, make('span', {}, 'Left the input, right the anomaly map.')));
}

/** Names in the table of scans lead to their pictures. */
function linkScans(viewer) {
  for (const cell of document.querySelectorAll('tbody th')) {
    const number = index.cases.findIndex((each) => each.name === cell.textContent);
    if (number >= 0) cell.replaceChildren(make('a', { href: '#viewer', click: () => viewer.list.go(number) }, cell.textContent));
  }
}

const asked = new URLSearchParams(location.hash.slice(1));
if (['light', 'dark'].includes(asked.get('theme'))) document.documentElement.dataset.theme = asked.get('theme');
quietIntervals();
const viewer = new (index.kind === 'slices' ? SliceViewer : VolumeViewer)(document.getElementById('viewer'));
if (index.kind === 'volumes') linkScans(viewer);
const examples = [...document.querySelectorAll('.example')];
if (examples.length) drawExamples(examples, viewer);
for (const figure of examples) {
  figure.querySelector('a').addEventListener('click', () => viewer.list.go(Number(figure.dataset.case)));
}
