// Level meters, one a line: name, bar from -60 to 0 dBFS, peak in words.
const LOWEST = -60; // dBFS
const FALL = 20; // dB per second
const HELD = 1.5; // s that a clipped meter stays red

export class Meters {
  constructor(node, names) {
    this.rows = names.map((name) => {
      const bar = el("i");
      const meter = el("div", { class: "meter", role: "meter", "aria-label": `level of ${name}`, "aria-valuemin": LOWEST, "aria-valuemax": 0 }, bar);
      return { name: el("span", {}, name), meter, bar, text: el("span", { class: "value" }, "–"), shown: LOWEST, at: 0, clipped: -Infinity };
    });
    node.replaceChildren(...this.rows.flatMap(({ name, meter, text }) => [name, meter, text]));
  }

  // peaks: of each line, since the last call.
  show(peaks) {
    const now = performance.now() / 1000;
    peaks.forEach((peak, index) => {
      const row = this.rows[index];
      const level = Math.max(LOWEST, 20 * Math.log10(Math.max(peak, 1e-9)));
      row.shown = Math.max(level, row.shown - FALL * Math.min(1, now - row.at));
      row.at = now;
      if (peak >= 0.999) row.clipped = now;
      const over = now - row.clipped < HELD;
      row.bar.style.transform = `scaleX(${1 - row.shown / LOWEST})`;
      row.meter.classList.toggle("clipped", over);
      row.meter.setAttribute("aria-valuenow", row.shown.toFixed(0));
      row.text.textContent = over ? "too loud" : row.shown <= LOWEST ? "silent" : `${minus(row.shown.toFixed(0))} dBFS`;
    });
  }
}
