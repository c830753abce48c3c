// Puts the page together: models, the two modes, keys. Player, el, framed, clock, decibels and minus come from the
// scripts of the listening page, which the document loads before.
import * as api from "./api.js";
import { part } from "./dom.js";
import { Job } from "./job.js";
import { Live } from "./live.js";
import { Microphone } from "./microphone.js";
import { Result } from "./result.js";
import { Takes } from "./takes.js";

const TASKS = { bone_to_air: "body sensor to speech", fusion: "body sensor and noisy microphone", bandwidth_extension: "wider bandwidth" };
const state = { models: [], model: null, job: null, last: null };
const result = new Result();
let [microphone, takes, live] = [null, null, null];

// ---------------------------------------------------------------- model

function choose(name) {
  state.model = state.models.find((model) => model.name === name);
  const { model } = state;
  const sensors = model.sensors.map((sensor) => (model.about_sensors?.[sensor] ? `${sensor}: ${model.about_sensors[sensor]}` : sensor));
  const lines = [
    [sensors.length > 1 ? "Sensors" : "Sensor", sensors.join("; ")],
    ["Sample rate", `${model.sample_rate / 1000} kHz`],
    ["Live", model.causal ? `yes, ${model.latency_ms.toFixed(0)} ms in the network` : "no, it needs the whole recording"],
    ["Task", TASKS[model.task] || model.task],
    ["Size", model.parameters ? `${model.parameters.toLocaleString("en")} parameters` : ""],
    ["Licence", model.licence],
  ];
  part("about-title").textContent = model.title;
  part("about-note").textContent = model.note;
  part("about").replaceChildren(...lines.filter(([, text]) => text).flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]));
  microphone.setSensors(model.sensors);
  takes.setSensors(model.sensors);
  live.setModel(model);
}

// ---------------------------------------------------------------- recording

// What is at work decides what can be changed: a recording on its way, and live sound.
function refreshLocks() {
  const busy = Boolean(state.job);
  part("work").hidden = !busy;
  part("model").disabled = busy || Boolean(live?.session);
  takes?.hold(busy);
  part("restore").disabled = busy || !takes?.ready;
}

function working(job) {
  state.job = job;
  refreshLocks();
}

async function restore(job) {
  if (state.last !== job) state.last?.leave();
  state.last = job;
  part("failed").hidden = true;
  working(job);
  try {
    const found = await job.run((text, share) => {
      if (part("work-text").textContent !== text) part("work-text").textContent = text;
      if (share === null) part("work-progress").removeAttribute("value");
      else part("work-progress").value = share;
    });
    await result.load({ model: job.model, name: job.takes[0].name, ...found });
    if (!part("file").hidden) part("result-title").focus();
  } catch (error) {
    if (error.name !== "AbortError") {
      part("failed-text").textContent = error.message;
      part("failed").hidden = false;
    }
  } finally {
    working(null);
  }
}

// ---------------------------------------------------------------- modes and keys

function show(mode) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const selected = tab.id === `tab-${mode}`;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    part(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  if (mode === "live") {
    result.pause();
    takes.stop();
  } else {
    live.session?.stop();
  }
  part("transport").hidden = mode === "live" || !result.player;
}

const tabs = [...document.querySelectorAll("[role=tab]")];
for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[(place + 1) % tabs.length];
    other.focus();
    other.click();
    event.preventDefault();
    event.stopPropagation();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !result.player || part("file").hidden) return;
  const { target, key } = event;
  if (target.matches("input[type=text], select, audio")) return;
  if (key.startsWith("Arrow") && target.matches("input[type=range]")) return; // the slider's own
  if (key === " " && target.matches("button, summary, a") && !target.closest(".system, #switches")) return;
  if (result.key(key)) event.preventDefault();
});

window.addEventListener("pagehide", () => state.last?.leave(true));

// ---------------------------------------------------------------- start

async function start() {
  let limits;
  try {
    [state.models, limits] = await Promise.all([api.models(), api.limits()]);
  } catch (error) {
    part("notice").textContent = error.message;
    return;
  }
  const latest = `after ${limits.keep_minutes} minutes at the latest`;
  part("keeping").textContent = `Recordings are sent to this server, and deleted there as soon as the result is here (${latest}).`;
  microphone = new Microphone([part("file-source"), part("live-source")]);
  takes = new Takes({ microphone, limits, onchange: refreshLocks });
  live = new Live({ microphone, onchange: refreshLocks });
  part("model").append(...state.models.map(({ name, causal }) => el("option", { value: name }, causal ? `${name} (also live)` : name)));
  part("model").addEventListener("change", () => choose(part("model").value));
  part("restore").addEventListener("click", () => restore(new Job({ model: state.model, takes: [...takes.list] })));
  part("cancel").addEventListener("click", () => state.job?.cancel());
  part("retry").addEventListener("click", () => restore(state.last));
  choose(state.models[0].name);
  Object.assign(window.bcfusionServe, { microphone, takes, live });
}

// For tests and the console.
window.bcfusionServe = { state, result };
await start();
window.bcfusionServe.started = true;
