'use strict';
// The viewer of scans: three planes of a volume, or a single slice, with the map over it.

const MARKED_VOXELS = [['marked', 'Marked voxels', 'that reach the threshold'], ['ml', 'Volume (ml)', 'of the marked voxels']];
const MARKED_PIXELS = [['marked', 'Marked pixels', 'that reach the threshold']];
// Each plane's axis among (z, y, x), and those of its rows and columns; z runs to the head, so that rows are turned.
const PLANES = [
  { name: 'Axial', axis: 0, rows: 1, columns: 2, upright: false, sides: ['R', 'A'] },
  { name: 'Coronal', axis: 1, rows: 0, columns: 2, upright: true, sides: ['R', 'H'] },
  { name: 'Sagittal', axis: 2, rows: 0, columns: 1, upright: true, sides: ['A', 'H'] },
];

class VolumeViewer {
  constructor(root) {
    this.state = { channel: index.shown_channel, view: 'over', colours: 'inferno', opacity: 70, predicted: true };
    this.list = new CaseList(() => this.open());
    this.caption = make('div', { class: 'caption' });
    this.message = make('p', { class: 'message', role: 'status' });
    this.panes = make('div', { class: 'panels planes' });
    this.below = make('div', { class: 'methods' });
    this.sides = make('span', { hidden: true }, 'R: the patient\u2019s right, A: front, H: head. A click moves the other planes there.');
    this.voxel = make('p', { class: 'note', hidden: true });
    root.append(this.list.element, this.caption, this.options(), this.message, this.panes, make('p', { class: 'legend' },
      make('span', { class: 'key predicted' }), 'what reaches the threshold', this.sides), this.voxel, this.below);
    const asked = new URLSearchParams(location.hash.slice(1));
    // A score that stays for all cases, as they are compared at it; null for the calibrated threshold of each.
    this.chosen = askedNumber(asked, 'threshold');
    this.list.choose(asked.get('case'));
  }

  options() {
    const opacity = make('input', {
      type: 'range', min: 0, max: 100, value: this.state.opacity,
      input: () => { this.state.opacity = Number(opacity.value); this.draw(); },
    });
    const channels = index.channels.map((name, i) => [String(i), name]);
    const views = [['over', 'Overlay'], ['input', 'Input'], ['reconstruction', 'Reconstruction'], ['map', 'Map']];
    return make('div', { class: 'options' },
      switched('What is shown', views, this.state.view, (value) => { this.state.view = value; this.draw(); }),
      channels.length > 1
        ? choice('Channel', channels, String(this.state.channel), (value) => { this.state.channel = Number(value); this.draw(); })
        : '',
      choice('Colours', Object.keys(index.colour_maps).map((name) => [name, name]), this.state.colours,
        (value) => { this.state.colours = value; this.draw(); }),
      make('label', { class: 'field' }, make('span', {}, 'Opacity'), opacity),
      tick('Marks', this.state.predicted, (on) => { this.state.predicted = on; this.draw(); }));
  }

  async open() {
    const number = this.list.current;
    if (number === undefined) return;
    const described = index.cases[number];
    this.caption.replaceChildren(...describe(described));
    this.content = null;
    try {
      const content = await loadCase(number);
      if (number !== this.list.current) return; // another one was chosen meanwhile
      this.message.textContent = '';
      this.take(content, described);
      document.documentElement.dataset.shown = described.name;
    } catch (error) {
      if (number !== this.list.current) return;
      this.sides.hidden = this.voxel.hidden = true;
      this.panes.replaceChildren();
      this.below.replaceChildren();
      this.message.textContent = error.message;
    }
  }

  /** Make the planes and the threshold's control of a scan. */
  take(content, described) {
    this.content = content;
    const { scale, bins: [first, last], is_volume: isVolume } = content;
    const marks = content.mark === null ? [] : [{ bin: content.mark, meaning: described.meaning, value: described.threshold }];
    const kept = this.chosen === null ? null : binOf(this.chosen, scale);
    const bins = kept === null ? [first, last] : [Math.min(first, kept), Math.max(last, kept)];
    this.method = { name: 'Threshold', scale, bins, colours: content.colours, marks, curve: [] };
    this.control = new ThresholdControl(this.method, () => this.choose(), isVolume ? MARKED_VOXELS : MARKED_PIXELS, {
      marked: (found) => found.fp.toLocaleString('en'),
      ml: (found) => short(found.fp * content.voxel_ml),
    });
    if (kept !== null) this.control.place(kept, short(this.chosen));
    this.sides.hidden = !isVolume;
    this.voxel.hidden = !content.file_axes;
    this.below.replaceChildren(this.control.element);
    this.control.of(new Counts(content.map.values, null));
    this.place = content.file_axes
      ? content.file_axes.map(({ axis, first: origin, step }) => step * (described.maximum[axis] - origin)) : this.highest();
    this.sliders = [];
    const planes = isVolume ? PLANES : PLANES.slice(0, 1);
    this.panes.replaceChildren(...planes.map((plane) => this.pane(plane)));
    this.draw();
  }

  /** Keep the threshold that was chosen; at the calibrated one, each case has its own. */
  choose() {
    this.chosen = this.control.mark ? null : valueOf(this.control.bin, this.method.scale);
    this.draw();
  }

  /** Where the map is highest, (z, y, x) within the box, to the precision of its bins. */
  highest() {
    const { shape: [, rows, columns], values } = this.content.map;
    let best = 0;
    for (let i = 1; i < values.length; i += 1) if (values[i] > values[best]) best = i;
    return [Math.floor(best / (rows * columns)), Math.floor(best / columns) % rows, best % columns];
  }

  pane(plane) {
    if (!this.content.is_volume) {
      return make('figure', {}, make('div', { class: 'plane' }, make('canvas', { role: 'img', 'aria-label': 'Slice' })), make('figcaption', {}, 'Slice'));
    }
    const canvas = make('canvas', { role: 'img', 'aria-label': `${plane.name} plane`, class: 'pointed', click: (event) => this.point(plane, canvas, event) });
    const slider = make('input', {
      type: 'range', min: 0, max: this.content.map.shape[plane.axis] - 1, step: 1, 'aria-label': `${plane.name} slice`,
      input: () => { this.place[plane.axis] = Number(slider.value); this.draw(); },
    });
    this.sliders[plane.axis] = slider;
    const [left, top] = plane.sides;
    return make('figure', {},
      make('div', { class: 'plane' }, canvas, make('b', { class: 'left', 'aria-hidden': 'true' }, left), make('b', { class: 'top', 'aria-hidden': 'true' }, top)),
      make('figcaption', {}, plane.name), slider); // with its number where the case tells it
  }

  /** Move the other planes to where one was clicked. */
  point(plane, canvas, event) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const { shape } = this.content.map;
    const at = (share, axis) => Math.min(shape[axis] - 1, Math.max(0, Math.floor(share * shape[axis])));
    const down = (event.clientY - top) / height;
    this.place[plane.columns] = at((event.clientX - left) / width, plane.columns);
    this.place[plane.rows] = at(plane.upright ? 1 - down : down, plane.rows);
    this.draw();
  }

  /** A plane of values (z, y, x) through the place that is shown, as [values, [rows, columns]]. */
  cut(plane, { shape, values }) {
    const strides = [shape[1] * shape[2], shape[2], 1];
    const [rows, columns] = [shape[plane.rows], shape[plane.columns]];
    const out = new values.constructor(rows * columns);
    const start = this.place[plane.axis] * strides[plane.axis];
    for (let row = 0; row < rows; row += 1) {
      const line = start + (plane.upright ? rows - 1 - row : row) * strides[plane.rows];
      for (let column = 0; column < columns; column += 1) out[row * columns + column] = values[line + column * strides[plane.columns]];
    }
    return [out, [rows, columns]];
  }

  draw() {
    if (!this.content) return;
    const { input, reconstruction, map, spacing, is_volume: isVolume } = this.content;
    const [table, lookup] = [colourTables[this.state.colours], lookupOf(this.method)];
    [...this.panes.children].forEach((figure, i) => {
      const plane = PLANES[i];
      const [bins, shape] = this.cut(plane, map);
      let pixels;
      if (this.state.view === 'map') pixels = coloured(bins, table, lookup);
      else pixels = grey(this.cut(plane, (this.state.view === 'reconstruction' ? reconstruction : input)[this.state.channel])[0]);
      if (this.state.view === 'over') {
        const most = 2.55 * this.state.opacity;
        layOver(pixels, coloured(bins, table, lookup, (at) => Math.min(most, (most * at) / 96)));
      }
      const lines = this.state.predicted ? [{ inside: reaching(bins, this.control.bin), colour: PREDICTED }] : [];
      paint(figure.querySelector('canvas'), pixels, shape, lines, spacing[plane.rows] / spacing[plane.columns]);
      if (isVolume) this.sliders[plane.axis].value = this.place[plane.axis];
    });
    if (this.content.file_axes) this.number();
  }

  /** Say where the planes lie in the file. */
  number() {
    const voxel = [];
    this.content.file_axes.forEach(({ axis, first, step }, i) => { voxel[axis] = first + step * this.place[i]; });
    [...this.panes.children].forEach((figure, i) => {
      const { name, axis } = PLANES[i];
      const number = voxel[this.content.file_axes[axis].axis];
      figure.querySelector('figcaption').textContent = `${name}, slice ${number}`;
      this.sliders[axis].setAttribute('aria-valuetext', number);
    });
    this.voxel.textContent = `Voxel ${voxel.join(' ')}. Numbers are indices along the axes of the file, counted from 0, as in summary.csv.`;
  }
}
