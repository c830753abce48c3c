// Band-limited resampling of a stream by a ratio of whole numbers: a bank of Kaiser-windowed sinc filters.
const ZERO_CROSSINGS = 48; // on each side of the kernel
const BETA = 10; // Kaiser window: what lies beyond the transition band is 100 dB down
const TRANSITION = 1 - BETA / (Math.PI * ZERO_CROSSINGS); // centre of the transition band, which ends at half the lower rate

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

// Modified Bessel function of order 0, by its series.
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

// One channel. Output k is the input at time k / to, without delay: it is given as soon as the input it needs is there.
export class Resampler {
  // from, to: sample rates in Hz, whole numbers.
  constructor(from, to) {
    const common = gcd(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = Math.min(1, to / from) * TRANSITION; // of half the input's rate
    this.half = Math.ceil(ZERO_CROSSINGS * Math.max(1, from / to)); // input samples on each side
    this.taps = 2 * this.half;
    this.delay = this.half / from; // s that the newest output lags behind the newest input
    this.bank = Array.from({ length: this.up }, (_, phase) => this.#kernel(phase / this.up, cutoff));
    this.kept = new Float32Array(this.half - 1); // as if there had been silence before
    this.place = 0; // of the next output in `kept`, in steps of 1 / up of an input sample
  }

  // Weights for an output that lies `fraction` of a sample after the tap half - 1.
  #kernel(fraction, cutoff) {
    const weights = Float64Array.from({ length: this.taps }, (_, tap) => {
      const t = tap - (this.half - 1) - fraction;
      const sinc = t === 0 ? 1 : Math.sin(Math.PI * cutoff * t) / (Math.PI * cutoff * t);
      const edge = 1 - (t / this.half) ** 2;
      return edge <= 0 ? 0 : sinc * bessel(BETA * Math.sqrt(edge));
    });
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return weights.map((weight) => weight / sum); // every phase has gain 1 at 0 Hz
  }

  // Takes input of any length; returns the output that is complete.
  process(input) {
    const samples = new Float32Array(this.kept.length + input.length);
    samples.set(this.kept);
    samples.set(input, this.kept.length);
    const last = samples.length - this.taps; // first tap of the last output that is complete
    const count = Math.max(0, Math.floor((last * this.up + this.up - 1 - this.place) / this.down) + 1);
    const output = new Float32Array(count);
    for (let index = 0; index < count; index++) {
      const first = Math.floor(this.place / this.up);
      const weights = this.bank[this.place % this.up];
      let sum = 0;
      for (let tap = 0; tap < this.taps; tap++) sum += weights[tap] * samples[first + tap];
      output[index] = sum;
      this.place += this.down;
    }
    const used = Math.min(Math.floor(this.place / this.up), samples.length);
    this.kept = samples.slice(used);
    this.place -= used * this.up;
    return output;
  }
}
