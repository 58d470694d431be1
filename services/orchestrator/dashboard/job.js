// One job: what it is, what can be done with it, and its parts. The story and the report are fetched once for all parts.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { api } from "./api.js";
import { examplesPart } from "./examples.js";
import { follow } from "./live.js";
import { overviewPart } from "./overview.js";
import { alert, confirm, copyable, loading, status, statusWord } from "./parts.js";
import { reportPart } from "./report.js";
import { eventsPart, rowsPart } from "./lists.js";
import { newStory, tell } from "./story.js";
import { ago, date, duration, modelName, shown } from "./text.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const PARTS = { overview: ["Overview", overviewPart], report: ["Report", reportPart], examples: ["Examples", examplesPart], rows: ["Rejected rows", rowsPart], events: ["Events", eventsPart] };

const ACTIONS = {
  pause: { name: "Pause", of: ["validating_files", "queued", "running"] },
  resume: { name: "Resume", of: ["paused"] },
  cancel: {
    name: "Cancel", of: ["validating_files", "queued", "running", "paused"], danger: true,
    ask: { title: "Cancel this job?", text: "All that runs for it ends, and it cannot be taken up again.", action: "Cancel the job" },
  },
};

export function jobView(app, id, first) {
  const state = { id, job: null, story: newStory(), report: null, error: null, fault: null, busy: false };
  const parts = new Map();
  let name = PARTS[first] ? first : "overview";

  const part = () => {
    if (!parts.has(name)) parts.set(name, PARTS[name][1](app, state));
    return parts.get(name);
  };

  let asking = null;
  let stale = false;
  /** Ask for the job; one question at a time, and one more where something has happened meanwhile. */
  function refresh() {
    if (asking) {
      stale = true;
      return asking;
    }
    asking = api.job(id).then(put).finally(() => {
      asking = null;
      if (stale) {
        stale = false;
        refresh().catch(() => {});
      }
    });
    return asking;
  }

  function put(job) {
    if (state.job && state.job.status !== job.status) app.tell(`Job ${shown(job.alias)}: ${statusWord(job.status)}`);
    [state.job, state.error] = [job, null];
    if (job.report && !state.report) fetchReport();
    app.draw();
  }

  let fetching = null;
  function fetchReport() {
    fetching ??= api.report(id).then((report) => { state.report = report; app.draw(); }, () => {}).finally(() => { fetching = null; });
  }

  const failed = (error) => {
    if (!state.job) state.error = error;
    app.draw();
  };

  function take({ name: kind, data }) {
    if (kind === "done") {
      state.done = true; // its events have all come: there is nothing left to follow
      put(data);
      app.link("");
    }
    else if (kind === "progress") moment(data);
    else if (tell(state.story, data)) {
      if (data.type !== "metrics") refresh().catch(failed);
      app.draw();
    }
  }

  /** Progress comes with the stream; the phases around it do not, and are asked for when they change. */
  function moment(now) {
    const job = state.job;
    if (!job || job.status !== now.status || job.phase !== now.phase) {
      refresh().catch(failed);
      return;
    }
    const phases = job.phases.map((one) => (one.phase === now.phase ? { ...one, ...now, status: undefined } : one));
    state.job = { ...job, progress: now, phases };
    app.draw();
  }

  async function poll() {
    await refresh();
    const fresh = [];
    for (let after = null; ;) {
      const page = await api.events(id, after);
      const unknown = page.data.filter((one) => !state.story.known.has(one.id));
      fresh.push(...unknown);
      if (!page.has_more || unknown.length < page.data.length) break;
      after = page.data.at(-1).id;
    }
    fresh.reverse().forEach((one) => tell(state.story, one));
    state.done = ENDED.includes(state.job.status);
    app.draw();
  }

  const start = () => refresh().catch(failed);
  start();
  const unfollow = follow({
    path: api.story(id),
    resumes: true,
    take,
    poll,
    ended: () => ENDED.includes(state.job?.status) && state.done,
    tell: (how, error) => { app.link(how); if (error) failed(error); },
  });
  const clock = setInterval(() => { if (state.job && !ENDED.includes(state.job.status) && !document.hidden) app.draw(); }, 1000);

  async function act(what) {
    const { ask, danger } = ACTIONS[what];
    if (ask && !(await confirm({ ...ask, danger }))) return;
    [state.busy, state.fault] = [true, null];
    app.draw();
    try {
      put(await api.act(id, what));
    } catch (error) {
      state.fault = error;
    }
    state.busy = false;
    app.draw();
  }

  function render() {
    const { job, error } = state;
    if (error) return html`<div class="head"><h1 tabindex="-1">Job</h1></div>${alert(error, () => { state.error = null; app.draw(); start(); })}`;
    if (!job) return html`<div class="head"><h1 tabindex="-1">Job</h1></div>${loading(6)}`;
    const teacher = job.method.distillation?.teacher.model;
    const took = (job.finished_at ?? Date.now() / 1000) - job.created_at;
    return html`
      <nav class="crumbs" aria-label="Where you are"><a href="#/jobs">Jobs</a></nav>
      <div class="head">
        <h1 tabindex="-1"><bdi>${shown(job.alias)}</bdi></h1>${status(job.status)}
        <div class="row end">${Object.entries(ACTIONS).filter(([, one]) => one.of.includes(job.status)).map(([what, one]) => html`
          <button type="button" class=${one.danger ? "danger" : ""} ?disabled=${state.busy} @click=${() => act(what)}>${one.name}</button>`)}
          ${job.fine_tuned_model ? html`<a class="button primary" href="#/models/${job.fine_tuned_model}">Try the model</a>` : nothing}</div>
      </div>
      <p class="meta">${copyable(job.id, app.tell)}
        <span><bdi>${teacher ? `${modelName(teacher)} → ` : ""}${modelName(job.model)}</bdi></span>
        <time title=${date(job.created_at)}>created ${ago(job.created_at)}</time>
        <span>${job.finished_at ? "took" : "for"} ${duration(took)}</span></p>
      ${state.fault ? alert(state.fault) : nothing}
      ${job.error ? html`<div class="alert" role="alert"><strong>The job failed</strong><p><bdi>${shown(job.error.message)}</bdi></p>
        <p class="soft"><code>${shown(job.error.code)}</code>${job.error.param ? html` · <code>${shown(job.error.param)}</code>` : nothing}</p></div>` : nothing}
      <nav class="tabs" aria-label="Parts of the job">${Object.entries(PARTS).map(([key, [text]]) => html`
        <a href="#/jobs/${id}/${key}" aria-current=${key === name ? "page" : nothing}>${text}${counted(key)}</a>`)}</nav>
      ${part().render()}`;
  }

  function counted(key) {
    const number = key === "rows" ? state.job.rejected_rows?.count : null;
    return number ? html`<span class="count">${number}</span>` : nothing;
  }

  return {
    title: () => (state.job ? `${shown(state.job.alias)} · ${statusWord(state.job.status)}` : "Job"),
    render,
    moveTo(path) {
      if (path[0] !== "jobs" || path[1] !== id) return false;
      name = PARTS[path[2]] ? path[2] : "overview";
      return true;
    },
    stop() {
      unfollow();
      clearInterval(clock);
      parts.forEach((one) => one.stop?.());
    },
  };
}
