// Whole frames that arrive irregularly, played without a gap. Frames are repeated, dropped or awaited as a whole, and
// every place where the sound does not simply continue is cross-faded.
const FADE = 0.0025; // s
const MARGIN = 0.016; // s by which a frame may be late before it is missed
const FULL = 5; // s that the buffer must have been too full before what was never needed is dropped
const LONGEST_FULL = 60; // s; twice as long each time that a frame was missed after some had been dropped for this
const BURST = 0.15; // s of frames beyond the target that are dropped at once: what piled up while nothing arrived
const MOST = 1; // s that the target may grow to

export class JitterBuffer {
  // frame: samples of a frame; rate in Hz; tracks: signals that every frame has.
  constructor({ frame, rate, tracks }) {
    this.frame = frame;
    this.tracks = tracks;
    this.fade = Math.max(1, Math.min(Math.round(FADE * rate), frame >> 1));
    this.least = 1 + Math.max(1, Math.ceil((MARGIN * rate) / frame));
    this.most = Math.max(this.least, Math.floor((MOST * rate) / frame));
    this.burst = Math.ceil((BURST * rate) / frame);
    this.window = Math.ceil((FULL * rate) / frame); // frames
    this.longest = Math.ceil((LONGEST_FULL * rate) / frame);
    this.target = this.least; // frames that must be there before playing begins
    this.shrunk = false; // whether frames were dropped since the last one was missed
    this.queue = [];
    this.current = null; // frame that is played; none while the buffer fills
    this.place = 0; // in it
    this.before = null; // frame whose end leads into the current one without a step
    this.tail = null; // end of the current frame, as it will be played, and what follows
    this.played = 0; // samples, silence included
    this.started = null; // last frame that began: { number, begun, at }, at counted in samples as `played`
    this.underruns = 0;
    this.dropped = 0;
    this.#watch();
  }

  // frame: { number, begun, tracks: one Float32Array for each, silent: whether it stands for one that is not there }.
  push(frame) {
    this.queue.push(frame);
  }

  // Fills one array for each track.
  pull(outputs) {
    const length = outputs[0].length;
    let done = 0;
    while (done < length) {
      if (!this.current && !this.#start()) {
        for (const output of outputs) output.fill(0, done);
        this.played += length - done;
        return;
      }
      const body = this.frame - this.fade;
      const inTail = this.place >= body;
      if (inTail) this.tail ??= this.#next();
      const count = Math.min(length - done, (inTail ? this.frame : body) - this.place);
      for (let track = 0; track < this.tracks; track++) {
        const samples = inTail ? this.tail.tracks[track] : this.current.tracks[track];
        const from = inTail ? this.place - body : this.place;
        outputs[track].set(samples.subarray(from, from + count), done);
      }
      this.place += count;
      this.played += count;
      done += count;
      if (this.place === this.frame) this.#advance();
    }
  }

  // Begins to play when enough frames are there.
  #start() {
    if (this.queue.length < this.target) return false;
    this.#drop(this.queue.length - this.target);
    this.before = null;
    this.#begin(this.#faded(this.queue.shift()));
    this.#watch();
    return true;
  }

  #begin(frame) {
    this.current = frame;
    this.place = 0;
    this.tail = null;
    if (frame && !frame.repeated) this.started = { number: frame.number, begun: frame.begun, at: this.played };
  }

  #advance() {
    this.before = this.tail.before;
    this.#begin(this.tail.frame);
  }

  // Decides what follows the current frame: its own end, cross-faded with another if the next one does not continue it.
  #next() {
    if (!this.queue.length) return this.current.repeated ? this.#fallSilent() : this.#repeat();
    const skipped = this.#tooMany();
    const last = skipped && this.queue[skipped - 1];
    this.#drop(skipped);
    const frame = this.queue.shift();
    const { current } = this;
    const alike = Boolean(frame.silent) === Boolean(current.silent);
    if (alike && !skipped && frame.number === current.number + 1) return { frame, before: current, tracks: this.#end(current) };
    if (alike && skipped && last.number + 1 === frame.number) return { frame, before: last, tracks: this.#crossed(last) };
    return { frame: this.#faded(frame), before: null, tracks: this.#crossed(null) }; // frames between are lost
  }

  #repeat() {
    this.underruns++;
    this.target = Math.min(this.most, this.target + 1);
    if (this.shrunk) this.window = Math.min(this.longest, 2 * this.window);
    this.shrunk = false;
    this.#watch();
    const frame = { ...this.current, repeated: true };
    return this.before
      ? { frame, before: this.before, tracks: this.#crossed(this.before) }
      : { frame: this.#faded(frame), before: null, tracks: this.#crossed(null) };
  }

  #fallSilent() {
    return { frame: null, before: null, tracks: this.#crossed(null) };
  }

  // How many frames to leave out now.
  #tooMany() {
    const waiting = this.queue.length - 1; // after the next one is taken
    this.seen++;
    this.spare = Math.min(this.spare, waiting);
    if (waiting > this.target + this.burst) return waiting - this.target;
    if (this.seen < this.window) return 0;
    const excess = this.spare - this.least + 1;
    this.#watch();
    if (excess <= 0) return 0;
    this.target = Math.max(this.least, this.target - excess);
    this.shrunk = true;
    return excess;
  }

  #watch() {
    this.seen = 0;
    this.spare = Infinity; // fewest frames that waited since
  }

  #drop(count) {
    this.queue.splice(0, count);
    this.dropped += count;
  }

  #end(frame) {
    return frame.tracks.map((samples) => samples.subarray(this.frame - this.fade));
  }

  // The end of the current frame, fading into that of another, or into silence.
  #crossed(other) {
    const ends = other && this.#end(other);
    return this.#end(this.current).map((samples, track) => samples.map((value, place) => {
      const weight = (place + 1) / this.fade;
      return (1 - weight) * value + (ends ? weight * ends[track][place] : 0);
    }));
  }

  // A frame that fades in at its start.
  #faded(frame) {
    const ramp = (value, place) => (place < this.fade ? (value * place) / this.fade : value);
    return { ...frame, tracks: frame.tracks.map((samples) => samples.map(ramp)) };
  }
}
