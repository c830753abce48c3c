// What is heard in live mode: frames through the jitter buffer, output and input mixed, at the rate of the audio context.
import { JitterBuffer } from "./jitter.js";
import { Resampler } from "./resampler.js";

const RAMP = 0.012; // s of a change of the mix
const BLOCK = 32; // samples of the network's rate that are taken at once when the rates differ

export class Playout {
  // frame: samples; rate: of the frames in Hz; to: of the audio context; lookahead: samples by which the output of the
  // network is later than its input; the input is played as late.
  constructor({ frame, rate, to, lookahead }) {
    this.buffer = new JitterBuffer({ frame, rate, tracks: 2 }); // output, input
    this.rate = rate;
    this.to = to;
    this.resampler = rate === to ? null : new Resampler(rate, to);
    this.waiting = new Float32Array(0); // resampled, not yet played
    this.late = new Float32Array(lookahead); // the newest samples of the input, as a ring
    this.head = 0;
    this.share = 1; // of the output; the rest is the input
    this.wanted = 1;
    this.step = 1 / (RAMP * rate);
    this.rendered = 0; // samples of the context
    this.now = 0; // s
  }

  push(frame) {
    this.buffer.push(frame);
  }

  // share: 1 for the output of the network alone, 0 for its input.
  mix(share) {
    this.wanted = share;
  }

  // Fills `output`, which begins at `time` (s).
  render(output, time) {
    this.now = time - this.rendered / this.to;
    if (!this.resampler) {
      this.#mixed(output);
    } else {
      let filled = 0;
      while (filled < output.length) {
        if (!this.waiting.length) this.waiting = this.resampler.process(this.#mixed(new Float32Array(BLOCK)));
        const part = this.waiting.subarray(0, output.length - filled);
        output.set(part, filled);
        this.waiting = this.waiting.subarray(part.length);
        filled += part.length;
      }
    }
    this.rendered += output.length;
  }

  #mixed(output) {
    const input = new Float32Array(output.length);
    this.buffer.pull([output, input]);
    for (let place = 0; place < output.length; place++) {
      let value = input[place];
      if (this.late.length) {
        value = this.late[this.head];
        this.late[this.head] = input[place];
        this.head = (this.head + 1) % this.late.length;
      }
      const left = this.wanted - this.share;
      this.share += Math.max(-this.step, Math.min(this.step, left));
      output[place] = this.share * output[place] + (1 - this.share) * value;
    }
    return output;
  }

  // The last frame that began: its number and its delay, in s from its first sample in the input to the same in the
  // output; and the state of the buffer.
  report() {
    const { started, queue, target, underruns, dropped, frame } = this.buffer;
    return {
      number: started ? started.number : -1,
      delay: started ? this.now + started.at / this.rate - started.begun : null,
      depth: (queue.length * frame) / this.rate,
      target: (target * frame) / this.rate,
      underruns,
      dropped,
    };
  }
}
