// Before, after and any mix of both: spectrograms, the listening page's player, downloads.
import { part } from "./dom.js";
import { levelGains } from "./levels.js";
import { draw, magnitudes } from "./spectrum.js";
import { wav } from "./wav.js";

const COLUMNS = 900; // of a spectrogram, at most
const COLOURS = ["#8a9099", "#b06c00"]; // inputs
const OUTPUT = "#1f77b4";
const factorOf = (gain) => 10 ** (gain / 20);

export class Result {
  constructor() {
    this.player = null;
    this.matched = true;
    this.repeating = false;
    this.loopBegin = null;
    this.share = 1; // of the output in the mix
    this.urls = [];
    part("play").addEventListener("click", () => this.toggle());
    part("repeat").addEventListener("click", () => this.repeat());
    part("match").addEventListener("click", () => this.match());
    part("position").addEventListener("input", (event) => this.seek(Number(event.target.value)));
    part("mix").addEventListener("input", (event) => this.mix(event.target.value / 100));
    part("download-mix").addEventListener("click", () => this.#downloadMix());
    new ResizeObserver(() => {
      const height = `${part("transport").offsetHeight}px`; // the player covers the bottom of the window
      document.documentElement.style.scrollPaddingBottom = document.body.style.marginBottom = height;
    }).observe(part("transport"));
    const animate = () => {
      if (this.player?.playing) this.tick();
      requestAnimationFrame(animate);
    };
    animate();
  }

  clear() {
    this.player?.pause();
    this.player?.context.close();
    this.player = null;
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
    part("result").hidden = part("transport").hidden = true;
    part("cards").replaceChildren();
  }

  // model; name of the recording; status of the job; sounds: blobs of each input, then of the output.
  async load({ model, name, status, sounds }) {
    const context = new AudioContext({ sampleRate: status.sample_rate });
    let buffers;
    try {
      buffers = await Promise.all(sounds.map(async (blob) => context.decodeAudioData(await blob.arrayBuffer())));
    } catch (error) {
      context.close();
      throw new Error(`This browser cannot decode the result: ${error.message}`);
    }
    this.clear();
    this.names = [...model.sensors.map((sensor) => (model.sensors.length > 1 ? `Before: ${sensor}` : "Before")), "After"];
    this.output = buffers.length - 1;
    this.input = model.mixed_sensor ?? model.sensors.length - 1; // the sensor that is mixed with the output, as by --strength
    this.rate = status.sample_rate;
    this.gains = levelGains(buffers.map((buffer) => buffer.getChannelData(0)), this.rate);
    this.player = new Player(context);
    this.player.onend = () => this.refresh();
    this.player.load(buffers, this.#factors(), this.output);
    this.share = 1;
    this.stem = `${name.replace(/\.[^.]*$/, "")}-${model.name}`;
    part("result").hidden = false;
    part("transport").hidden = part("file").hidden;
    const sound = `${clock(this.player.duration)} at ${this.rate / 1000} kHz`;
    part("result-about").textContent = `${name}, restored by ${model.name}: ${sound}, in ${status.took_seconds.toFixed(1)} s.`;
    this.#cards(buffers);
    this.#download(sounds[this.output]);
    if (this.repeating) this.player.setLoop([0, this.player.duration]);
    part("position").max = this.player.duration;
    this.refresh();
  }

  #factors() {
    return this.gains.map((gain) => (this.matched ? factorOf(gain) : 1));
  }

  #cards(buffers) {
    const seconds = this.player.duration;
    const spectra = buffers.map((buffer) => magnitudes(buffer.getChannelData(0), this.rate, COLUMNS));
    const loudest = spectra.map(({ values }, index) => factorOf(this.gains[index]) * values.reduce((most, value) => Math.max(most, value), 0));
    const top = Math.max(...loudest) || 1;
    this.cards = this.names.map((name, index) => {
      const canvas = el("canvas", { role: "img", "aria-label": `spectrogram of ${name}` });
      draw(canvas, spectra[index], factorOf(this.gains[index]), top);
      const { node, head } = framed(canvas, seconds, this.rate, (time) => this.hear(index, time));
      const button = el(
        "button",
        { type: "button", class: "system", "aria-pressed": "false", onclick: () => this.hear(index) },
        el("span", { class: "swatch" }),
        el("span", { class: "name" }, name),
        el("kbd", { "aria-hidden": "true" }, String(index + 1)),
      );
      button.style.setProperty("--colour", index === this.output ? OUTPUT : COLOURS[index % COLOURS.length]);
      const gain = el("span", { class: "gain" });
      return { node: el("div", {}, el("div", { class: "bar" }, button, gain), node), button, gain, head };
    });
    part("cards").replaceChildren(...this.cards.map(({ node }) => node));
    this.switches = this.names.map((name, index) => el("button", { type: "button", onclick: () => this.hear(index) }, `${index + 1} ${name}`));
    part("switches").replaceChildren(...this.switches);
  }

  #download(blob) {
    const url = URL.createObjectURL(blob);
    this.urls.push(url);
    part("download").href = url;
    part("download").download = `${this.stem}.wav`;
  }

  #downloadMix() {
    const [input, output] = [this.input, this.output].map((index) => this.player.buffers[index].getChannelData(0));
    const mixed = output.map((value, place) => this.share * value + (1 - this.share) * input[place]);
    const url = URL.createObjectURL(wav([mixed], this.rate));
    el("a", { href: url, download: `${this.stem}-${Math.round(100 * this.share)}.wav` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  // Which sound is heard alone; -1 for a mix.
  get alone() {
    return this.player.shares.indexOf(1);
  }

  #awake() {
    if (navigator.audioSession) navigator.audioSession.type = "playback"; // a phone that is mute plays it all the same
    this.player.context.resume();
  }

  hear(index, time = null) {
    const { player } = this;
    this.#awake();
    player.open(index);
    this.share = Number(index === this.output);
    if (time !== null) player.seek(time);
    player.play();
    this.refresh();
  }

  mix(share) {
    this.share = share;
    const shares = this.player.buffers.map(() => 0);
    shares[this.input] = 1 - share;
    shares[this.output] = share;
    this.player.blend(shares);
    this.refresh();
  }

  toggle() {
    const { player } = this;
    this.#awake();
    if (player.playing) player.pause();
    else player.play();
    this.refresh();
  }

  pause() {
    this.player?.pause();
    if (this.player) this.refresh();
  }

  seek(time) {
    this.player.seek(time);
    this.refresh();
  }

  setLoop(loop) {
    this.repeating = Boolean(loop && loop[1] - loop[0] >= 0.05);
    this.player.setLoop(this.repeating ? loop : null);
    if (!loop) this.loopBegin = null;
    this.refresh();
  }

  repeat() {
    this.setLoop(this.repeating ? null : [0, this.player.duration]);
  }

  match() {
    this.matched = !this.matched;
    this.player.setFactors(this.#factors());
    this.refresh();
  }

  refresh() {
    const { player, alone } = this;
    part("play").textContent = player.playing ? "Pause" : "Play";
    part("repeat").setAttribute("aria-pressed", String(this.repeating));
    part("match").setAttribute("aria-pressed", String(this.matched));
    this.cards.forEach(({ button, gain }, index) => {
      button.setAttribute("aria-pressed", String(index === alone));
      gain.textContent = this.matched ? `gain ${decibels(this.gains[index])}` : "as recorded";
    });
    this.switches.forEach((button, index) => button.setAttribute("aria-pressed", String(index === alone)));
    const percent = Math.round(100 * this.share);
    part("mix").value = percent;
    part("mix-text").textContent = `${percent} %`;
    part("mix").setAttribute("aria-valuetext", `${percent} % after`);
    part("download-mix").disabled = this.share === 0 || this.share === 1;
    const now = alone >= 0 ? this.names[alone] : `Mix: ${percent} % after, ${100 - percent} % ${this.names[this.input].toLowerCase()}`;
    if (part("now").textContent !== now) part("now").textContent = now;
    this.tick();
  }

  tick() {
    const { player } = this;
    const [time, whole] = [player.position(), player.duration];
    if (document.activeElement !== part("position") || player.playing) part("position").value = time;
    part("position").setAttribute("aria-valuetext", `${time.toFixed(1)} of ${whole.toFixed(1)} seconds`);
    const [begin, end] = player.loop || [0, whole];
    part("time").textContent = `${time.toFixed(1)} / ${clock(whole)}${end - begin < whole - 0.01 ? ` (${begin.toFixed(1)}–${end.toFixed(1)})` : ""}`;
    for (const { head } of this.cards) head.style.left = `${(100 * time) / whole}%`;
  }

  // Whether the key meant something.
  key(key) {
    const { player } = this;
    const keys = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.seek(player.position() - 1),
      ArrowRight: () => this.seek(player.position() + 1),
      l: () => this.repeat(),
      "[": () => { this.loopBegin = player.position(); },
      "]": () => this.setLoop([this.loopBegin || 0, player.position()]),
      m: () => this.match(),
    };
    const name = key.length === 1 ? key.toLowerCase() : key;
    if (Object.hasOwn(keys, name)) keys[name]();
    else if (/^[1-9]$/.test(key) && Number(key) <= this.names.length) this.hear(Number(key) - 1);
    else return false;
    return true;
  }
}
