// A live stream: microphone, frames to the server and back, jitter buffer, loudspeaker. One session is one connection.
import { sentenceOf, stream as streamAddress } from "./api.js";
import { peaks } from "./collector.js";
import { close, collect, onend } from "./microphone.js";

const WAITING = 4; // frames that the browser may hold back before further ones are dropped
const LOST = 1; // s of frames without an answer after which further ones are dropped, too
const SILENT = 8; // s without an answer after which the connection is lost, whatever the browser thinks of it
const GONE = "The connection to the server was lost. Check that the server is running, then start again.";

export class LiveSession {
  // model, microphone; sink: id of the output device or ""; share of the output in the mix;
  // onreport(figures), onstop(sentence, or "" if the user wanted it).
  constructor({ model, microphone, sink, share, onreport, onstop }) {
    Object.assign(this, { model, microphone, sink, share, onreport, onstop });
    this.pending = []; // frames that the server has not answered yet, oldest first
    this.trips = new Map(); // number of a frame: s from sending it to its answer
    this.dropped = 0; // frames that were never sent
    this.server = { dropped: 0, load: null };
    this.levels = [];
    this.outputPeak = 0;
    this.ended = false;
  }

  // Throws an Error with a sentence. To be called by a gesture of the user, else browsers stay silent.
  async start() {
    this.context = this.#openContext(this.model.sample_rate);
    try {
      this.stream = await this.microphone.open();
      this.channels = this.microphone.channels;
      this.#checkRate();
      if (this.sink) await this.context.setSinkId(this.sink);
      await this.context.resume();
      if (this.ended) return;
      this.ready = await this.#connect();
      if (this.ended) return;
      await this.#build();
      onend(this.context, this.stream, (reason) => this.stop(reason));
      this.lock = await navigator.wakeLock?.request("screen").catch(() => null); // a phone that sleeps would stop the page
    } catch (error) {
      if (this.ended) return;
      this.ended = true;
      this.#close();
      throw error;
    } finally {
      if (this.ended) this.#close(); // stopped in between
    }
  }

  #openContext(sampleRate) {
    try {
      return new AudioContext({ sampleRate, latencyHint: "interactive" });
    } catch {
      return new AudioContext({ latencyHint: "interactive" }); // a rate that this browser does not have
    }
  }

  // Firefox connects a microphone only to a context of the microphone's own rate; the worklets resample then.
  #checkRate() {
    try {
      this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context.close();
      this.context = new AudioContext({ latencyHint: "interactive" });
    }
  }

  #connect() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(streamAddress(this.model.name));
      this.socket = socket;
      socket.binaryType = "arraybuffer";
      socket.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") return this.#answered(new Float32Array(data));
        const message = JSON.parse(data);
        if (message.type === "ready") resolve(message);
        if (message.type === "status") this.server = message;
      });
      socket.addEventListener("close", ({ reason }) => {
        const sentence = reason ? sentenceOf(reason) : GONE;
        reject(new Error(sentence));
        if (this.ready) this.stop(sentence);
      });
    });
  }

  async #build() {
    const { context, ready, channels } = this;
    const { frame, sample_rate: rate, latency_ms: latency } = ready;
    this.seconds = frame / rate;
    this.mixed = ready.mixed_sensor ?? channels.length - 1;
    this.lookahead = Math.max(0, Math.round((latency / 1000) * rate) - frame);
    this.bytes = 4 * frame * channels.length;
    await context.audioWorklet.addModule(new URL("play_worklet.js", import.meta.url));
    if (this.ended) return;
    this.play = new AudioWorkletNode(context, "play", {
      numberOfInputs: 0,
      outputChannelCount: [2],
      processorOptions: { frame, rate, lookahead: this.lookahead },
    });
    this.play.port.onmessage = ({ data }) => this.#report(data);
    this.mix(this.share);
    this.play.connect(context.destination);
    this.capture = await collect(context, this.stream, { frame, rate, channels }, (collected) => this.#collected(collected));
  }

  #collected({ number, begun, samples }) {
    if (this.ended) return;
    const count = this.channels.length;
    peaks(samples, count).forEach((peak, sensor) => { this.levels[sensor] = Math.max(this.levels[sensor] || 0, peak); });
    const { socket, pending, bytes, seconds } = this;
    if (pending.length && performance.now() - pending[0].sent > 1000 * SILENT) {
      this.stop(GONE);
      return;
    }
    if (socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > WAITING * bytes || pending.length * seconds > LOST) {
      this.dropped++;
      return;
    }
    socket.send(samples); // copies them
    const input = count === 1 ? samples : samples.filter((_, place) => place % count === this.mixed); // as --strength mixes
    pending.push({ number, begun, input, sent: performance.now() });
  }

  #answered(output) {
    if (this.ended) return;
    const frame = this.pending.shift();
    if (!frame || output.length !== this.ready.frame) {
      this.stop("The server sent a message that this page does not understand. Reload the page, then start again.");
      return;
    }
    this.trips.set(frame.number, (performance.now() - frame.sent) / 1000);
    this.trips.delete(frame.number - 512);
    this.outputPeak = Math.max(this.outputPeak, peaks(output, 1)[0]);
    const { number, begun, input } = frame;
    const silent = output.every((value) => value === 0); // what a server that is too slow answers
    this.play?.port.postMessage({ frame: { number, begun, tracks: [output, input], silent } }, [output.buffer, input.buffer]);
  }

  // What one frame needed from the first sample at the microphone until it was heard, in s, part by part.
  #report(state) {
    if (this.ended) return;
    const trip = this.trips.get(state.number);
    let parts = null;
    if (state.delay !== null && trip !== undefined) {
      const { baseLatency = 0, outputLatency = 0 } = this.context;
      parts = {
        frame: this.seconds,
        lookahead: this.lookahead / this.ready.sample_rate,
        trip,
        buffer: Math.max(0, state.delay - this.seconds - trip),
        device: baseLatency + outputLatency,
      };
    }
    const [levels, output] = [this.levels, this.outputPeak];
    this.levels = [];
    this.outputPeak = 0;
    this.figures = { ...state, parts, levels, output, unsent: this.dropped, server: this.server };
    this.onreport(this.figures);
  }

  // share: 1 is the network's output, 0 its input with the same delay.
  mix(share) {
    this.share = share;
    this.play?.port.postMessage({ share });
  }

  // Ends the session; `reason` is a sentence if the user did not ask for it.
  stop(reason = "") {
    if (this.ended) return;
    this.ended = true;
    this.#close();
    this.onstop(reason);
  }

  #close() {
    if (this.stream) close(this.stream);
    this.capture?.node.port.postMessage("end");
    this.play?.port.postMessage({ end: true });
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) this.socket.close(1000);
    if (this.context && this.context.state !== "closed") this.context.close();
    this.lock?.release();
    this.lock = null;
  }
}
