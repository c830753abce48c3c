// The rows of the page: a card with button, gain and spectrogram for each sound, and a table of scores.
function score(metric, value) {
  return value === null ? "–" : minus(value.toFixed(metric.decimals));
}

function spectrogram(row, sound, name, onseek) {
  const picture = el("img", { alt: `spectrogram of ${name}`, draggable: "false" });
  picture.src = "data:image/png;base64," + sound.picture;
  return framed(picture, row.seconds, row.rate, onseek);
}

function scoreTable(page, row) {
  const columns = page.metrics.map((metric, index) => ({ metric, index }));
  const shown = columns.filter(({ index }) => row.sounds.some((sound) => sound.values[index] !== null));
  if (!shown.length) return el("p", { class: "quiet" }, "There are no scores for this utterance.");
  const body = row.sounds
    .filter((sound) => sound.values.some((value) => value !== null))
    .map((sound) => {
      const cells = shown.map(({ metric, index }) => {
        const text = score(metric, sound.values[index]);
        return el("td", {}, sound.best[index] ? el("b", {}, text) : text);
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
