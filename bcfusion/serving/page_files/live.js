// The live mode: what is shown, and what its buttons do.
import { part } from "./dom.js";
import { LiveSession } from "./live_session.js";
import { Meters } from "./meter.js";
import { HIDDEN, tooMany, unavailable } from "./microphone.js";

const PARTS = [
  ["frame", "a frame is recorded"],
  ["lookahead", "the network looks ahead"],
  ["trip", "to the server, computed, and back"],
  ["buffer", "buffer against irregular arrival"],
  ["device", "output device, as the browser states it"],
];
const SMOOTH = 0.15; // share of a new figure in what is shown

export class Live {
  // onchange() is called when it has begun or ended.
  constructor({ microphone, onchange }) {
    Object.assign(this, { microphone, onchange });
    this.session = null;
    this.bypassed = false;
    this.share = 1;
    this.sink = "";
    part("start").addEventListener("click", () => (this.session ? this.session.stop() : this.#start()));
    part("bypass").addEventListener("click", () => this.#bypass(!this.bypassed));
    part("live-mix").addEventListener("input", (event) => this.#mix(event.target.value / 100));
    document.addEventListener("visibilitychange", () => document.hidden && this.session?.stop(HIDDEN));
    window.addEventListener("pagehide", () => this.session?.stop(HIDDEN));
    this.rows = PARTS.map(([, text], index) => {
      const value = el("td", {}, "–");
      part("parts").tBodies[0].append(el("tr", {}, el("th", { scope: "row" }, el("span", { class: `swatch part-${index}` }), text), value));
      const bar = el("i", { class: `part-${index}` });
      part("parts-bar").append(bar);
      return { value, bar };
    });
    if ("setSinkId" in AudioContext.prototype) this.#outputs();
    this.#show();
  }

  #outputs() {
    const select = el("select");
    const label = el("label", {}, "Output", select);
    part("live-source").append(label);
    this.microphone.onlist = (outputs) => {
      label.hidden = !outputs.length;
      const listed = outputs.map(({ deviceId, label: name }, index) => el("option", { value: deviceId }, name || `Output ${index + 1}`));
      select.replaceChildren(el("option", { value: "" }, "the browser’s default"), ...listed);
      if (!outputs.some(({ deviceId }) => deviceId === this.sink)) this.sink = "";
      select.value = this.sink;
    };
    select.addEventListener("change", () => {
      this.sink = select.value;
      this.session?.context.setSinkId(this.sink).catch(() => this.#complain("The browser cannot use that output. Choose another one."));
    });
    label.hidden = true;
  }

  setModel(model) {
    this.model = model;
    const why = unavailable() || tooMany(model.sensors) || (model.causal ? "" : `${model.name} needs the whole recording and cannot run live: choose a model that says “live”.`);
    part("live-none").textContent = why;
    part("live-none").hidden = !why;
    part("start").disabled = Boolean(why);
  }

  #complain(text) {
    part("live-problem").textContent = text;
  }

  async #start() {
    const { model, microphone } = this;
    this.#complain("");
    this.shown = null;
    this.meters = null;
    this.#bypass(false);
    const session = new LiveSession({
      model,
      microphone,
      sink: this.sink,
      share: this.share,
      onreport: (figures) => this.#report(session, figures),
      onstop: (reason) => this.#stopped(session, reason),
    });
    this.session = session;
    microphone.lock(true);
    this.#show("The microphone and the connection are opened …");
    try {
      await session.start();
    } catch (error) {
      this.#stopped(session, error.message);
      return;
    }
    if (!session.ended) this.#show(`${model.name} is running.`);
  }

  #stopped(session, reason) {
    if (this.session !== session) return;
    this.session = null;
    this.microphone.lock(false);
    this.#complain(reason);
    this.#show();
  }

  #show(status = "") {
    const { session } = this;
    part("start").textContent = session ? "Stop" : "Start";
    part("bypass").disabled = !session;
    part("live-status").textContent = status;
    part("running").hidden = !session?.figures;
    this.onchange();
  }

  #bypass(on) {
    this.bypassed = on;
    part("bypass").setAttribute("aria-pressed", String(on));
    this.session?.mix(on ? 0 : this.share);
  }

  #mix(share) {
    this.share = share;
    this.#mixText();
    this.#bypass(false);
  }

  #report(session, { parts, levels, output, depth, target, underruns, dropped, unsent, server }) {
    if (part("running").hidden) {
      part("running").hidden = false;
      this.meters = new Meters(part("live-meters"), [...session.model.sensors, "output"]);
      this.#mixText();
    }
    this.meters.show([...session.model.sensors.map((_, sensor) => levels[sensor] || 0), output]);
    const ms = (seconds) => `${(1000 * seconds).toFixed(0)} ms`;
    if (parts) {
      this.shown ??= { ...parts };
      for (const [name] of PARTS) this.shown[name] += SMOOTH * (parts[name] - this.shown[name]);
      const total = PARTS.reduce((sum, [name]) => sum + this.shown[name], 0);
      part("total").textContent = ms(total);
      PARTS.forEach(([name], index) => {
        this.rows[index].value.textContent = `${(1000 * this.shown[name]).toFixed(1)} ms`;
        this.rows[index].bar.style.flexBasis = `${(100 * this.shown[name]) / total}%`;
      });
    }
    const lines = [
      ["missed: repeated, or silent", underruns],
      ["left out to catch up", dropped],
      ["not sent: the connection is too slow", unsent],
      ["not computed: the server is too slow", server.dropped],
      ["waiting in the buffer", `${ms(depth)} of ${ms(target)}`],
      ["the server’s computing time, of real time", server.load === null ? "–" : `${(100 * server.load).toFixed(1)} %`],
    ];
    this.counts ??= lines.map(([name]) => {
      const value = el("dd");
      part("counts").append(el("dt", {}, name), value);
      return value;
    });
    lines.forEach(([, value], index) => { this.counts[index].textContent = value; });
  }

  #mixText() {
    const text = `${Math.round(100 * this.share)} %`;
    part("live-mix-text").textContent = text;
    part("live-mix").setAttribute("aria-valuetext", `${text} after`);
  }
}
