// Spectrograms, drawn as those of the listening page: window of 32 ms, 80 dB below a common maximum.
const WINDOW = 0.032; // s
const RANGE = 80; // dB
const ROWS = 256; // at most
// of the colour map magma, at equal steps; the legend shows the same
const STOPS = ["000004", "1d1147", "51127c", "822681", "b63679", "e65164", "fb8861", "fec287", "fcfdbf"];

// In-place FFT of complex values, a power of two of them.
export class Fft {
  constructor(size) {
    this.size = size;
    const bits = Math.log2(size);
    this.order = Uint32Array.from({ length: size }, (_, place) => {
      let mirrored = 0;
      for (let bit = 0; bit < bits; bit++) mirrored |= ((place >> bit) & 1) << (bits - 1 - bit);
      return mirrored;
    });
    this.cosines = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this.sines = Float64Array.from({ length: size / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
  }

  run(real, imaginary) {
    const { size, order, cosines, sines } = this;
    for (let place = 0; place < size; place++) {
      const other = order[place];
      if (other <= place) continue;
      [real[place], real[other]] = [real[other], real[place]];
      [imaginary[place], imaginary[other]] = [imaginary[other], imaginary[place]];
    }
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [low, high] = [start + k, start + k + half];
          const [c, s] = [cosines[k * step], sines[k * step]];
          const re = real[high] * c - imaginary[high] * s;
          const im = real[high] * s + imaginary[high] * c;
          real[high] = real[low] - re;
          imaginary[high] = imaginary[low] - im;
          real[low] += re;
          imaginary[low] += im;
        }
      }
    }
  }
}

// Magnitudes of a signal in at most `columns` times and 256 frequencies from 0 to half the rate; each is the largest
// that falls into it, so that no line is lost. { values: Float32Array, row after row from the lowest, rows, columns }
export function magnitudes(samples, rate, columns) {
  const window = Math.max(16, 2 * Math.round((WINDOW * rate) / 2));
  const size = 2 ** Math.ceil(Math.log2(window) + 1); // zero-padded: harmonics become smooth lines
  const hop = Math.max(window >> 2, Math.ceil(samples.length / (2 * columns)));
  const frames = Math.max(1, Math.ceil(samples.length / hop));
  const shape = { rows: Math.min(ROWS, size / 2), columns: Math.min(columns, frames) };
  const values = new Float32Array(shape.rows * shape.columns);
  const weights = Float64Array.from({ length: window }, (_, place) => 0.5 - 0.5 * Math.cos((2 * Math.PI * place) / window));
  const fft = new Fft(size);
  const [real, imaginary] = [new Float64Array(size), new Float64Array(size)];
  for (let frame = 0; frame < frames; frame++) {
    real.fill(0);
    imaginary.fill(0);
    const from = frame * hop - (window >> 1);
    for (let place = 0; place < window; place++) real[place] = weights[place] * (samples[from + place] || 0);
    fft.run(real, imaginary);
    const column = Math.floor((frame * shape.columns) / frames);
    for (let bin = 0; bin < size / 2; bin++) {
      const place = Math.floor((bin * shape.rows * 2) / size) * shape.columns + column;
      values[place] = Math.max(values[place], Math.hypot(real[bin], imaginary[bin]));
    }
  }
  return { values, ...shape };
}

const palette = Uint8ClampedArray.from({ length: 3 * 256 }, (_, place) => {
  const at = (Math.floor(place / 3) / 255) * (STOPS.length - 1);
  const stop = Math.min(STOPS.length - 2, Math.floor(at));
  const [low, high] = [stop, stop + 1].map((index) => Number.parseInt(STOPS[index].slice(2 * (place % 3), 2 * (place % 3) + 2), 16));
  return low + (at - stop) * (high - low);
});

// Draws magnitudes, `factor` times as large, into a canvas; top: magnitude of the brightest colour.
export function draw(canvas, { values, rows, columns }, factor, top) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const level = 20 * Math.log10(Math.max((values[row * columns + column] * factor) / top, 1e-10));
      const colour = 3 * Math.max(0, Math.min(255, Math.round(255 * (1 + level / RANGE))));
      const place = 4 * ((rows - 1 - row) * columns + column);
      for (let part = 0; part < 3; part++) picture.data[place + part] = palette[colour + part];
      picture.data[place + 3] = 255;
    }
  }
  context.putImageData(picture, 0, 0);
}
