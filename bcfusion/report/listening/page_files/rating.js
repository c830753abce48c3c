// Blind rating: A/B preference, and MUSHRA-like sliders (ITU-R BS.1534) with a hidden reference. While a trial is rated,
// no name, attribute or order on the page shows which stimulus is which system.
const WORDS = ["bad", "poor", "fair", "good", "excellent"];

function shuffled(items) {
  const mixed = [...items];
  for (let last = mixed.length - 1; last > 0; last--) {
    const drawn = crypto.getRandomValues(new Uint32Array(1))[0] % (last + 1);
    [mixed[last], mixed[drawn]] = [mixed[drawn], mixed[last]];
  }
  return mixed;
}

// The ratings of this page, kept in the browser so that nothing is lost when the tab is closed.
class Ratings {
  constructor(page) {
    this.page = page;
    this.place = `bcfusion-listen:${page.key}`;
    this.kept = true;
    this.content = { listener: "", session: this.#name(), ratings: [] };
    try {
      const found = JSON.parse(localStorage.getItem(this.place));
      if (found && Array.isArray(found.ratings)) this.content = found;
    } catch {
      this.kept = false; // private windows and some file: pages refuse storage
    }
  }

  #name() {
    return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  keep() {
    try {
      localStorage.setItem(this.place, JSON.stringify(this.content));
    } catch {
      this.kept = false;
    }
  }

  clear() {
    this.content = { listener: this.content.listener, session: this.#name(), ratings: [] };
    this.keep();
  }

  json() {
    const { key, title } = this.page;
    const head = { format: "bcfusion-ratings", version: 1, page: key, title, saved: new Date().toISOString() };
    return JSON.stringify({ ...head, ...this.content }, null, 1);
  }

  csv() {
    const { listener, session, ratings } = this.content;
    const lines = [["page", "listener", "session", "mode", "utterance", "trial", "system", "other", "role", "value", "seconds"]];
    for (const rating of ratings) {
      const common = [this.page.key, listener, session, rating.mode, rating.utterance, rating.trial];
      if (rating.mode === "ab") lines.push([...common, rating.a, rating.b, "", { a: 1, b: 0, none: 0.5 }[rating.choice], rating.seconds]);
      else for (const each of rating.scores) lines.push([...common, each.system, "", each.role, each.score, rating.seconds]);
    }
    const cell = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// The panel of one mode, "ab" or "mushra". app: hear(row index, sound index), prepare(row index),
// stop(), pair() of systems, choosing(whether the pair may be changed).
class Rating {
  constructor(page, ratings, app, panel, mode) {
    Object.assign(this, { page, ratings, app, panel, mode });
    this.trials = [];
    this.trial = null;
    this.showStart();
  }

  #rated(row) {
    const pair = this.mode === "ab" ? this.app.pair().map((system) => this.page.systems[system].name) : null;
    return this.ratings.content.ratings.some(
      (one) => one.mode === this.mode && one.utterance === row.id && (!pair || (pair.includes(one.a) && pair.includes(one.b))),
    );
  }

  // Stimuli of a row as indices of its sounds, in their own order; null if the row lacks one of the pair.
  #stimuli(row) {
    const all = row.sounds.map((_, index) => index);
    if (this.mode === "mushra") return all;
    const pair = this.app.pair();
    const found = pair.map((system) => row.sounds.findIndex((sound) => sound.system === system));
    return pair[0] === pair[1] || found.includes(-1) ? null : found;
  }

  showStart() {
    this.now = ""; // name of the sound that is playing, as the player shows it
    this.app.stop();
    this.app.choosing(true);
    this.trial = null;
    const rows = this.page.rows.map((row, index) => index).filter((index) => this.#stimuli(this.page.rows[index]));
    const open = rows.filter((index) => !this.#rated(this.page.rows[index]));
    const done = rows.length - open.length;
    const [first, second] = this.app.pair().map((system) => this.page.systems[system].name);
    const what =
      this.mode === "ab"
        ? `Which of two sounds is better? ${first} and ${second} are played as A and B, unnamed and in random order.`
        : "Rate every sound against the reference from 0 to 100. The reference itself is among them, unnamed.";
    const name = el("input", { type: "text", autocomplete: "off", maxlength: "80" });
    name.value = this.ratings.content.listener;
    name.addEventListener("input", () => {
      this.ratings.content.listener = name.value;
      this.ratings.keep();
    });
    const start = el("button", { type: "button", class: "main", onclick: () => this.begin(open) }, done ? "Continue" : "Start");
    start.disabled = !open.length;
    const all = this.ratings.content.ratings.length;
    const stamp = this.ratings.content.session;
    const json = el("button", { type: "button", onclick: () => download(`ratings-${stamp}.json`, "application/json", this.ratings.json()) }, "Save JSON");
    const csv = el("button", { type: "button", onclick: () => download(`ratings-${stamp}.csv`, "text/csv", this.ratings.csv()) }, "Save CSV");
    const clear = el("button", { type: "button", onclick: () => this.#clear() }, "Delete all ratings");
    for (const button of [json, csv, clear]) button.disabled = !all;
    this.panel.replaceChildren(
      el("h2", { tabindex: "-1" }, this.mode === "ab" ? "Blind A/B" : "MUSHRA rating"),
      el("p", {}, what),
      el("p", { role: "status" }, rows.length ? `${done} of ${rows.length} utterances rated.` : first === second ? "Choose two different systems." : "No utterance has both sounds."),
      el("div", { class: "controls" }, el("label", {}, "Listener (optional) ", name), start),
      el("div", { class: "controls" }, json, csv, clear),
      el("p", { class: "quiet" }, this.ratings.kept
        ? `Ratings stay in this browser until they are deleted. To analyse them: bcfusion listen --analyse ratings-${stamp}.json`
        : "This browser stores nothing: save before you close the page."),
    );
    this.panel.firstChild.focus();
  }

  #clear() {
    if (!confirm("Delete all ratings of this page from this browser?")) return;
    this.ratings.clear();
    this.showStart();
  }

  begin(open) {
    this.trials = shuffled(open);
    this.count = this.trials.length;
    this.next();
  }

  next() {
    const row = this.trials.shift();
    if (row === undefined) return this.showStart();
    const stimuli = shuffled(this.#stimuli(this.page.rows[row]));
    const reference = this.page.rows[row].sounds.findIndex((sound) => this.page.systems[sound.system].kind === "target");
    this.trial = { row, stimuli, reference, heard: new Set(), touched: new Set(), begun: performance.now() };
    this.showTrial();
  }

  showTrial() {
    const { row, stimuli, reference } = this.trial;
    this.app.choosing(false); // the remaining trials are of this pair
    this.now = "";
    const names = stimuli.map((_, place) => (this.mode === "ab" ? "AB"[place] : `Sound ${place + 1}`));
    this.buttons = names.map((name, place) =>
      el("button", { type: "button", "aria-pressed": "false", onclick: () => this.hear(place) }, `${name} `, el("kbd", { "aria-hidden": "true" }, place < 9 ? String(place + 1) : "")),
    );
    this.referenceButton = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.hearReference() }, "Reference ", el("kbd", { "aria-hidden": "true" }, "R"));
    this.problem = el("p", { role: "alert" });
    const form = this.mode === "ab" ? this.#choices() : this.#sliders(names);
    const save = el("button", { type: "button", class: "main", onclick: () => this.save() }, "Save and continue");
    const stop = el("button", { type: "button", onclick: () => this.showStart() }, "Stop");
    this.number = this.ratings.content.ratings.length + 1;
    this.panel.replaceChildren(
      el("h2", { tabindex: "-1" }, `Trial ${this.count - this.trials.length} of ${this.count}`),
      el("div", { class: "controls" }, ...(reference >= 0 ? [this.referenceButton] : []), ...(this.mode === "ab" ? this.buttons : [])),
      form,
      this.problem,
      el("div", { class: "controls" }, save, stop),
    );
    this.panel.firstChild.focus();
    this.app.prepare(row);
  }

  #choices() {
    const labels = [["a", "A is better", "A"], ["b", "B is better", "B"], ["none", "Both are equal", "E"]];
    this.radios = labels.map(([value]) => el("input", { type: "radio", name: "choice", value }));
    const lines = labels.map(([, text, key], index) => el("label", {}, this.radios[index], text, el("kbd", { "aria-hidden": "true" }, key)));
    return el("fieldset", {}, el("legend", {}, "Which is better?"), el("div", { class: "choice" }, ...lines));
  }

  #sliders(names) {
    const words = el("div", { class: "words", "aria-hidden": "true" }, el("div", {}, ...WORDS.map((word) => el("span", {}, word))));
    this.sliders = names.map((name, place) => {
      const slider = el("input", { type: "range", min: "0", max: "100", step: "1", value: "50", "aria-label": `rating of ${name}`, "aria-valuetext": "not rated" });
      const shown = el("output", {}, "not rated");
      const rate = () => {
        const value = Number(slider.value);
        this.trial.touched.add(place);
        shown.textContent = `${value} ${WORDS[Math.min(4, Math.floor(value / 20))]}`;
        slider.setAttribute("aria-valuetext", shown.textContent);
      };
      for (const event of ["input", "click"]) slider.addEventListener(event, rate); // a click at the current value rates too
      slider.shown = shown;
      return slider;
    });
    const lines = this.sliders.map((slider, place) => el("div", { class: "stimulus" }, this.buttons[place], slider, slider.shown));
    return el("fieldset", {}, el("legend", {}, "Quality compared with the reference"), words, ...lines);
  }

  hear(place) {
    if (!this.trial || place >= this.trial.stimuli.length) return;
    this.trial.heard.add(place);
    this.#press(this.buttons[place]);
    this.now = this.mode === "ab" ? "AB"[place] : `Sound ${place + 1}`;
    if (this.mode === "mushra") this.sliders[place].focus();
    this.app.hear(this.trial.row, this.trial.stimuli[place]);
  }

  hearReference() {
    if (!this.trial || this.trial.reference < 0) return;
    this.#press(this.referenceButton);
    this.now = "Reference";
    this.app.hear(this.trial.row, this.trial.reference);
  }

  #press(pressed) {
    for (const button of [...this.buttons, this.referenceButton]) button.setAttribute("aria-pressed", String(button === pressed));
  }

  choose(value) {
    const radio = this.trial && this.mode === "ab" ? this.radios.find((each) => each.value === value) : null;
    if (!radio) return false;
    radio.checked = true;
    radio.focus();
    return true;
  }

  save() {
    if (!this.trial) return;
    const { row, stimuli, heard, touched, begun } = this.trial;
    const unheard = stimuli.findIndex((_, place) => !heard.has(place));
    if (unheard >= 0) return this.#complain(`Listen to ${this.mode === "ab" ? "AB"[unheard] : `sound ${unheard + 1}`} first.`);
    const sounds = this.page.rows[row].sounds;
    const system = (place) => this.page.systems[sounds[stimuli[place]].system];
    const rating = { mode: this.mode, utterance: this.page.rows[row].id, trial: this.number, seconds: Math.round((performance.now() - begun) / 100) / 10 };
    if (this.mode === "ab") {
      const chosen = this.radios.find((radio) => radio.checked);
      if (!chosen) return this.#complain("Choose which is better.");
      Object.assign(rating, { a: system(0).name, b: system(1).name, choice: chosen.value });
    } else {
      const unrated = stimuli.findIndex((_, place) => !touched.has(place));
      if (unrated >= 0) return this.#complain(`Rate sound ${unrated + 1} first.`);
      const role = (kind) => ({ target: "reference", anchor: "anchor" })[kind] || "";
      rating.scores = stimuli.map((_, place) => ({ system: system(place).name, role: role(system(place).kind), score: Number(this.sliders[place].value) }));
    }
    this.ratings.content.ratings.push(rating);
    this.ratings.keep();
    this.app.stop();
    this.next();
  }

  #complain(text) {
    this.problem.textContent = text;
  }
}
