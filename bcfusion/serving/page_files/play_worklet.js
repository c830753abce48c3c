// Plays the frames that the page sends.
import { Playout } from "./playout.js";

const REPORT = 0.1; // s between reports

class Play extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.playout = new Playout({ ...processorOptions, to: sampleRate });
    this.reported = 0;
    this.ended = false;
    this.port.onmessage = ({ data }) => {
      if (data.frame) this.playout.push(data.frame);
      if (data.share !== undefined) this.playout.mix(data.share);
      if (data.end) this.ended = true;
    };
  }

  process(_, [output]) {
    if (this.ended) return false;
    this.playout.render(output[0], currentTime);
    for (const other of output.slice(1)) other.set(output[0]);
    if (currentTime - this.reported >= REPORT) {
      this.reported = currentTime;
      this.port.postMessage(this.playout.report());
    }
    return true;
  }
}

registerProcessor("play", Play);
