'use strict';
// Cases: from text in the page, or from a file beside it, to arrays of numbers.

// What goes wrong is kept where a test, or a reader who reports it, finds it: html[data-errors].
const faults = [];
function fault(message) {
  faults.push(String(message));
  document.documentElement.dataset.errors = faults.join('\n');
}
addEventListener('error', (event) => fault(event.message || `${event.target.src || event.target} was not loaded`), true);
addEventListener('unhandledrejection', (event) => fault(event.reason));
addEventListener('securitypolicyviolation', (event) => fault(`refused: ${event.blockedURI}`));

const ZERO_BIN = 0x7bff; // bins count float16 numbers from the lowest; so many lie below 0
const index = JSON.parse(document.getElementById('index').textContent);

/** The score that a bin stands for; scale: the method's. */
function valueOf(bin, scale) {
  const bits = Math.abs(bin - ZERO_BIN);
  const exponent = bits >> 10;
  const fraction = bits & 0x3ff;
  const magnitude = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  return (bin < ZERO_BIN ? -magnitude : magnitude) / scale;
}

/** The lowest bin whose score is at least a value; bins rise with their scores. */
function binOf(value, scale) {
  let [low, high] = [0, 2 * ZERO_BIN + 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (valueOf(middle, scale) >= value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** {shape, bits, data} -> {shape, values}: base64, deflated; of 16 bits all low bytes, then all high ones. */
async function unpacked(packed) {
  const text = atob(packed.data);
  const deflated = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) deflated[i] = text.charCodeAt(i);
  const count = packed.shape.reduce((product, length) => product * length, 1);
  const bytes = new Uint8Array(count * (packed.bits / 8));
  const stream = new DecompressionStream('deflate');
  const writer = stream.writable.getWriter();
  const written = writer.write(deflated).then(() => writer.close());
  const reader = stream.readable.getReader();
  for (let place = 0; ;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, place);
    place += value.length;
  }
  await written;
  if (packed.bits === 8) return { shape: packed.shape, values: bytes };
  const values = new Uint16Array(count);
  for (let i = 0; i < count; i += 1) values[i] = bytes[i] | (bytes[count + i] << 8);
  return { shape: packed.shape, values };
}

/** Everything of a case that is packed, at any depth. */
async function unpackedDeep(content) {
  if (Array.isArray(content)) return Promise.all(content.map(unpackedDeep));
  if (content === null || typeof content !== 'object') return content;
  if (typeof content.data === 'string') return unpacked(content);
  const entries = await Promise.all(Object.entries(content).map(async ([key, value]) => [key, await unpackedDeep(value)]));
  return Object.fromEntries(entries);
}

const awaited = new Map(); // file -> what to do with the content that it will hand over
function reportCase(file, content) {
  const take = awaited.get(file);
  awaited.delete(file);
  if (take) take(content);
}

function contentOf(number) {
  const inside = document.getElementById(`case-${number}`);
  if (inside) return Promise.resolve(JSON.parse(inside.textContent));
  return new Promise((resolve, reject) => {
    const script = document.createElement('script');
    const { file } = index.cases[number];
    awaited.set(file, resolve);
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${index.folder}/${file} is missing: the folder ${index.folder} belongs beside this page.`));
    script.src = `${index.folder}/${encodeURIComponent(file)}`;
    document.head.append(script);
  });
}

const RECENT = 12; // cases that stay unpacked
const unpackedCases = new Map();

/** A case's content by its number, a promise. */
function loadCase(number) {
  let found = unpackedCases.get(number);
  if (!found) found = contentOf(number).then(unpackedDeep);
  unpackedCases.delete(number);
  unpackedCases.set(number, found);
  found.catch(() => unpackedCases.delete(number)); // it may be there when it is asked for again
  if (unpackedCases.size > RECENT) unpackedCases.delete(unpackedCases.keys().next().value);
  return found;
}

/** A number as Python writes it with so many digits: halves that are exact go to the even digit. */
function fixed(number, digits) {
  const shifted = Math.abs(number) * 10 ** digits;
  const whole = Math.floor(shifted);
  if (shifted - whole === 0.5 && shifted < 2 ** 40 && whole % 2 === 0 && Number.isInteger(number * 2 ** 20)) {
    return (Math.sign(number) * whole / 10 ** digits).toFixed(digits);
  }
  return number.toFixed(digits);
}

/** A number with four significant digits, as Python's format ".4g". */
function short(number) {
  if (number === 0) return '0';
  const exponent = Number(number.toExponential(3).split('e')[1]);
  if (exponent < -4 || exponent > 3) {
    const [digits, power] = number.toExponential(3).split('e');
    return `${Number(digits)}e${power[0]}${power.slice(1).padStart(2, '0')}`;
  }
  return String(Number(fixed(number, 3 - exponent)));
}
