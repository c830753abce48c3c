// The microphone: which one, which of its channels, and what to say if there is none.
const KEPT = "bcfusion-serve:microphone";

// Why this page can have no microphone; empty if it can.
export function unavailable() {
  if (navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode) return "";
  return window.isSecureContext
    ? "This browser gives no access to a microphone. Choose a file instead, or use another browser."
    : "Browsers give the microphone to pages on https or localhost only, and this page is neither. Open it by https, or choose a file instead.";
}

const PROBLEMS = {
  NotAllowedError: "The page was not allowed to use the microphone. Allow it in the browser (often left of the address), then try again.",
  NotFoundError: "There is no microphone. Connect one, then try again.",
  NotReadableError: "The microphone cannot be read; another program may be using it. Close that program, then try again.",
  OverconstrainedError: "That microphone is no longer connected. Choose another one.",
  SecurityError: "The browser does not allow this page to use a microphone.",
};

export const problem = (error) => PROBLEMS[error.name] || `The microphone cannot be opened: ${error.message}`;

// Why no microphone can do for a model; empty if one can.
export const tooMany = (sensors) => (sensors.length > 2 ? `This model takes ${sensors.length} sensors at once, and browsers record two at most. Choose files.` : "");

// The choice of a microphone and of its channels, at several places of the page; they show the same.
export class Microphone {
  constructor(places) {
    this.places = places.map((place) => ({ place, device: el("select"), channels: el("select") }));
    this.device = "";
    this.count = 1; // channels of the device that was opened last
    this.sensors = [];
    this.order = 0; // index of the choice of channels
    try {
      this.device = localStorage.getItem(KEPT) || "";
    } catch {
      // a browser without storage asks each time
    }
    for (const { place, device, channels } of this.places) {
      device.addEventListener("change", () => this.#choose(device.value));
      channels.addEventListener("change", () => { this.order = Number(channels.value); this.show(); });
      place.replaceChildren(el("label", {}, "Microphone", device), el("label", {}, "Channels", channels));
    }
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.list());
    this.list();
  }

  #choose(device) {
    this.device = device;
    this.count = 1;
    this.order = 0;
    try {
      localStorage.setItem(KEPT, device);
    } catch {
      // see above
    }
    this.show();
  }

  setSensors(sensors) {
    this.sensors = sensors;
    this.order = 0;
    this.show();
  }

  // Browsers name devices only after the microphone was allowed once.
  async list() {
    const all = unavailable() ? [] : await navigator.mediaDevices.enumerateDevices().catch(() => []);
    this.devices = all.filter(({ kind, deviceId }) => kind === "audioinput" && deviceId && deviceId !== "default");
    this.outputs = all.filter(({ kind, deviceId }) => kind === "audiooutput" && deviceId && deviceId !== "default");
    this.show();
    this.onlist?.(this.outputs);
  }

  // What each sensor takes, and its name in the list: channels are numbers, or "mix" for their mean.
  #orders() {
    const { sensors, count } = this;
    if (sensors.length === 1) {
      if (count < 2) return [{ text: "the only one", channels: [0] }];
      return [{ text: "mean of both", channels: ["mix"] }, { text: "left", channels: [0] }, { text: "right", channels: [1] }];
    }
    const [first, second] = sensors;
    return [{ text: `left: ${first}, right: ${second}`, channels: [0, 1] }, { text: `left: ${second}, right: ${first}`, channels: [1, 0] }];
  }

  get channels() {
    const orders = this.#orders();
    return (orders[this.order] || orders[0]).channels;
  }

  show() {
    const known = (this.devices || []).some(({ deviceId }) => deviceId === this.device);
    const orders = this.#orders();
    for (const { device, channels } of this.places) {
      const listed = (this.devices || []).map(({ deviceId, label }, index) => el("option", { value: deviceId }, label || `Microphone ${index + 1}`));
      device.replaceChildren(el("option", { value: "" }, "the browser’s default"), ...listed);
      device.value = known ? this.device : "";
      channels.replaceChildren(...orders.map(({ text }, index) => el("option", { value: index }, text)));
      channels.value = String(Math.min(this.order, orders.length - 1));
      channels.parentNode.hidden = orders.length < 2;
      device.disabled = channels.disabled = Boolean(this.locked) || Boolean(unavailable());
    }
  }

  // No change while it is in use.
  lock(on) {
    this.locked = on;
    this.show();
  }

  // Opens it, without whatever browsers do to speech. Throws an Error with a sentence.
  async open() {
    const count = this.sensors.length;
    if (tooMany(this.sensors)) throw new Error(tooMany(this.sensors));
    const known = (this.devices || []).some(({ deviceId }) => deviceId === this.device);
    // the one that is remembered may be there although the browser does not name it yet
    const chosen = this.device ? { deviceId: { [known ? "exact" : "ideal"]: this.device } } : {};
    const audio = { ...chosen, channelCount: { ideal: 2 }, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(problem(error));
    }
    const settings = stream.getAudioTracks()[0].getSettings();
    if (this.device) this.device = settings.deviceId === "default" ? "" : settings.deviceId || ""; // what is shown is what is heard
    this.count = settings.channelCount ?? count; // some browsers do not tell
    this.list();
    if (this.count < count) {
      close(stream);
      const both = `This model takes ${count} sensors at once (${this.sensors.join(", ")})`;
      throw new Error(`${both}, and the microphone has one channel. Choose a device with ${count} channels, or files.`);
    }
    return stream;
  }
}

export const HIDDEN = "Stopped, because the page was no longer visible.";

// Calls stop(sentence) when no more sound will come.
export function onend(context, stream, stop) {
  stream.getAudioTracks()[0].addEventListener("ended", () => stop("The microphone was disconnected."));
  // a call, on a phone
  context.addEventListener("statechange", () => context.state !== "running" && stop("The browser has interrupted the sound. Start again when it is free."));
}

export function close(stream) {
  for (const track of stream.getTracks()) track.stop();
}

// A node that sends frames of the stream to `onframe`. Returns { node, source, channels }.
export async function collect(context, stream, { frame, rate, channels }, onframe) {
  const source = context.createMediaStreamSource(stream);
  await context.audioWorklet.addModule(new URL("collect_worklet.js", import.meta.url));
  const node = new AudioWorkletNode(context, "collect", {
    channelCount: 2,
    channelCountMode: "explicit",
    channelInterpretation: "discrete",
    processorOptions: { frame, rate, channels },
  });
  node.port.onmessage = ({ data }) => onframe(data);
  source.connect(node).connect(context.destination); // it is silent; browsers run only what leads to the destination
  return { node, source };
}
