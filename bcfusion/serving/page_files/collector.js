// From the quanta of an audio context to whole frames of the network.
import { Resampler } from "./resampler.js";

export class FrameCollector {
  // frame: samples of a frame; channels of the input that each sensor takes: its number, or "mix" for their mean;
  // from, to: sample rates in Hz of the input and of the frames.
  constructor({ frame, channels, from, to }) {
    this.frame = frame;
    this.channels = channels;
    this.rate = to;
    this.resamplers = from === to ? null : channels.map(() => new Resampler(from, to));
    this.filling = this.#empty();
    this.filled = 0;
    this.number = 0; // of the frame that is being filled
    this.silence = new Float32Array(128);
  }

  #empty() {
    return new Float32Array(this.frame * this.channels.length); // interleaved
  }

  #chosen(input, channel, length) {
    if (!input.length) return this.silence.length === length ? this.silence : (this.silence = new Float32Array(length));
    if (channel !== "mix") return input[Math.min(channel, input.length - 1)];
    return input[0].map((_, place) => input.reduce((sum, each) => sum + each[place], 0) / input.length);
  }

  // Takes the channels of a quantum, none of which stands for silence; returns the frames that it completes, each
  // { number, begun, samples }: begun is the time of its first sample, in seconds of the input.
  push(input, length) {
    const chosen = this.channels.map((channel) => this.#chosen(input, channel, length));
    const ready = this.resamplers ? chosen.map((samples, sensor) => this.resamplers[sensor].process(samples)) : chosen;
    const frames = [];
    const count = this.channels.length;
    for (let place = 0; place < ready[0].length; place++) {
      for (let sensor = 0; sensor < count; sensor++) this.filling[this.filled * count + sensor] = ready[sensor][place];
      if (++this.filled < this.frame) continue;
      frames.push({ number: this.number, begun: (this.number * this.frame) / this.rate, samples: this.filling });
      this.filling = this.#empty();
      this.filled = 0;
      this.number++;
    }
    return frames;
  }
}

// Largest absolute value of each channel of interleaved samples.
export function peaks(samples, channels) {
  const found = new Array(channels).fill(0);
  for (let place = 0; place < samples.length; place++) found[place % channels] = Math.max(found[place % channels], Math.abs(samples[place]));
  return found;
}
