// Elements of the pages that play sounds: nodes, numbers, and the axes of a spectrogram.
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

// Ticks at round values, at most six.
function ticks(end) {
  const step = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 5, 10, 20, 60, 120, 300, 600].find((size) => end / size <= 5) || 1200;
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

// A picture of frequency over time, with its axes and the line of the play position. onseek(seconds) is called by a click.
function framed(picture, seconds, rate, onseek) {
  const plot = el("div", { class: "plot" });
  const head = el("div", { class: "head" });
  plot.append(picture, head);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    onseek(((event.clientX - box.left) / box.width) * seconds);
  });
  const kilohertz = rate / 2000;
  const vertical = el("div", { class: "y", "aria-hidden": "true" });
  for (const place of ticks(kilohertz)) vertical.append(...mark(place, kilohertz, "bottom"));
  const horizontal = el("div", { class: "x", "aria-hidden": "true" });
  for (const place of ticks(seconds)) horizontal.append(...mark(place, seconds, "left"));
  const labels = [
    el("div", { class: "ylabel", "aria-hidden": "true" }, "frequency (kHz)"),
    el("div", { class: "xlabel", "aria-hidden": "true" }, "time (s)"),
  ];
  return { node: el("div", { class: "spectrogram" }, labels[0], vertical, plot, horizontal, labels[1]), head };
}
