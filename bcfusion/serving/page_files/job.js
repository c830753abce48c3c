// One recording on its way through the server: sent, waiting, restored, fetched.
import * as api from "./api.js";

const [SOONEST, LATEST] = [400, 2000]; // ms between questions
const SLOWER = { queued: 1.6, running: 1.25 }; // each pause, by the one before

export class Job {
  constructor({ model, takes }) {
    Object.assign(this, { model, takes });
    this.id = null; // on the server, while something is there
  }

  cancel() {
    this.stopper.abort();
  }

  // Lets the server delete everything; `closing`: the page is being closed.
  leave(closing = false) {
    if (this.id) api.remove(this.id, closing);
    this.id = null;
  }

  // onprogress(text, share from 0 to 1, or null). Returns { status, sounds: blobs of each input, then of the output }.
  // Throws an Error with a sentence, or an AbortError after cancel(). If only the connection failed, the recording
  // stays on the server, and another run() continues.
  async run(onprogress) {
    this.stopper = new AbortController();
    const { signal } = this.stopper;
    try {
      this.id ??= await this.#sent(onprogress, signal);
      const status = await this.#done(onprogress, signal);
      onprogress("Fetching the result …", null);
      const names = [...this.model.sensors.map((_, index) => `input-${index}`), "output"];
      const sounds = await Promise.all(names.map((name) => api.persist(() => api.sound(this.id, name, signal), signal)));
      this.leave();
      return { status, sounds };
    } catch (error) {
      if (error.status === 404 && this.id) {
        this.id = null;
        throw new Error("The server has no such recording any more; it may have been started anew. Send it again.");
      }
      if (!api.passing(error)) this.leave();
      throw error;
    }
  }

  #sent(onprogress, signal) {
    onprogress("Sending …", 0);
    const files = this.takes.map(({ blob, name }) => ({ blob, name }));
    return api.send(this.model.name, files, signal, (share) => {
      if (share < 1) onprogress(`Sending: ${Math.floor(100 * share)} %`, share);
      else onprogress("Sent; the server reads it …", null);
    });
  }

  async #done(onprogress, signal) {
    for (let pause = SOONEST; ; ) {
      const status = await api.persist(() => api.job(this.id, signal), signal);
      const { state, position, progress } = status;
      if (state === "done") return status;
      if (state === "failed") throw new Error(api.sentenceOf(status.error || "the recording could not be restored"));
      if (state === "queued") onprogress(position > 0 ? `Waiting: ${position} before this one` : "Waiting for its turn …", null);
      if (state === "running") onprogress(`Restoring: ${Math.floor(100 * progress)} %`, progress);
      await api.wait(pause, signal);
      pause = Math.min(LATEST, SLOWER[state] * pause);
    }
  }
}
