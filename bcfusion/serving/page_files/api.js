// Requests to the server. Every failure is an Error whose message is a sentence for people.
const GONE = "The server does not answer. Check that it is running and that you are connected, then try again.";
const TRIES = 4; // of one request
const LONGEST = 10; // s to wait for a server that is busy

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// As the server says it, with a capital and a full stop.
export const sentenceOf = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

const address = (path) => new URL(path, document.baseURI).href;

function sentence(body, status) {
  try {
    const { error } = JSON.parse(body);
    if (typeof error === "string" && error) return sentenceOf(error);
  } catch {
    // not from this server: a proxy's own page
  }
  if (status === 413) return "The recording is larger than the server takes.";
  if (status === 429 || status === 503) return "The server is busy. Try again in a while.";
  return `The server answered with the error ${status}. Try again; if it stays, tell whoever runs the server.`;
}

export const wait = (time, signal) => new Promise((resolve, reject) => {
  const stop = () => { clearTimeout(timer); reject(new DOMException("cancelled", "AbortError")); };
  const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, time);
  signal?.addEventListener("abort", stop, { once: true });
});

// kind: what the body is read as. A connection that is lost in the middle of it is a failure as any other.
async function request(path, options = {}, kind = "json") {
  for (let tries = 1; ; tries++) {
    let [answer, body] = [null, null];
    try {
      answer = await fetch(address(path), { cache: "no-store", ...options });
      body = await answer[answer.ok ? kind : "text"]();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(GONE, 0);
    }
    if (answer.ok) return body;
    if (answer.status !== 429 || tries >= TRIES) throw new ServerError(sentence(body, answer.status), answer.status);
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await wait(1000 * Math.min(seconds, LONGEST), options.signal);
  }
}

// Asks again, after pauses, while the server does not answer or is in trouble.
export async function persist(ask, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (!passing(error) || tries >= TRIES) throw error;
    }
    await wait(1000 * tries, signal);
  }
}

// Whether the same request may succeed later.
export const passing = ({ status }) => status === 0 || status === 429 || status >= 500;

export const models = () => request("api/models");
export const limits = () => request("api/limits");
export const job = (id, signal) => request(`api/jobs/${encodeURIComponent(id)}`, { signal });
export const sound = (id, name, signal) => request(`api/jobs/${encodeURIComponent(id)}/${name}.wav`, { signal }, "blob");

// Deletes a job; that it is already gone, or that the server is, does not matter. `leaving`: the page is being closed.
export const remove = (id, leaving = false) => request(`api/jobs/${encodeURIComponent(id)}`, { method: "DELETE", keepalive: leaving }, "text").catch(() => {});

// Sends files, one for all sensors or one for each; returns the id of the job. onprogress(sent share, 0 to 1).
export function send(model, files, signal, onprogress) {
  const form = new FormData();
  form.append("model", model);
  for (const { blob, name } of files) form.append("file", blob, name);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch tells nothing about the progress of an upload
    const abort = () => sending.abort();
    signal.addEventListener("abort", abort);
    sending.open("POST", address("api/jobs"));
    sending.upload.addEventListener("progress", (event) => event.lengthComputable && onprogress(event.loaded / event.total));
    sending.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    sending.addEventListener("error", () => reject(new ServerError(GONE, 0)));
    sending.addEventListener("load", () => {
      if (sending.status !== 202) return reject(new ServerError(sentence(sending.responseText, sending.status), sending.status));
      return resolve(JSON.parse(sending.responseText).id);
    });
    sending.addEventListener("loadend", () => signal.removeEventListener("abort", abort));
    sending.send(form);
  });
}

// Address of a live stream.
export function stream(model) {
  const place = new URL(`api/live?model=${encodeURIComponent(model)}`, document.baseURI);
  place.protocol = place.protocol === "https:" ? "wss:" : "ws:";
  return place.href;
}
