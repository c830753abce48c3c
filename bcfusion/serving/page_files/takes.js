// The sound that will be sent: a recording, or files that were chosen or dropped.
import { part } from "./dom.js";
import { Recorder } from "./recorder.js";
import { Meters } from "./meter.js";
import { HIDDEN, unavailable } from "./microphone.js";
import { wav } from "./wav.js";

const rounded = (value, digits) => String(Number(value.toFixed(digits)));
const megabytes = (bytes) => `${rounded(bytes / 1e6, bytes < 1e6 ? 2 : 1)} MB`;
const duration = (seconds) => (seconds < 120 ? `${seconds.toFixed(1)} s` : `${rounded(seconds / 60, 1)} min`);

const READ = /\.(wave?|bwf|w64|rf64|flac|ogg|oga|opus|mp3|aif|aiff|aifc|au|snd|caf|sph)$/i; // by the server
const RATE = 48000; // Hz, to which the browser decodes other files

// The take of a file; one that the server does not read (m4a of a phone, webm) is decoded here, if the browser can.
async function readable(file) {
  if (READ.test(file.name)) return { name: file.name, blob: file, seconds: null };
  try {
    const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
    const tracks = Array.from({ length: sound.numberOfChannels }, (_, channel) => sound.getChannelData(channel));
    return { name: `${file.name.replace(/\.[^.]*$/, "")}.wav`, blob: wav(tracks, RATE), seconds: sound.duration };
  } catch {
    return { name: file.name, blob: file, seconds: null }; // the server says what it thinks of it
  }
}

export class Takes {
  // onchange() is called when what will be sent has changed.
  constructor({ microphone, limits, onchange }) {
    Object.assign(this, { microphone, limits, onchange });
    this.sensors = [];
    this.list = []; // { name, blob, url, seconds: null if unknown }
    this.recorder = null;
    part("record").addEventListener("click", () => (this.recorder ? this.recorder.stop() : this.#record()));
    part("choose").addEventListener("click", () => part("files").click());
    part("files").addEventListener("change", () => {
      this.add([...part("files").files]);
      part("files").value = ""; // the same file can be chosen again
    });
    part("swap").addEventListener("click", () => {
      this.list.reverse();
      this.#show();
    });
    this.#drops(part("sound"));
    part("record").disabled = Boolean(unavailable());
    if (unavailable()) this.complain(unavailable());
    document.addEventListener("visibilitychange", () => document.hidden && this.recorder?.stop(HIDDEN));
    window.addEventListener("pagehide", () => this.recorder?.stop(HIDDEN));
  }

  #drops(node) {
    const files = (event) => [...event.dataTransfer.types].includes("Files");
    let inside = 0; // the events come from the children, too
    node.addEventListener("dragenter", (event) => files(event) && (inside++, node.classList.add("over")));
    node.addEventListener("dragleave", (event) => files(event) && --inside <= 0 && node.classList.remove("over"));
    document.addEventListener("dragover", (event) => files(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault(); // beside the panel, too: the browser would leave the page
      inside = 0;
      node.classList.remove("over");
      if (node.contains(event.target)) this.add([...event.dataTransfer.files]);
    });
  }

  // Nothing can be changed while it is on its way.
  hold(on) {
    this.held = on;
    part("record").disabled = on || Boolean(unavailable());
    part("choose").disabled = on || Boolean(this.recorder);
    part("swap").disabled = on;
    for (const button of part("takes").querySelectorAll("button")) button.disabled = on;
  }

  stop() {
    this.recorder?.stop();
  }

  complain(text) {
    part("sound-problem").textContent = text;
  }

  setSensors(sensors) {
    this.sensors = sensors;
    const [many, limit] = [sensors.length > 1, `at most ${duration(this.limits.max_seconds)} and ${megabytes(this.limits.max_bytes)}`];
    part("wanted").textContent = many
      ? `One recording with ${sensors.length} channels (${sensors.join(", ")}), or a file for each in this order; ${limit}.`
      : `A recording of the sensor “${sensors[0]}”; ${limit}.`;
    part("files").multiple = many;
    part("choose").textContent = many ? "Choose files" : "Choose a file";
    part("drop-hint").textContent = many ? "or drop them here" : "or drop it here";
    this.complain(unavailable());
    this.#show();
  }

  // Whether the model can have what is here.
  get ready() {
    const { list, sensors } = this;
    return !this.recorder && (list.length === 1 || list.length === sensors.length) && !list.some((take) => this.#problem(take));
  }

  #problem({ blob, seconds }) {
    const { max_seconds, max_bytes } = this.limits;
    if (blob.size > max_bytes) return `Larger than the ${megabytes(max_bytes)} that the server takes.`;
    if (!blob.size) return "The file is empty.";
    if (seconds > max_seconds + 0.05) return `Longer than the ${duration(max_seconds)} that the server takes.`;
    return "";
  }

  async add(files) {
    if (!files.length || this.recorder || this.held || this.decoding) return;
    this.complain("");
    const most = this.sensors.length;
    if (files.length > most) {
      this.complain(most === 1 ? "Choose one file: the model takes one sensor." : `Choose at most ${most} files: the model takes ${most} sensors.`);
      return;
    }
    this.decoding = true;
    const takes = await Promise.all(files.map(readable));
    this.decoding = false;
    if (this.recorder || this.held) return;
    const kept = this.list.length + files.length <= most ? this.list : [];
    this.#replace([...kept, ...takes]);
  }

  #replace(list) {
    for (const { url } of this.list.filter((take) => !list.includes(take))) URL.revokeObjectURL(url);
    this.list = list;
    for (const take of list) take.url ??= URL.createObjectURL(take.blob);
    this.#show();
  }

  async #record() {
    this.complain("");
    const show = (peaks, seconds) => {
      meters ??= new Meters(part("record-meters"), this.#names(peaks.length));
      meters.show(peaks);
      part("recorded").replaceChildren(`${seconds.toFixed(1)} s `, el("small", {}, `of at most ${duration(recorder.most)}`));
    };
    let meters = null;
    const recorder = new Recorder({ microphone: this.microphone, limits: this.limits, onlevel: show, onstop: (reason) => this.#recorded(reason) });
    this.recorder = recorder;
    this.microphone.lock(true);
    part("record-meters").replaceChildren();
    part("recorded").textContent = "The microphone is opened …";
    this.#show();
    try {
      await recorder.start();
    } catch (error) {
      this.#recorded(error.message);
    }
  }

  #names(count) {
    return count === this.sensors.length ? this.sensors : [this.sensors[0]];
  }

  #recorded(reason) {
    const { recorder } = this;
    const take = recorder.take();
    this.recorder = null;
    this.microphone.lock(false);
    this.complain(reason || (take || !recorder.node ? "" : "Nothing was recorded: the microphone gave no sound."));
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    if (take) this.#replace([{ name: `recording-${time}.wav`, ...take }]);
    else this.#show();
  }

  #row(take, index) {
    const { list, sensors } = this;
    const whose = list.length > 1 ? sensors[index] : sensors.join(" and ");
    const about = el("span", { class: "quiet" });
    const problem = el("span", { class: "problem" });
    const show = () => {
      const known = take.seconds === null ? [] : [duration(take.seconds)];
      about.textContent = [whose, ...known, megabytes(take.blob.size)].join(" · ");
      problem.textContent = this.#problem(take);
      this.onchange();
    };
    const sound = el("audio", { controls: "", preload: "metadata", "aria-label": `${take.name}, before it is sent` });
    sound.addEventListener("loadedmetadata", () => {
      if (Number.isFinite(sound.duration)) take.seconds ??= sound.duration;
      show();
    });
    sound.addEventListener("error", () => {
      sound.hidden = true;
      if (take.blob.size) about.textContent += " · this browser cannot play it; the server may read it all the same";
    });
    sound.src = take.url;
    show();
    const without = () => {
      this.complain("");
      this.#replace(list.filter((each) => each !== take));
      (part("takes").querySelector("button") || part("choose")).focus();
    };
    const remove = el("button", { type: "button", "aria-label": `Remove ${take.name}`, onclick: without }, "Remove");
    return el("li", {}, el("span", {}, el("b", { title: take.name }, take.name), about), remove, sound, problem);
  }

  #show() {
    const { list, sensors, recorder } = this;
    part("record").classList.toggle("recording", Boolean(recorder));
    part("record-text").textContent = recorder ? "Stop" : "Record";
    part("recording").hidden = !recorder;
    part("takes").replaceChildren(...(recorder ? [] : list.map((take, index) => this.#row(take, index))));
    part("swap").hidden = list.length < 2 || Boolean(recorder);
    if (list.length > sensors.length) this.complain("The model takes one sensor: remove a file.");
    this.onchange();
  }
}
