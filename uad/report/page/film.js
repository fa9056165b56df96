'use strict';
// The film of a denoising: the bits, those that may change, and the image, after each step.

const FRAME_MS = 500;

class Film {
  constructor() {
    this.slider = make('input', { type: 'range', min: 0, step: 1, 'aria-label': 'Step of the denoising', input: () => this.draw() });
    this.button = make('button', { type: 'button', click: () => (this.timer ? this.stop() : this.play()) }, 'Play');
    this.step = make('span', { class: 'position' });
    this.figures = ['Share of a position\u2019s bits that are set', 'Share of its bits that may change', 'Decoded image'].map((title) => make('figure', {},
      make('canvas', { role: 'img', 'aria-label': title }), make('figcaption', {}, title)));
    this.element = make('div', { class: 'film', hidden: true },
      make('h3', {}, 'Film of the denoising'), make('div', { class: 'bar' }, this.button, this.slider, this.step),
      make('div', { class: 'panels' }, ...this.figures));
    this.content = null;
    this.timer = null;
    [this.channel, this.colours] = [index.shown_channel, 'inferno'];
  }

  /** film: of the case that is shown, undefined or null where it has none. */
  take(film) {
    this.stop();
    this.content = film || null;
    this.element.hidden = !film;
    if (!film) return;
    this.slider.max = film.levels.length - 1;
    this.slider.value = this.slider.max;
    this.draw();
  }

  show(channel, colours) {
    [this.channel, this.colours] = [channel, colours];
    this.draw();
  }

  /** From the first frame to the last, once. */
  play() {
    this.slider.value = 0;
    this.button.textContent = 'Stop';
    this.timer = setInterval(() => {
      if (Number(this.slider.value) >= Number(this.slider.max)) this.stop();
      else this.slider.value = Number(this.slider.value) + 1;
      this.draw();
    }, FRAME_MS);
    this.draw();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = 'Play';
  }

  draw() {
    if (!this.content) return;
    const frame = Number(this.slider.value);
    const { levels, bits, mask, images } = this.content;
    const [, rows, columns] = bits.shape;
    const table = colourTables[this.colours];
    const of = (values, place, size) => values.subarray(place * size, (place + 1) * size);
    const [first, second, third] = this.figures.map((figure) => figure.querySelector('canvas'));
    paint(first, coloured(of(bits.values, frame, rows * columns), table), [rows, columns]);
    paint(second, coloured(of(mask.values, frame, rows * columns), table), [rows, columns]);
    const [, , height, width] = images.shape;
    paint(third, grey(of(images.values, this.channel * levels.length + frame, height * width)), [height, width]);
    this.step.textContent = frame === 0 ? 'the code of the image' : `step ${frame} of ${levels.length - 1}, to noise level ${levels[frame]}`;
  }
}
