'use strict';
// The list of cases: sorted, filtered, gone through by buttons, by arrow keys and on the strip of scores.

const isHealthy = (each) => each.group === 'healthy' || each.diseased === false;
const numberOf = (each, key) => (key === 'film' ? each.film || undefined : each.numbers[index.leading][key]);
// By whose numbers cases are sorted and described, where there are several methods.
const leadingName = index.methods.length > 1 ? index.methods[index.leading].name : '';
const byName = (a, b) => `${a.patient}\n${a.name}`.localeCompare(`${b.patient}\n${b.name}`, 'en', { numeric: true });

/** Sort by a number; cases that have none come last, in the order of their names. */
function sortedBy(key, sign) {
  return (a, b) => {
    const [first, second] = [numberOf(a, key), numberOf(b, key)];
    if (first === undefined || second === undefined) {
      return (first === undefined) - (second === undefined) || byName(a, b);
    }
    return sign * (first - second) || byName(a, b);
  };
}

const ORDERS = [
  ['interest', index.kind === 'slices' ? 'what to look at first' : 'the table', null, null],
  ['score', 'image score, highest first', 'score', -1],
  ['lowest-score', 'image score, lowest first', 'score', 1],
  ['dice', 'Dice at 1 % FPR, highest first', 'dice', -1],
  ['lowest-dice', 'Dice at 1 % FPR, lowest first', 'dice', 1],
  ['best-dice', 'best Dice of the image, highest first', 'best_dice', -1],
  ['lowest-best-dice', 'best Dice of the image, lowest first', 'best_dice', 1],
  ['ap', 'AP, highest first', 'ap', -1],
  ['lowest-ap', 'AP, lowest first', 'ap', 1],
  ['film', 'those with a film first', 'film', 1],
  ['name', 'patient and name', null, null],
];

/** What is known of a case, as elements of a line. */
function describe(each) {
  if (index.kind === 'volumes') return [make('strong', {}, each.name), ...each.facts.map((fact) => make('span', {}, fact))];
  const parts = [make('strong', {}, each.name), each.patient === each.name ? '' : `patient ${each.patient}`];
  if (isHealthy(each)) parts.push('healthy');
  else if (each.lesion_pixels) parts.push(`lesion of ${each.lesion_pixels.toLocaleString('en')} pixels`);
  else if (each.diseased) parts.push('diseased');
  else parts.push(each.lesion_pixels === 0 ? 'empty mask' : 'no mask');
  const labels = { score: 'image score', ap: 'AP', dice: 'Dice at 1 % FPR', best_dice: 'best Dice' };
  if (leadingName) parts.push(`${leadingName}:`);
  for (const [key, label] of Object.entries(labels)) {
    const number = numberOf(each, key);
    if (number !== undefined) parts.push(`${label} ${key === 'score' ? short(number) : fixed(number, 3)}`);
  }
  return parts.filter(Boolean).map((part) => make('span', {}, part));
}

class CaseList {
  /** onChoose: called when another case is chosen. */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.order = 'interest';
    this.group = 'all';
    const scores = index.cases.map((each) => numberOf(each, 'score'));
    this.scores = [Math.min(0, ...scores), Math.max(...scores)];
    this.select = make('select', { 'aria-label': 'Case', class: 'case', change: () => this.go(Number(this.select.value)) });
    this.position = make('span', { class: 'position' });
    // Of few cases the list says as much.
    this.strip = make('canvas', { class: 'strip', hidden: index.cases.length < 4, 'aria-hidden': 'true', click: (event) => this.nearest(event) });
    const counts = { healthy: index.cases.filter(isHealthy).length };
    counts.diseased = index.cases.length - counts.healthy;
    const orders = ORDERS.filter(([, , key]) => !key || index.cases.some((each) => numberOf(each, key) !== undefined));
    const groups = [['all', `all ${index.cases.length}`], ['diseased', `${counts.diseased} diseased`], ['healthy', `${counts.healthy} healthy`]];
    this.groups = choice('Show', groups, 'all', (value) => { this.group = value; this.arrange(true); });
    this.groups.hidden = !counts.healthy || !counts.diseased;
    this.element = make('div', { class: 'cases' },
      make('div', { class: 'bar' },
        make('button', { type: 'button', class: 'step', 'aria-label': 'Previous case', title: 'Previous (left arrow)', click: () => this.step(-1) }, '\u2190'),
        this.select,
        make('button', { type: 'button', class: 'step', 'aria-label': 'Next case', title: 'Next (right arrow)', click: () => this.step(1) }, '\u2192'),
        this.position,
        choice('Sorted by', orders.map(([value, text, key]) => [value, leadingName && key ? `${leadingName}: ${text}` : text]), this.order, (value) => { this.order = value; this.arrange(true); }),
        this.groups),
      this.strip,
      make('p', { class: 'note' },
        this.strip.hidden ? '' : `Every dot is a case at its score, from ${short(this.scores[0])} to ${short(this.scores[1])}. `,
        leadingName ? `Cases are sorted and described by the numbers of ${leadingName}. ` : '',
        'Left and right arrow keys go through the cases.',
        index.left_out ? ` ${index.left_out.toLocaleString('en')} further images are not in the viewer.` : ''));
    this.arrange(false);
    document.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.drawStrip()).observe(this.strip);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.drawStrip());
  }

  get current() {
    return this.shown[this.place];
  }

  /** Put the list in its order; first: whether to go to its first case, else the current one stays. */
  arrange(first) {
    const kept = this.shown && this.current;
    const [, , key, sign] = ORDERS.find(([value]) => value === this.order);
    const wanted = { all: () => true, healthy: isHealthy, diseased: (each) => !isHealthy(each) }[this.group];
    const numbered = index.cases.map((each, number) => [each, number]).filter(([each]) => wanted(each));
    if (key) numbered.sort(([a], [b]) => sortedBy(key, sign)(a, b));
    else if (this.order === 'name') numbered.sort(([a], [b]) => byName(a, b));
    this.shown = numbered.map(([, number]) => number);
    this.select.replaceChildren(...numbered.map(([each, number]) => make('option', { value: number },
      `${each.name}${isHealthy(each) ? ' (healthy)' : ''}`)));
    this.place = first ? 0 : Math.max(0, this.shown.indexOf(kept));
    if (first) this.changed();
  }

  /** Choose by name, or the first where there is none of this name. */
  choose(name) {
    const number = index.cases.findIndex((each) => each.name === name);
    this.go(number < 0 ? this.shown[0] : number);
  }

  go(number) {
    if (!this.shown.includes(number)) {
      this.group = 'all';
      this.groups.querySelector('select').value = this.group;
      this.arrange(false);
    }
    this.place = Math.max(0, this.shown.indexOf(number));
    this.changed();
  }

  step(by) {
    const place = this.place + by;
    if (place < 0 || place >= this.shown.length) return;
    this.place = place;
    this.changed();
  }

  changed() {
    this.select.value = this.current;
    this.position.textContent = `${this.place + 1} of ${this.shown.length}`;
    this.drawStrip();
    this.onChoose();
  }

  /** The cases before and after this one. */
  near() {
    return [this.shown[this.place + 1], this.shown[this.place - 1]].filter((number) => number !== undefined);
  }

  key(event) {
    // Where arrows move a slider or the place in a text, or choose: not on a box that is ticked.
    const takesArrows = event.target.closest && event.target.closest('input:not([type="checkbox"]), select, textarea');
    if (takesArrows || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === 'ArrowLeft') this.step(-1);
    else if (event.key === 'ArrowRight') this.step(1);
    else return;
    event.preventDefault();
  }

  /** Where a case lies on the strip, in CSS pixels: its score across, healthy ones above. */
  placeOf(number, width, height) {
    const [low, high] = this.scores;
    const across = (numberOf(index.cases[number], 'score') - low) / (high - low || 1);
    const spread = ((number * 0.618034) % 1) - 0.5;
    return [8 + across * (width - 72), height * ((isHealthy(index.cases[number]) ? 0.28 : 0.72) + 0.3 * spread)];
  }

  drawStrip() {
    const { clientWidth: width, clientHeight: height } = this.strip;
    if (!width) return;
    const dots = devicePixelRatio || 1;
    [this.strip.width, this.strip.height] = [width * dots, height * dots];
    const context = this.strip.getContext('2d');
    context.scale(dots, dots);
    const style = getComputedStyle(this.strip);
    for (const number of this.shown) {
      const [x, y] = this.placeOf(number, width, height);
      context.fillStyle = style.getPropertyValue(isHealthy(index.cases[number]) ? '--healthy' : '--diseased');
      context.globalAlpha = 0.55;
      context.beginPath();
      context.arc(x, y, 2.2, 0, 7);
      context.fill();
    }
    const [x, y] = this.placeOf(this.current, width, height);
    context.globalAlpha = 1;
    context.fillStyle = style.getPropertyValue('--quiet');
    context.font = `11px ${style.fontFamily}`;
    if (this.shown.some((number) => isHealthy(index.cases[number]))) {
      context.textAlign = 'right';
      context.fillText('healthy', width - 2, 13);
      context.fillText(index.cases.some((each) => each.diseased) ? 'diseased' : 'others', width - 2, height - 6);
    }
    context.strokeStyle = style.color;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 6, 0, 7);
    context.stroke();
  }

  /** Go to the case whose dot is nearest to a click. */
  nearest(event) {
    const { left, top, width, height } = this.strip.getBoundingClientRect();
    const far = (number) => {
      const [x, y] = this.placeOf(number, width, height);
      return Math.hypot(x - (event.clientX - left), y - (event.clientY - top));
    };
    this.go(this.shown.reduce((best, number) => (far(number) < far(best) ? number : best), this.shown[0]));
  }
}
