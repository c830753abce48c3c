// A WAV file of 24 bits: what a microphone gives, without loss.
const WIDTH = 3; // bytes of a sample

// Interleaved samples as a WAV file has them.
export function pcm(samples) {
  const bytes = new Uint8Array(WIDTH * samples.length);
  let place = 0;
  for (const sample of samples) {
    const value = Math.max(-8388608, Math.min(8388607, Math.round(8388608 * sample)));
    bytes[place++] = value;
    bytes[place++] = value >> 8;
    bytes[place++] = value >> 16;
  }
  return bytes;
}

// From the parts that pcm() gave, one after the other.
export function wavOf(parts, channels, rate) {
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const padding = size % 2;
  const header = new DataView(new ArrayBuffer(44));
  const text = (place, letters) => [...letters].forEach((letter, index) => header.setUint8(place + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + size + padding, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // integers
  header.setUint16(22, channels, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * WIDTH * channels, true);
  header.setUint16(32, WIDTH * channels, true);
  header.setUint16(34, 8 * WIDTH, true);
  text(36, "data");
  header.setUint32(40, size, true);
  return new Blob([header, ...parts, new Uint8Array(padding)], { type: "audio/wav" });
}

export function wav(channels, rate) {
  const count = channels.length;
  const samples = new Float32Array(count * channels[0].length);
  channels.forEach((track, channel) => track.forEach((value, place) => { samples[place * count + channel] = value; }));
  return wavOf([pcm(samples)], count, rate);
}
