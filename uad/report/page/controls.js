'use strict';
// Elements of the page, and the control of a method's threshold with its live counts.

/** An element with attributes (functions become listeners) and children; text is text, whatever it says. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** A drop-down with a label; choices: [value, text] pairs. */
function choice(label, choices, chosen, onChange) {
  const options = choices.map(([value, text]) => make('option', { value, selected: value === chosen }, text));
  const select = make('select', { change: () => onChange(select.value) }, ...options);
  return make('label', { class: 'field' }, make('span', {}, label), select);
}

/** A box to tick, with a label. */
function tick(label, ticked, onChange) {
  const box = make('input', { type: 'checkbox', checked: ticked, change: () => onChange(box.checked) });
  return make('label', { class: 'tick' }, box, label);
}

/** Buttons of which one is pressed; choices: [value, text] pairs. */
function switched(label, choices, chosen, onChange) {
  const buttons = choices.map(([value, text]) => make('button', {
    type: 'button',
    'aria-pressed': String(value === chosen),
    click: () => {
      buttons.forEach((button, i) => button.setAttribute('aria-pressed', String(choices[i][0] === value)));
      onChange(value);
    },
  }, text));
  return make('div', { class: 'switch', role: 'group', 'aria-label': label }, ...buttons);
}

/** The number that the page's address asks for under a key, null where there is none. */
function askedNumber(asked, key) {
  const text = asked.get(key);
  return text && Number.isFinite(Number(text)) ? Number(text) : null;
}

/** How many pixels in and outside of the truth reach each bin; without truth all are outside. */
class Counts {
  constructor(bins, truth) {
    this.inside = new Uint32Array(2 * ZERO_BIN + 2);
    this.outside = new Uint32Array(2 * ZERO_BIN + 2);
    this.known = Boolean(truth);
    for (let i = 0; i < bins.length; i += 1) (truth && truth[i] ? this.inside : this.outside)[bins[i]] += 1;
    for (let bin = 2 * ZERO_BIN; bin >= 0; bin -= 1) {
      this.inside[bin] += this.inside[bin + 1];
      this.outside[bin] += this.outside[bin + 1];
    }
  }

  /** Confusion counts where everything from a bin on is called positive; dice is null without a lesion. */
  at(bin) {
    const [tp, fp] = [this.inside[bin], this.outside[bin]];
    const [fn, tn] = [this.inside[0] - tp, this.outside[0] - fp];
    return { tp, fp, fn, tn, dice: tp + fn ? (2 * tp) / (2 * tp + fp + fn) : null };
  }
}

/**
 * The slider of a method's threshold, what its places mean, and the counts of the case that is shown. Where no threshold
 * has a meaning there is none until one is chosen: nothing is marked or counted.
 */
class ThresholdControl {
  /**
   * method: of the index; onChange: called after every move; shownCounts: name, label and meaning of each count;
   * texts: name -> how the counts at the threshold, and whether there is a truth, become text.
   */
  constructor(method, onChange, shownCounts, texts) {
    this.method = method;
    this.onChange = onChange;
    this.texts = texts;
    this.counts = null;
    const [first, last] = method.bins;
    const id = `threshold-${Math.max(0, index.methods.indexOf(method))}`;
    this.slider = make('input', {
      type: 'range', id, min: first, max: last, step: 1, class: 'threshold', input: () => this.move(Number(this.slider.value)),
    });
    this.typed = make('input', {
      type: 'number', step: 'any', placeholder: 'no threshold', 'aria-label': `Threshold of ${method.name}, as a score`,
      change: () => { if (this.typed.value !== '') this.move(binOf(Number(this.typed.value), method.scale)); },
    });
    this.marks = method.marks.map((mark) => make('button', {
      type: 'button', 'aria-pressed': 'false', title: `Threshold ${mark.value}: ${mark.meaning}`, click: () => this.move(mark.bin),
    }, mark.meaning));
    // Of what changes with every move, screen readers say the first alone.
    this.outputs = Object.fromEntries(shownCounts.map(([key], i) => [key,
      make('output', { for: id, class: key, 'aria-live': i === 0 ? 'polite' : 'off' })]));
    this.element = make('div', { class: 'method' },
      make('label', { for: id, class: 'name' }, index.methods.length > 1 ? method.name : 'Threshold'),
      make('div', { class: 'track' }, this.curve(), this.slider),
      make('div', { class: 'marks' }, this.typed, ...this.marks),
      make('dl', { class: 'counts' }, ...shownCounts.map(([key, label, meaning]) => make('div', {},
        make('dt', { title: meaning }, label), make('dd', {}, this.outputs[key])))));
    this.bin = Infinity; // of no threshold: nothing reaches it
    this.slider.value = last;
    this.slider.setAttribute('aria-valuetext', 'no threshold');
    const mark = method.marks.find((each) => each.meaning.startsWith('1 %')) || method.marks.at(-1);
    if (mark) this.place(mark.bin);
  }

  /** Dice of all images together over the slider, with a line at every mark; for the eye only. */
  curve() {
    const svg = document.getElementById('drawing').cloneNode(); // an element that knows its name space
    svg.removeAttribute('id');
    svg.removeAttribute('hidden');
    svg.setAttribute('viewBox', '0 0 1000 100');
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const [first, last] = this.method.bins;
    const across = (bin) => (1000 * (bin - first)) / Math.max(1, last - first);
    const draw = (name, attributes) => {
      const shape = document.createElementNS(svg.namespaceURI, name);
      Object.entries(attributes).forEach(([key, value]) => shape.setAttribute(key, value));
      svg.append(shape);
    };
    if (this.method.curve.length) {
      const points = this.method.curve.map(([bin, dice]) => `${across(bin).toFixed(1)},${(100 - 96 * dice).toFixed(1)}`);
      const ends = [across(this.method.curve[0][0]), across(this.method.curve.at(-1)[0])];
      draw('polygon', { points: `${ends[0]},100 ${points.join(' ')} ${ends[1]},100` });
    }
    this.method.marks.forEach((mark) => draw('line', { x1: across(mark.bin), x2: across(mark.bin), y1: 0, y2: 100 }));
    return svg;
  }

  /** Put the threshold at a bin, without telling anyone; value: the score that is shown for it, else the bin's. */
  place(bin, value) {
    const [first, last] = this.method.bins;
    this.bin = Math.min(last, Math.max(first, bin));
    this.slider.value = this.bin;
    const { mark } = this;
    const shown = mark ? mark.value : value || short(valueOf(this.bin, this.method.scale));
    this.typed.value = shown;
    this.slider.setAttribute('aria-valuetext', mark ? `${shown}, ${mark.meaning}` : shown);
    this.marks.forEach((button, i) => button.setAttribute('aria-pressed', String(this.method.marks[i].bin === this.bin)));
    this.show();
  }

  /** The meaning of the threshold, undefined where it has none. */
  get mark() {
    return this.method.marks.find((each) => each.bin === this.bin);
  }

  move(bin) {
    this.place(bin);
    this.onChange();
  }

  /** counts: of the case that is shown, or null while there is none. */
  of(counts) {
    this.counts = counts;
    this.show();
  }

  show() {
    const found = this.counts && this.bin < Infinity ? this.counts.at(this.bin) : null;
    for (const [key, output] of Object.entries(this.outputs)) {
      output.textContent = found ? this.texts[key](found, this.counts.known) : '';
    }
  }
}
