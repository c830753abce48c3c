// Restore a WAV file with a network exported by `bcfusion export --sidecar`, in Node.js; needs onnxruntime-node.
//
//   npm install onnxruntime-node
//   node stream_onnx.mjs model.onnx input.wav output.wav
//
// The sidecar model.json lies beside model.onnx. The file goes through the network frame by frame, as a live stream would: a
// channel for each sensor in, one channel of 32-bit floats out, aligned with the input and as long. `Stream` runs in a browser
// too: there, import onnxruntime-web, fetch both files, and hand it whole frames, not the 128 samples of an AudioWorklet.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const PCM = 1, FLOAT = 3, EXTENSIBLE = 0xfffe;

function fail(message) {
  console.error(message);
  process.exit(1);
}

/** A network and its state. */
class Stream {
  static async open(path, threads = 1) {
    const stream = new Stream();
    stream.about = JSON.parse(readFileSync(path.replace(/\.onnx$/, ".json"), "utf8"));
    if (stream.about.kind !== "stream") fail(`${path} is not a streaming network: export it without --whole`);
    stream.session = await ort.InferenceSession.create(path, {
      intraOpNumThreads: threads,
      extra: { session: { set_denormal_as_zero: "1" } }, // a sound that fades out costs no more
    });
    stream.state = {};
    for (const { input, shape } of stream.about.states) {
      stream.state[input] = new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    }
    return stream;
  }

  /** Take the next frame, a Float32Array of all sensors one after the other; return one frame, late by `lookahead` samples. */
  async step(chunk) {
    const { frame, sensors, states } = this.about;
    const x = new ort.Tensor("float32", chunk, [1, sensors.length, frame]);
    const results = await this.session.run({ x, ...this.state });
    for (const { input, output } of states) this.state[input] = results[output];
    return results.y.data;
  }
}

/** Return rate, channels, length, and a function (channel, sample) -> number of a WAV file. */
function readWav(path) {
  const bytes = readFileSync(path);
  const text = (at) => bytes.toString("latin1", at, at + 4);
  if (text(0) !== "RIFF" || text(8) !== "WAVE") fail(`${path} is not a WAV file`);
  let kind, channels, rate, bits;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = text(at), size = bytes.readUInt32LE(at + 4), body = at + 8;
    if (name === "fmt ") {
      kind = bytes.readUInt16LE(body);
      channels = bytes.readUInt16LE(body + 2);
      rate = bytes.readUInt32LE(body + 4);
      bits = bytes.readUInt16LE(body + 14);
      if (kind === EXTENSIBLE) kind = bytes.readUInt16LE(body + 24);
    } else if (name === "data") {
      const width = bits / 8;
      const rest = bytes.length - body;
      const unfinished = size === 0 && bytes.readUInt32LE(4) + 8 !== bytes.length; // a header that was never completed
      if (rest < size && size < 0x7f000000) { // larger ones stand for "unknown"
        console.error(`${path} is truncated: ${rest} of ${size} bytes of sound are there`);
      }
      const length = Math.floor((unfinished ? rest : Math.min(size, rest)) / (channels * width));
      const at = (channel, sample) => body + (sample * channels + channel) * width;
      let value;
      if (kind === PCM && [16, 24, 32].includes(bits)) value = (c, n) => bytes.readIntLE(at(c, n), width) / 2 ** (bits - 1);
      else if (kind === FLOAT && bits === 32) value = (c, n) => bytes.readFloatLE(at(c, n));
      else if (kind === FLOAT && bits === 64) value = (c, n) => bytes.readDoubleLE(at(c, n));
      else fail(`${path}: ${bits} bits of format ${kind} are not read here: give 16, 24 or 32-bit PCM or floats`);
      return { rate, channels, length, value };
    }
    at = body + size + (size % 2);
  }
  return fail(`${path} has no sound`);
}

function writeWav(path, samples, rate) {
  const bytes = Buffer.alloc(56 + 4 * samples.length);
  const put = (at, name, ...numbers) => {
    bytes.write(name, at, "latin1");
    numbers.forEach((number, n) => bytes.writeUInt32LE(number, at + 4 + 4 * n));
  };
  put(0, "RIFF", bytes.length - 8);
  put(8, "WAVE");
  put(12, "fmt ", 16, FLOAT | (1 << 16), rate, 4 * rate, 4 | (32 << 16)); // floats, one channel, 4 bytes of 32 bits
  put(36, "fact", 4, samples.length);
  put(48, "data", 4 * samples.length);
  samples.forEach((sample, n) => bytes.writeFloatLE(sample, 56 + 4 * n));
  writeFileSync(`${path}.part`, bytes); // the file appears whole, and may be the source
  renameSync(`${path}.part`, path);
}

const [model, source, target] = process.argv.slice(2);
if (!target) fail("usage: node stream_onnx.mjs MODEL.onnx INPUT.wav OUTPUT.wav");
const stream = await Stream.open(model);
const { frame, lookahead, sensors, sample_rate: rate } = stream.about;
const wav = readWav(source);
if (wav.rate !== rate || wav.channels !== sensors.length) {
  fail(`${source} has ${wav.rate} Hz and ${wav.channels} channels; ${model} takes ${rate} Hz and ${sensors.join(", ")}`);
}
const restored = new Float32Array(wav.length);
for (let start = 0; start < wav.length + lookahead; start += frame) {
  const chunk = new Float32Array(sensors.length * frame); // zeros follow the end of the file
  for (let c = 0; c < sensors.length; c++) {
    for (let n = 0; n < frame && start + n < wav.length; n++) chunk[c * frame + n] = wav.value(c, start + n);
  }
  const output = await stream.step(chunk);
  for (let n = 0; n < frame; n++) { // the output is late by the look-ahead
    const place = start + n - lookahead;
    if (place >= 0 && place < wav.length) restored[place] = output[n];
  }
}
writeWav(target, restored, rate);
