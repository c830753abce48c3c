// Records the microphone as it is: samples from an AudioWorklet into a WAV file.
import { peaks } from "./collector.js";
import { close, collect, onend } from "./microphone.js";
import { pcm, wavOf } from "./wav.js";

const FRAME = 1024; // samples that the worklet sends at once
const HEADER = 4096; // bytes of a request besides its samples, at most

export class Recorder {
  // limits of the server, at which it stops; onlevel(peaks, seconds), onstop(sentence, or "" if the user wanted it).
  constructor({ microphone, limits, onlevel, onstop }) {
    Object.assign(this, { microphone, limits, onlevel, onstop });
    this.parts = []; // of the file: ten minutes as samples would be too much for a phone
    this.seconds = 0;
    this.running = false;
  }

  // Throws an Error with a sentence.
  async start() {
    this.context = new AudioContext();
    this.ended = false;
    try {
      this.stream = await this.microphone.open();
      if (this.ended) return this.#close();
      this.channels = this.microphone.channels;
      this.rate = this.context.sampleRate;
      this.most = Math.min(this.limits.max_seconds, (this.limits.max_bytes - HEADER) / (3 * this.channels.length * this.rate));
      this.left = Math.floor(this.most * this.rate);
      const options = { frame: FRAME, rate: this.rate, channels: this.channels };
      const { node } = await collect(this.context, this.stream, options, ({ samples }) => this.#keep(samples));
      this.node = node;
      await this.context.resume();
      if (this.ended) return this.#close();
      onend(this.context, this.stream, (reason) => this.stop(reason));
      this.running = true;
    } catch (error) {
      this.#close();
      if (!this.ended) throw error;
    }
  }

  #keep(samples) {
    if (this.ended) return;
    const count = this.channels.length;
    const kept = samples.subarray(0, count * Math.min(FRAME, this.left));
    this.parts.push(pcm(kept));
    this.left -= kept.length / count;
    this.seconds += kept.length / count / this.rate;
    this.onlevel(peaks(kept, count), this.seconds);
    if (this.left <= 0) this.stop("That is as long as the server takes.");
  }

  // Before the browser has given the microphone, too.
  stop(reason = "") {
    if (this.ended) return;
    this.ended = true;
    this.#close();
    this.onstop(reason);
  }

  #close() {
    this.running = false;
    if (this.stream) close(this.stream);
    this.node?.port.postMessage("end");
    if (this.context.state !== "closed") this.context.close().catch(() => {}); // it may be closing
  }

  // What was recorded, as { blob, seconds, channels }; null if nothing was.
  take() {
    if (!this.parts.length) return null;
    return { blob: wavOf(this.parts, this.channels.length, this.rate), seconds: this.seconds, channels: this.channels.length };
  }
}
