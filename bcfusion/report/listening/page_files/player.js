// Plays all sounds of a row at once, each through its own gain. A switch opens one gain and closes the others, so the
// position continues and nothing restarts.
const RAMP = 0.012; // s; long enough to avoid clicks, too short to hear two sounds at once
const LEAD = 0.03; // s from the call of play() to the common start, so that all sources can be scheduled

class Player {
  // context: an AudioContext, or an OfflineAudioContext that renders the same.
  constructor(context) {
    this.context = context;
    this.volume = context.createGain();
    this.volume.connect(context.destination);
    this.buffers = [];
    this.factors = [];
    this.opened = 0;
    this.shares = []; // of each sound in what is heard: 1 for the opened one, unless sounds are blended
    this.offset = 0;
    this.loop = null; // [begin, end] in seconds
    this.run = null; // what is playing: {sources, gains, bus, begun}
    this.onend = () => {};
  }

  get playing() {
    return this.run !== null;
  }

  get duration() {
    return Math.max(0, ...this.buffers.map((buffer) => buffer.duration));
  }

  // Loads another row: its buffers, the factor of each, and which one is heard.
  load(buffers, factors, opened) {
    this.pause();
    this.buffers = buffers;
    this.factors = factors;
    this.opened = opened;
    this.shares = this.#alone(opened);
    this.offset = 0;
    this.loop = null;
  }

  position() {
    if (!this.run) return this.offset;
    const time = this.offset + Math.max(0, this.context.currentTime - this.run.begun);
    if (!this.loop) return Math.min(time, this.duration);
    const [begin, end] = this.loop;
    return time < end ? time : begin + ((time - begin) % (end - begin));
  }

  // Rounds to whole samples: browsers may interpolate between them, which dulls the sound.
  #whole(time) {
    return Math.round(time * this.context.sampleRate) / this.context.sampleRate;
  }

  play() {
    if (this.run || !this.buffers.length) return;
    const context = this.context;
    const begun = this.#whole(context.currentTime + LEAD);
    if (this.loop && (this.offset < this.loop[0] || this.offset >= this.loop[1])) this.offset = this.loop[0];
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    this.offset = this.#whole(this.offset);
    const bus = context.createGain();
    bus.gain.setValueAtTime(this.offset > 0 ? 0 : 1, begun);
    if (this.offset > 0) bus.gain.linearRampToValueAtTime(1, begun + RAMP);
    bus.connect(this.volume);
    const run = { bus, begun, gains: [], sources: [] };
    this.buffers.forEach((buffer, index) => {
      const gain = context.createGain();
      gain.gain.value = this.shares[index] * this.factors[index];
      gain.connect(bus);
      const source = context.createBufferSource();
      source.buffer = buffer;
      if (this.loop) {
        source.loop = true;
        [source.loopStart, source.loopEnd] = this.loop;
      }
      source.connect(gain);
      source.start(begun, this.offset);
      run.gains.push(gain);
      run.sources.push(source);
    });
    run.sources[0].onended = () => {
      if (this.run !== run) return; // stopped by the user or by a seek
      this.run = null;
      this.offset = 0;
      this.onend();
    };
    this.run = run;
  }

  pause() {
    if (!this.run) return;
    const { bus, sources } = this.run;
    const now = this.context.currentTime;
    this.offset = this.position();
    this.run = null;
    bus.gain.cancelScheduledValues(now);
    bus.gain.setValueAtTime(bus.gain.value, now); // below 1 if it is still fading in
    bus.gain.linearRampToValueAtTime(0, now + RAMP);
    for (const source of sources) source.stop(now + RAMP);
  }

  seek(time) {
    const playing = this.playing;
    this.pause();
    this.offset = Math.min(Math.max(0, time), this.duration);
    if (playing) this.play();
  }

  // Switches to another sound of the row.
  open(index) {
    this.opened = index;
    this.shares = this.#alone(index);
    this.#ramp();
  }

  // Blends the sounds: the share of each, from 0 to 1.
  blend(shares) {
    this.shares = shares;
    this.#ramp();
  }

  setFactors(factors) {
    this.factors = factors;
    this.#ramp();
  }

  // begin and end in seconds; null to play once.
  setLoop(loop) {
    const playing = this.playing;
    this.pause();
    this.loop = loop && loop.map((time) => this.#whole(time));
    if (playing) this.play();
  }

  #alone(opened) {
    return this.buffers.map((_, index) => Number(index === opened));
  }

  #ramp() {
    if (!this.run) return;
    const now = this.context.currentTime;
    this.run.gains.forEach(({ gain }, index) => {
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(gain.value, now);
      gain.linearRampToValueAtTime(this.shares[index] * this.factors[index], now + RAMP);
    });
  }
}
