// The rows of the page: a card with button, gain and spectrogram for each sound, and a table of scores.
// Names and ids come from file names: they are inserted as text nodes, never as markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const minus = (text) => text.replace("-", "−");
const decibels = (value) => minus((value > 0 ? "+" : "") + value.toFixed(1)) + " dB";
const clock = (seconds) => seconds.toFixed(1) + " s";

function score(metric, value) {
  return value === null ? "–" : minus(value.toFixed(metric.decimals));
}

// Ticks at round values, at most six.
function ticks(end) {
  const step = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 5, 10, 20].find((size) => end / size <= 5) || 60;
  const found = [];
  for (let place = 0; place <= end + 1e-9; place += step) found.push(place);
  return found;
}

// A tick at its exact place on an axis, and its number, which stays within the ends of the axis.
function mark(place, end, side) {
  const number = el("span", { class: place === 0 ? "start" : place > 0.96 * end ? "end" : null }, String(Math.round(100 * place) / 100));
  const nodes = [el("i"), number];
  for (const node of nodes) node.style[side] = `${(100 * place) / end}%`;
  return nodes;
}

function spectrogram(row, sound, name, onseek) {
  const plot = el("div", { class: "plot" });
  const picture = el("img", { alt: `spectrogram of ${name}`, draggable: "false" });
  picture.src = "data:image/png;base64," + sound.picture;
  const head = el("div", { class: "head" });
  plot.append(picture, head);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    onseek(((event.clientX - box.left) / box.width) * row.seconds);
  });
  const kilohertz = row.rate / 2000;
  const vertical = el("div", { class: "y", "aria-hidden": "true" });
  for (const place of ticks(kilohertz)) vertical.append(...mark(place, kilohertz, "bottom"));
  const horizontal = el("div", { class: "x", "aria-hidden": "true" });
  for (const place of ticks(row.seconds)) horizontal.append(...mark(place, row.seconds, "left"));
  const labels = [
    el("div", { class: "ylabel", "aria-hidden": "true" }, "frequency (kHz)"),
    el("div", { class: "xlabel", "aria-hidden": "true" }, "time (s)"),
  ];
  return { node: el("div", { class: "spectrogram" }, labels[0], vertical, plot, horizontal, labels[1]), head };
}

function scoreTable(page, row) {
  const columns = page.metrics.map((metric, index) => {
    const values = row.sounds.map((sound) => sound.values[index]);
    return { metric, index, values, known: values.filter((value) => value !== null) };
  });
  const shown = columns.filter((column) => column.known.length);
  if (!shown.length) return el("p", { class: "quiet" }, "There are no scores for this utterance.");
  const body = row.sounds
    .filter((sound) => sound.values.some((value) => value !== null))
    .map((sound) => {
      const cells = shown.map(({ metric, index, known }) => {
        const text = score(metric, sound.values[index]);
        const best = metric.higher === true ? Math.max(...known) : Math.min(...known);
        const differ = new Set(known.map((value) => score(metric, value))).size > 1;
        const marked = metric.higher !== null && differ && text === score(metric, best);
        return el("td", {}, marked ? el("b", {}, text) : text);
      });
      return el("tr", {}, el("th", { scope: "row" }, page.systems[sound.system].name), ...cells);
    });
  const top = shown.map(({ metric }) => el("th", { scope: "col" }, metric.heading));
  const table = el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "system"), ...top)), el("tbody", {}, ...body));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `scores of ${row.id}` }, table);
}

// A section of the page. onhear(sound index, seconds or null) plays.
function section(page, row, onhear) {
  const cards = row.sounds.flatMap((sound, index) => {
    const system = page.systems[sound.system];
    if (system.kind === "anchor") return []; // only for rating
    const button = el(
      "button",
      { type: "button", class: "system", "aria-pressed": "false", onclick: () => onhear(index, null) },
      el("span", { class: "swatch" }),
      el("span", { class: "name" }, system.name),
      el("kbd", { "aria-hidden": "true" }, index < 9 ? String(index + 1) : ""),
    );
    button.style.setProperty("--colour", system.colour);
    const gain = el("span", { class: "gain" }, `gain ${decibels(sound.gain_db)}`);
    const drawn = spectrogram(row, sound, system.name, (time) => onhear(index, time));
    return [{ index, button, gain, head: drawn.head, node: el("div", {}, el("div", { class: "bar" }, button, gain), drawn.node) }];
  });
  const difference = el("span", { class: "difference" });
  const cut = row.seconds < row.whole - 0.05 ? ` of ${clock(row.whole)}; scores are of the whole utterance` : "";
  const node = el(
    "section",
    { "aria-label": `utterance ${row.id}` },
    el("h2", {}, row.id),
    el("p", { class: "quiet" }, `${row.rate / 1000} kHz, ${clock(row.seconds)}${cut}`, difference),
    el("div", { class: "cards" }, ...cards.map((card) => card.node)),
    scoreTable(page, row),
  );
  return { row, node, cards, difference };
}

// Difference of the second system's score to the first's; null if either has none.
function differenceOf(row, metric, first, second) {
  const [a, b] = [first, second].map((system) => row.sounds.find((each) => each.system === system)?.values[metric] ?? null);
  return a === null || b === null ? null : b - a;
}

// Indices of rows, the largest difference between the two systems first; rows without both scores come last.
function sorted(page, metric, first, second) {
  const size = (index) => {
    const difference = differenceOf(page.rows[index], metric, first, second);
    return difference === null ? -1 : Math.abs(difference);
  };
  const order = page.rows.map((_, index) => index);
  return metric < 0 ? order : order.sort((one, other) => size(other) - size(one));
}
