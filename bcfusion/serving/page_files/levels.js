// Gains that bring sounds to one level of speech, by the rule of the listening page.
const FRAME = 0.02; // s
const ACTIVE = 30; // dB below the loudest frame; quieter ones are pauses
const LEVEL = -26; // dBFS, active
const HEADROOM = -1; // dBFS that no peak exceeds
const MOST = 40; // dB

// Root mean square of the frames that are speech.
export function activeLevel(samples, rate) {
  const frame = Math.min(Math.max(1, Math.round(FRAME * rate)), samples.length);
  const count = Math.floor(samples.length / frame);
  const frames = Array.from({ length: count }, (_, index) => {
    const end = index === count - 1 ? samples.length : (index + 1) * frame; // a remainder is counted with the last one
    let energy = 0;
    for (let place = index * frame; place < end; place++) energy += samples[place] ** 2;
    return { energy, length: end - index * frame };
  });
  const loudest = frames.reduce((most, { energy, length }) => Math.max(most, energy / length), 0);
  const active = frames.filter(({ energy, length }) => energy / length >= loudest * 10 ** (-ACTIVE / 10));
  const [energy, length] = active.reduce(([e, n], each) => [e + each.energy, n + each.length], [0, 0]);
  return length ? Math.sqrt(energy / length) : 0;
}

export function peak(samples) {
  let most = 0;
  for (let place = 0; place < samples.length; place++) most = Math.max(most, Math.abs(samples[place]));
  return most;
}

// In dB, one for each signal.
export function levelGains(signals, rate) {
  const gains = signals.map((samples) => {
    const active = activeLevel(samples, rate);
    return active > 1e-7 ? Math.min(LEVEL - 20 * Math.log10(active), MOST) : 0;
  });
  const peaks = signals.map((samples, index) => 20 * Math.log10(Math.max(peak(samples), 1e-9)) + gains[index]);
  const over = Math.max(0, Math.max(...peaks) - HEADROOM);
  return gains.map((gain) => gain - over);
}
