'use strict';
// The viewer of slices: an evaluation's method, or several methods side by side on the same images.

const COUNTS = [
  ['dice', 'Dice', 'of the image that is shown, at this threshold'],
  ['tp', 'TP', 'lesion pixels that are marked'], ['fp', 'FP', 'other pixels that are marked'],
  ['fn', 'FN', 'lesion pixels that are not marked'], ['tn', 'TN', 'other pixels that are not marked'],
];

const VIEWS = [['side', 'Side by side'], ['over', 'Overlay']];
const whole = (count) => count.toLocaleString('en');
const TEXTS = {
  dice: ({ dice }, known) => {
    if (!known) return 'n/a (no mask)';
    return dice === null ? 'n/a (no lesion)' : fixed(dice, 3);
  },
  tp: ({ tp }, known) => (known ? whole(tp) : 'n/a'),
  fp: ({ fp }) => whole(fp),
  fn: ({ fn }, known) => (known ? whole(fn) : 'n/a'),
  tn: ({ tn }) => whole(tn),
};

class SliceViewer {
  constructor(root) {
    this.several = index.methods.length > 1;
    this.state = {
      channel: index.shown_channel, view: 'side', colours: 'inferno', opacity: 60, truth: true, predicted: true,
    };
    this.controls = index.methods.map((method) => new ThresholdControl(method, () => this.draw(), COUNTS, TEXTS));
    this.list = new CaseList(() => this.open());
    this.panels = make('div', { class: this.several ? 'panels several' : 'panels' });
    this.film = new Film();
    this.message = make('p', { class: 'message', role: 'status' });
    this.caption = make('p', { class: 'caption' });
    root.append(
      this.list.element, this.caption, this.options(), this.message, this.panels,
      this.several ? this.together() : '', make('div', { class: 'methods' }, ...this.controls.map((control) => control.element)), this.legend(), this.meaning(),
      this.film.element,
    );
    this.content = null;
    this.take(new URLSearchParams(location.hash.slice(1)));
  }

  /** The state that an address asks for: case, threshold, channel, view, colours; what is unknown changes nothing. */
  take(asked) {
    const known = { view: VIEWS.map(([value]) => value), colours: Object.keys(index.colour_maps) };
    for (const key of ['view', 'colours']) if (known[key].includes(asked.get(key))) this.state[key] = asked.get(key);
    if (Object.keys(index.channels).includes(asked.get('channel'))) this.state.channel = Number(asked.get('channel'));
    this.options();
    const threshold = askedNumber(asked, 'threshold');
    if (threshold !== null) this.controls[0].place(binOf(threshold, index.methods[0].scale));
    this.list.choose(asked.get('case'));
  }

  /** The row of choices of how a case is shown; made anew when the state came from elsewhere. */
  options() {
    const set = (key) => (value) => {
      this.state[key] = value;
      this.options();
      this.draw();
    };
    const opacity = make('input', {
      type: 'range', min: 0, max: 100, value: this.state.opacity,
      input: () => { this.state.opacity = Number(opacity.value); this.draw(); },
    });
    const maps = Object.keys(index.colour_maps).map((name) => [name, name]);
    const channels = index.channels.map((name, i) => [String(i), name]);
    const row = make('div', { class: 'options' },
      switched('How the map is shown', VIEWS, this.state.view, set('view')),
      channels.length > 1
        ? choice('Channel', channels, String(this.state.channel), (value) => { this.state.channel = Number(value); this.draw(); })
        : '',
      choice('Colours', maps, this.state.colours, (value) => { this.state.colours = value; this.draw(); }),
      this.state.view === 'over' ? make('label', { class: 'field' }, make('span', {}, 'Opacity'), opacity) : '',
      tick('Truth', this.state.truth, (on) => { this.state.truth = on; this.draw(); }),
      tick('Predicted mask', this.state.predicted, (on) => { this.state.predicted = on; this.draw(); }));
    if (this.optionsRow) {
      const focused = this.optionsRow.contains(document.activeElement);
      this.optionsRow.replaceWith(row);
      if (focused) row.querySelector('[aria-pressed="true"]').focus(); // else the keyboard would begin anew
    }
    this.optionsRow = row;
    return row;
  }

  /** Buttons that put the thresholds of all methods where they mean the same. */
  together() {
    const shared = index.methods[0].marks.map((mark) => mark.meaning)
      .filter((meaning) => index.methods.every((method) => method.marks.some((mark) => mark.meaning === meaning)));
    const put = (meaning) => {
      this.controls.forEach((control) => control.place(control.method.marks.find((mark) => mark.meaning === meaning).bin));
      this.draw();
    };
    return shared.length ? make('div', { class: 'together', role: 'group', 'aria-label': 'Thresholds of all methods' },
      make('span', { class: 'note' }, 'All thresholds at'),
      ...shared.map((meaning) => make('button', { type: 'button', click: () => put(meaning) }, meaning))) : '';
  }

  legend() {
    return make('p', { class: 'legend' },
      make('span', { class: 'key predicted' }), 'predicted mask: all that reaches the threshold',
      make('span', { class: 'key truth' }), 'outline of the true mask',
      make('span', {}, 'Left in the picture is the patient\u2019s right, where the files say how the patient lies.'));
  }

  /** What the marked thresholds are. */
  meaning() {
    const known = index.methods[0].marks.map((mark) => mark.meaning);
    const rates = known.some((meaning) => meaning.includes('FPR'))
      ? '\u201c1 % FPR\u201d marks 1 % of the pixels of the healthy images. ' : '';
    const best = known.includes('best Dice')
      ? '\u201cBest Dice\u201d is the highest that one threshold gives over all images with masks, shown by the hill: it was '
        + 'chosen with the labels, an upper bound.' : '';
    return make('p', { class: 'note' }, `${rates}${best} ${index.note}`);
  }

  /** Load and show the case that is chosen. */
  async open() {
    const number = this.list.current;
    if (number === undefined) return;
    const described = index.cases[number];
    this.caption.replaceChildren(...describe(described));
    try {
      const content = await loadCase(number);
      if (number !== this.list.current) return; // another one was chosen meanwhile
      this.message.textContent = '';
      this.content = content;
      this.controls.forEach((control, i) => {
        control.of(new Counts(content.methods[i].map.values, content.label && content.label.values));
      });
      this.draw();
      this.film.take(this.several ? null : content.methods[0].film, described.name);
      document.documentElement.dataset.shown = described.name;
      this.list.near().forEach((near) => loadCase(near).catch(() => {}));
    } catch (error) {
      if (number !== this.list.current) return;
      this.empty();
      this.message.textContent = error.message;
    }
  }

  /** Show nothing, as long as a case cannot be shown: what was there is of another one. */
  empty() {
    this.content = null;
    this.panels.replaceChildren();
    this.controls.forEach((control) => control.of(null));
    this.film.take(null);
  }

  /** Draw every panel of the case. */
  draw() {
    if (!this.content) return;
    const panels = this.several ? this.panelsOfMethods() : this.panelsOfOne();
    while (this.panels.children.length > panels.length) this.panels.lastChild.remove();
    this.film.show(this.state.channel, this.state.colours);
    panels.forEach(([title, render], i) => {
      if (i === this.panels.children.length) this.panels.append(make('figure', {}, make('canvas', { role: 'img' }), make('figcaption')));
      const [canvas, caption] = this.panels.children[i].children;
      caption.textContent = title;
      canvas.setAttribute('aria-label', `${title} of ${index.cases[this.list.current].name}`);
      render(canvas);
    });
  }

  panelsOfOne() {
    const { input, methods: [method] } = this.content;
    const panels = [];
    if (this.state.view === 'over') panels.push(['Anomaly map over the input', (canvas) => this.overlay(canvas, 0)]);
    if (input) panels.push([`Input${this.channelName()}`, (canvas) => this.input(canvas, input, 0)]);
    if (method.reconstruction) {
      panels.push([`Reconstruction${this.channelName()}`, (canvas) => {
        const { shape, values } = method.reconstruction[this.state.channel];
        paint(canvas, grey(values), shape);
      }]);
    }
    if (method.flip) {
      panels.push(['Flip probability, colours up to 25 %', (canvas) => {
        // Few bits look flipped: a quarter already is the end of the colours.
        const values = method.flip.values.map((value) => Math.min(255, 4 * value));
        paint(canvas, coloured(values, colourTables[this.state.colours]), method.flip.shape);
      }]);
    }
    if (this.state.view === 'side') panels.push(['Anomaly map', (canvas) => this.map(canvas, 0)]);
    return panels;
  }

  panelsOfMethods() {
    const { input } = this.content;
    const panels = input ? [[`Input${this.channelName()}`, (canvas) => this.input(canvas, input)]] : [];
    const draw = this.state.view === 'over' && input ? 'overlay' : 'map';
    return [...panels, ...index.methods.map((method, i) => [method.name, (canvas) => this[draw](canvas, i)])];
  }

  channelName() {
    return index.channels.length > 1 ? `, ${index.channels[this.state.channel]}` : '';
  }

  /** The outlines that are asked for; method: whose prediction, undefined for the truth alone. */
  outlines(method) {
    const { label, methods } = this.content;
    const lines = [];
    if (this.state.predicted && method !== undefined) {
      lines.push({ inside: reaching(methods[method].map.values, this.controls[method].bin), colour: PREDICTED });
    }
    if (this.state.truth && label) lines.push({ inside: label.values, colour: TRUTH, dashed: true });
    return lines;
  }

  input(canvas, input, method) {
    const { shape, values } = input[this.state.channel];
    const lines = this.outlines(method);
    const pixels = grey(values);
    lines.filter((line) => !line.dashed).forEach((line) => tint(pixels, line.inside, line.colour, 0.45));
    paint(canvas, pixels, shape, lines);
  }

  map(canvas, method) {
    const { shape, values } = this.content.methods[method].map;
    const pixels = coloured(values, colourTables[this.state.colours], lookupOf(index.methods[method]));
    paint(canvas, pixels, shape, this.outlines(method));
  }

  /** The map over the input, opaque where the score is high; alone where no input is stored. */
  overlay(canvas, method) {
    const { input, methods } = this.content;
    if (!input) {
      this.map(canvas, method);
      return;
    }
    const { shape, values } = methods[method].map;
    const most = 255 * (this.state.opacity / 100);
    const above = coloured(values, colourTables[this.state.colours], lookupOf(index.methods[method]),
      (place) => Math.min(most, (most * place) / 96));
    paint(canvas, layOver(grey(input[this.state.channel].values), above), shape, this.outlines(method));
  }
}
