// Following something while the page is looked at: a stream where there is one, and questions every few seconds where
// there is none. A hidden page lets go of its stream: browsers have few connections to one service.

import { ApiError, stream } from "./api.js";

const POLL_MS = 3000;
const AGAIN_MS = 2000;

/**
 * `path` is the stream's, `take` gets its messages, `poll` asks once in its place, `ended` says that there is nothing
 * left to follow. `tell` hears how it goes: "live", "polling", "away" or "refused". Returns a function that stops it.
 */
export function follow({ path, take, poll, ended = () => false, tell = () => {}, resumes = false }) {
  let stopped = false;
  let lastId = null;
  let current = null;
  let wake = () => {};

  const pause = (ms) => new Promise((done) => {
    const timer = setTimeout(done, ms);
    wake = () => { clearTimeout(timer); done(); };
  });

  async function streamed() {
    current = new AbortController();
    for await (const message of stream(path, current.signal, resumes ? lastId : null)) {
      tell("live");
      if (message.id) lastId = message.id;
      take(message);
    }
  }

  async function run() {
    while (!stopped && !ended()) {
      if (document.hidden) {
        await pause(POLL_MS);
        continue;
      }
      try {
        await streamed();
      } catch (error) {
        if (stopped) return;
        if (error.name === "AbortError") continue;
        if (error instanceof ApiError && [401, 403, 404].includes(error.status)) {
          tell("refused", error); // asking again would not change it
          return;
        }
        await once();
      }
      if (!stopped && !ended()) await pause(AGAIN_MS);
    }
  }

  async function once() {
    try {
      await poll();
      tell("polling");
    } catch (error) {
      tell("away", error);
    }
  }

  const looked = () => {
    if (document.hidden) current?.abort();
    else wake();
  };
  document.addEventListener("visibilitychange", looked);
  run();
  return () => {
    stopped = true;
    document.removeEventListener("visibilitychange", looked);
    current?.abort();
    wake();
  };
}
