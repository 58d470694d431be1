// The public API: one function a call, errors as `ApiError`, server-sent events over fetch. The key of this tab is kept
// in sessionStorage and goes into one header; it is in no address and in no other storage. Knows nothing of the page.

const KEY = "understudy.key";

export class ApiError extends Error {
  constructor(status, { message, code, param } = {}, retryAfter = null) {
    super(message || `the service answered with status ${status}`);
    Object.assign(this, { status, code: code ?? null, param: param ?? null, retryAfter });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

let wantsKey = () => {};
/** `told` is called whenever the service refuses the key that this tab has, or asks for one. */
export const onKeyWanted = (told) => { wantsKey = told; };

async function send(method, path, { body, headers = {}, signal } = {}) {
  const given = key.get();
  const all = { ...headers, ...(given ? { Authorization: `Bearer ${given}` } : {}) };
  if (body !== undefined && !(body instanceof FormData)) {
    all["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers: all, body, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The service does not answer. Is it running?", code: "unreachable" });
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) wantsKey(Boolean(given));
  throw new ApiError(answer.status, told.error, Number(answer.headers.get("retry-after")) || null);
}

const json = async (...call) => (await send(...call)).json();
const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};
const JOBS = "/v1/fine_tuning/jobs";
const of = (id) => `${JOBS}/${encodeURIComponent(id)}`;

/** A name for a request that may be sent again without being done twice. */
export function onceKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const api = {
  jobs: (after) => json("GET", JOBS + query({ after, limit: 20 })),
  job: (id) => json("GET", of(id)),
  events: (id, after) => json("GET", of(id) + "/events" + query({ after, limit: 100 })),
  act: (id, what) => json("POST", `${of(id)}/${what}`),
  report: (id) => json("GET", of(id) + "/report"),
  reportPage: async (id) => (await send("GET", of(id) + "/report.html")).blob(),
  rejected: (id, after) => json("GET", of(id) + "/rejected_rows" + query({ after, limit: 100 })),
  examples: (id, wanted) => json("GET", of(id) + "/examples" + query(wanted)),
  upload: (file) => {
    const body = new FormData();
    body.set("purpose", "fine-tune");
    body.set("file", file);
    return json("POST", "/v1/files", { body });
  },
  files: () => json("GET", "/v1/files?purpose=fine-tune&limit=100"),
  dryRun: (body) => json("POST", JOBS + "?dry_run=true", { body }),
  submit: (body, once) => json("POST", JOBS, { body, headers: { "Idempotency-Key": once } }),
  versions: () => json("GET", "/v1/versions"),
  version: (name) => json("GET", `/v1/versions/${encodeURIComponent(name)}`),
  promote: (alias, body) => json("POST", `/v1/models/${encodeURIComponent(alias)}/promote`, { body }),
  rollback: (alias, body) => json("POST", `/v1/models/${encodeURIComponent(alias)}/rollback`, { body }),
  compare: (body, signal) => json("POST", "/v1/comparisons", { body, signal }),
  updates: "/v1/fine_tuning/updates",
  story: (id) => of(id) + "/events",
};

/** Each message of a stream as `{name, data, id}`; returns when the service ends it, throws where it cannot be had. */
export async function* stream(path, signal, lastId) {
  const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
  const answer = await send("GET", path, { headers, signal });
  if (answer.status === 204) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const message = { name: "message", data: "", id: null };
      for (const line of part.split(/\r?\n/)) {
        const [field, rest] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
        if (field === "event") message.name = rest;
        if (field === "id") message.id = rest;
        if (field === "data") message.data += rest;
      }
      if (message.data) yield { ...message, data: JSON.parse(message.data) };
    }
  }
}
