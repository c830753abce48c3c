// Sends whole frames of the input to the page.
import { FrameCollector } from "./collector.js";

class Collect extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.collector = new FrameCollector({ ...processorOptions, from: sampleRate, to: processorOptions.rate });
    this.begun = null; // time of the first quantum; before, the microphone may not be connected
    this.ended = false;
    this.port.onmessage = () => { this.ended = true; };
  }

  process([input]) {
    if (this.ended) return false;
    this.begun ??= currentTime;
    for (const frame of this.collector.push(input, input[0]?.length ?? 128)) {
      frame.begun += this.begun;
      this.port.postMessage(frame, [frame.samples.buffer]);
    }
    return true;
  }
}

registerProcessor("collect", Collect);
