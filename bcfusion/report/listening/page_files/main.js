// Connects the player, the rows, the rating and the keys.
const page = JSON.parse(document.getElementById("page").textContent);
const part = (id) => document.getElementById(id);
const KEPT = 4; // decoded rows in memory
const decoded = new Map();
const ratings = new Ratings(page);
let player = null;
let current = -1; // row in the player
let aim = { row: -1, sound: 0 }; // last request; its row may still be decoding
let wanted = 0; // counts requests, so that a slow one does not replace a later one
let matched = true;
let rating = null;
let repeating = false; // kept from one utterance to the next
let loopBegin = null;

const audible = (row) => row.sounds.map((sound, index) => index).filter((index) => page.systems[row.sounds[index].system].kind !== "anchor");
const factors = (row) => row.sounds.map((sound) => (matched || rating ? sound.matched : sound.recorded));
const nameOf = (row, index) => page.systems[row.sounds[index].system].name;

const SHORT = 32; // letters of a name in a closed list or a small button

// Cuts a long name in the middle, where the names of runs differ least; keeps it whole if two would look the same.
function short(name) {
  const cut = (whole) => (whole.length <= SHORT ? whole : `${whole.slice(0, SHORT / 2 - 4)}…${whole.slice(-(SHORT / 2 + 3))}`);
  return page.systems.some((system) => system.name !== name && cut(system.name) === cut(name)) ? name : cut(name);
}

// The row and sound in the player, or those that Play will start.
function next() {
  if (current >= 0) return { row: current, sound: player.opened };
  return aim.row >= 0 ? aim : { row: sections[0].index, sound: 0 };
}

function thePlayer() {
  if (!player) {
    player = new Player(new AudioContext({ sampleRate: Math.max(8000, ...page.rows.map((row) => row.rate)) }));
    player.onend = refresh;
  }
  return player;
}

async function decode(index) {
  if (!decoded.has(index)) {
    const context = thePlayer().context;
    const buffers = Promise.all(
      page.rows[index].sounds.map((sound) => context.decodeAudioData(Uint8Array.from(atob(sound.audio), (letter) => letter.charCodeAt(0)).buffer)),
    );
    decoded.set(index, buffers);
    for (const old of decoded.keys()) if (decoded.size > KEPT && old !== index) decoded.delete(old);
  }
  return decoded.get(index);
}

// Loads a row into the player; returns false if a later request came in between.
async function load(index, opened) {
  const order = ++wanted;
  aim = { row: index, sound: opened };
  if (index === current) return true;
  let buffers;
  try {
    buffers = await decode(index);
  } catch (error) {
    decoded.delete(index);
    part("notice").textContent = `This browser cannot decode the sounds of ${page.rows[index].id}: ${error.message}. Make the page again with --format wav.`;
    return false;
  }
  if (order !== wanted) return false;
  player.load(buffers, factors(page.rows[index]), opened);
  if (repeating) player.setLoop([0, player.duration]);
  current = index;
  loopBegin = null;
  showRow();
  return true;
}

async function hear(index, sound, time = null, play = true) {
  thePlayer().context.resume();
  if (!(await load(index, sound))) return;
  player.open(sound);
  if (time !== null) player.seek(time);
  if (play) player.play();
  refresh();
}

function stop() {
  if (player) player.pause();
  refresh();
}

function toggle() {
  if (player && player.playing && aim.row === current) return stop();
  if (aim.row >= 0) return hear(aim.row, aim.sound);
  if (rating) return rating.trial ? rating.hear(0) : undefined;
  return hear(next().row, next().sound);
}

function seek(time) {
  if (current < 0) return rating ? undefined : hear(next().row, next().sound, time, false);
  player.seek(time);
  refresh();
}

function setLoop(loop) {
  repeating = Boolean(loop && loop[1] - loop[0] >= 0.05);
  if (current >= 0) player.setLoop(repeating ? loop : null);
  if (!loop) loopBegin = null;
  refresh();
}

function setMatched(on) {
  matched = on;
  if (current >= 0) player.setFactors(factors(page.rows[current]));
  refresh();
}

// ---------------------------------------------------------------- rows

const sections = page.rows.map((row, index) => ({ index, ...section(page, row, (sound, time) => hear(index, sound, time)) }));

function showRow() {
  for (const each of sections) each.node.classList.toggle("current", each.index === current);
  const shown = next().row;
  const row = page.rows[shown];
  part("position").max = row.seconds;
  if (rating) return; // no name may be shown
  const buttons = audible(row).map((index, place) => {
    const name = nameOf(row, index);
    const play = () => hear(shown, index, null, current < 0 || player.playing);
    const button = el("button", { type: "button", title: name, onclick: play }, el("span", {}, `${place + 1} ${short(name)}`));
    button.dataset.sound = index;
    return button;
  });
  part("switches").replaceChildren(...buttons);
}

function step(by) {
  const place = sections.findIndex((each) => each.index === aim.row);
  const next = sections[Math.min(sections.length - 1, Math.max(0, place < 0 ? 0 : place + by))];
  const playing = Boolean(player && player.playing);
  const before = current >= 0 ? page.rows[current].sounds[player.opened].system : -1;
  const same = next.row.sounds.findIndex((sound) => sound.system === before);
  next.node.scrollIntoView({ block: "start" });
  return hear(next.index, Math.max(0, same), null, playing);
}

function sort() {
  const order = sorted(page, Number(part("metric").value), ...pair());
  sections.sort((one, other) => order.indexOf(one.index) - order.indexOf(other.index));
  part("rows").replaceChildren(...sections.map((each) => each.node));
  const metric = page.metrics[Number(part("metric").value)];
  const [first, second] = pair().map((system) => page.systems[system].name);
  for (const { row, difference } of sections) {
    const value = metric ? differenceOf(row, Number(part("metric").value), ...pair()) : null;
    difference.textContent = value === null ? "" : `${metric.text} of ${second} − ${first}: ${value > 0 ? "+" : ""}${score(metric, value)}${metric.unit ? ` ${metric.unit}` : ""}`;
  }
  if (current < 0) showRow();
  refresh();
}

function pair() {
  return [Number(part("first").value), Number(part("second").value)];
}

// ---------------------------------------------------------------- display

function refresh() {
  const playing = Boolean(player && player.playing);
  part("play").textContent = playing ? "Pause" : "Play";
  part("match").setAttribute("aria-pressed", String(matched));
  part("match").hidden = Boolean(rating);
  part("switches").hidden = Boolean(rating);
  part("repeat").setAttribute("aria-pressed", String(repeating));
  for (const each of sections) {
    for (const card of each.cards) {
      const sound = each.row.sounds[card.index];
      const heard = !rating && each.index === current && player.opened === card.index;
      card.button.setAttribute("aria-pressed", String(heard));
      card.gain.textContent = matched ? `gain ${decibels(sound.gain_db)}` : "as recorded";
    }
  }
  const shown = next();
  for (const button of part("switches").children) button.setAttribute("aria-pressed", String(current >= 0 && Number(button.dataset.sound) === shown.sound));
  const row = page.rows[shown.row];
  const text = rating ? rating.now : `${nameOf(row, shown.sound)} · ${row.id}`;
  if (part("now").textContent !== text) part("now").textContent = text;
  tick();
}

function tick() {
  if (current < 0) {
    part("time").textContent = rating ? "" : `0.0 / ${clock(page.rows[next().row].seconds)}`;
    return;
  }
  const row = page.rows[current];
  const time = player.position();
  if (document.activeElement !== part("position") || player.playing) part("position").value = time;
  part("position").setAttribute("aria-valuetext", `${time.toFixed(1)} of ${row.seconds.toFixed(1)} seconds`);
  const [begin, end] = player.loop || [0, 0];
  part("time").textContent = `${time.toFixed(1)} / ${clock(row.seconds)}${player.loop && end - begin < row.seconds - 0.01 ? ` (${begin.toFixed(1)}–${end.toFixed(1)})` : ""}`;
  if (rating) return;
  const { cards } = sections.find((each) => each.index === current);
  for (const card of cards) card.head.style.left = `${(100 * time) / row.seconds}%`;
}

function animate() {
  if (player && player.playing) tick();
  requestAnimationFrame(animate);
}

function setMode(mode) {
  forget();
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  part("rows").hidden = mode !== "listen";
  part("rating").hidden = mode === "listen";
  part("sorting").hidden = mode === "mushra" || (mode === "listen" && !page.metrics.length);
  part("by").hidden = mode !== "listen";
  part("legend").hidden = part("summary").hidden = mode !== "listen";
  [part("between").textContent, part("and").textContent] = mode === "ab" ? ["compare", "with"] : ["between", "and"];
  part("switches").replaceChildren();
  for (const each of sections) each.node.classList.remove("current");
  rating = null;
  if (mode !== "listen") {
    const app = { hear, stop, pair, prepare, choosing: (on) => { part("sorting").hidden = !on || mode === "mushra"; } };
    rating = new Rating(page, ratings, app, part("rating"), mode);
  } else {
    showRow();
  }
  refresh();
}

// Empties the player and drops what is still decoding.
function forget() {
  stop();
  current = -1;
  aim = { row: -1, sound: 0 };
  wanted++;
  part("position").value = 0;
}

// Before a trial: empties the player and starts to decode the sounds.
function prepare(row) {
  forget();
  if (player) decode(row).catch(() => {}); // reported when the sound is played
}

// ---------------------------------------------------------------- keys

function digit(place) {
  if (rating) return rating.hear(place);
  const index = aim.row >= 0 ? aim.row : sections[0].index;
  const sounds = audible(page.rows[index]);
  if (place < sounds.length) hear(index, sounds[place], null, current < 0 || player.playing);
}

const KEYS = {
  n: () => rating || step(1),
  p: () => rating || step(-1),
  l: () => setLoop(repeating ? null : [0, current < 0 ? Infinity : player.duration]),
  "[": () => current >= 0 && (loopBegin = player.position()),
  "]": () => current >= 0 && setLoop([loopBegin || 0, player.position()]),
  m: () => rating || setMatched(!matched),
  r: () => rating && rating.hearReference(),
  a: () => rating && rating.choose("a"),
  b: () => rating && rating.choose("b"),
  e: () => rating && rating.choose("none"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  if (target.matches("input[type=text], select")) return;
  const slider = target.matches("input[type=range], input[type=radio]"); // they use the arrow keys
  const sounding = target.closest(".system, #switches, .stimulus, #rating [aria-pressed]");
  const control = target.matches("button, summary, a, input[type=radio]:not(:checked)") && !sounding; // they use Space and Enter
  if (key === " ") {
    if (control) return;
    toggle();
  } else if (key === "Enter") {
    if (!rating || !rating.trial || (target.matches("button, a, summary") && target.closest("#rating") === null)) return;
    if (target.matches("#rating button")) return;
    rating.save();
  } else if (key === "ArrowLeft" || key === "ArrowRight") {
    if (slider || target.closest(".scroll")) return;
    seek((player ? player.position() : 0) + (key === "ArrowLeft" ? -1 : 1));
  } else if (/^[1-9]$/.test(key)) {
    digit(Number(key) - 1);
  } else if (Object.hasOwn(KEYS, key.toLowerCase())) {
    KEYS[key.toLowerCase()]();
  } else {
    return;
  }
  event.preventDefault();
});

// ---------------------------------------------------------------- start

part("play").addEventListener("click", toggle);
part("repeat").addEventListener("click", KEYS.l);
part("match").addEventListener("click", KEYS.m);
part("position").addEventListener("input", (event) => seek(Number(event.target.value)));
for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
part("metric").append(el("option", { value: "-1" }, "– (as given)"), ...page.metrics.map((metric, index) => el("option", { value: index }, metric.heading)));
for (const id of ["first", "second"]) {
  part(id).append(...page.systems.map((system, index) => [system, index]).filter(([system]) => system.kind === "run" || system.kind === "input").map(([system, index]) => el("option", { value: index, title: system.name }, short(system.name))));
}
[part("first").value, part("second").value] = page.pair.map(String);
for (const id of ["metric", "first", "second"]) part(id).addEventListener("change", () => (rating ? rating.trial || rating.showStart() : sort()));
// The player covers the bottom of the window; the focused element stays above it.
new ResizeObserver(() => {
  const height = `${part("transport").offsetHeight}px`;
  document.documentElement.style.scrollPaddingBottom = document.body.style.marginBottom = height;
}).observe(part("transport"));
part("sorting").hidden = !page.metrics.length;
sort();
animate();

// For tests and the console.
window.bcfusionListen = { Player, page, decode, ratings, player: () => player };
