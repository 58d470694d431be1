// All jobs, the newest first, as they change.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { api } from "./api.js";
import { follow } from "./live.js";
import { alert, bar, empty, icon, loading, scroll, status, statusWord, verdict } from "./parts.js";
import { ago, count, date, duration, modelName, percent, shortId, shown } from "./text.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const FILTERS = [["all", "All"], ["open", "Open"], ["succeeded", "Succeeded"], ["failed", "Failed"]];

export function jobsView(app) {
  const jobs = new Map();
  let order = [];
  let more = false;
  let error = null;
  let loaded = false;
  let filter = "all";
  let results = new Map();

  function put(job) {
    const before = jobs.get(job.id);
    jobs.set(job.id, job);
    if (!before) order = [...order, job.id].sort((a, b) => jobs.get(b).created_at - jobs.get(a).created_at);
    if (before && before.status !== job.status) app.tell(`Job ${shown(job.alias)}: ${statusWord(job.status)}`);
    if (job.status === "succeeded" && before?.status !== "succeeded") lookUpResults();
  }

  async function page(after) {
    const found = await api.jobs(after);
    found.data.forEach(put);
    if (after || !loaded) more = found.has_more;
    [loaded, error] = [true, null];
    app.draw();
  }

  let looking = null;
  function lookUpResults() {
    looking ??= api.versions().then((found) => {
      results = new Map(found.data.map((one) => [one.job, one]));
      app.draw();
    }, () => {}).finally(() => { looking = null; });
  }

  const start = () => page().catch((fault) => { error = fault; app.draw(); });
  start();
  const stop = follow({
    path: api.updates,
    take: (message) => { if (message.name === "job") { put(message.data); [loaded, error] = [true, null]; app.draw(); } },
    poll: () => page(),
    tell: (state, fault) => { app.link(state); if (fault && !loaded) { error = fault; app.draw(); } },
  });

  const fits = (job) => filter === "all" || job.status === filter || (filter === "open" && !ENDED.includes(job.status));

  function render() {
    return html`
      <div class="head"><h1 tabindex="-1">Jobs</h1>
        <a class="button primary" href="#/new">${icon("plus")}New job</a></div>
      ${error && loaded ? alert(error) : nothing}
      ${error && !loaded ? alert(error, () => { error = null; app.draw(); start(); })
        : !loaded ? loading(5)
        : !order.length ? empty("No jobs yet", "A job takes a file of examples, a teacher and a student, and ends with a report that says whether distilling worked.", html`<a class="button primary" href="#/new">Start the first one</a>`)
        : list()}`;
  }

  function list() {
    const found = order.map((id) => jobs.get(id)).filter(fits);
    return html`
      <div class="chips" role="group" aria-label="Which jobs">${FILTERS.map(([name, text]) => html`
        <button type="button" aria-pressed=${filter === name} @click=${() => { filter = name; app.draw(); }}>${text}</button>`)}</div>
      ${found.length ? scroll("Jobs", html`
        <table class="rows jobs" role="table">
          <thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader" class="grow">Job</th><th scope="col" role="columnheader">Status</th><th scope="col" role="columnheader">Progress</th>
            <th scope="col" role="columnheader" class="wide">Result</th><th scope="col" role="columnheader" class="wide num">Created</th></tr></thead>
          <tbody role="rowgroup">${repeat(found, (job) => job.id, row)}</tbody>
        </table>`) : html`<p class="soft pad">No job is like that.</p>`}
      ${more ? html`<p class="pad"><button type="button" @click=${() => page(order.at(-1)).catch((fault) => { error = fault; app.draw(); })}>Older jobs</button></p>` : nothing}`;
  }

  function row(job) {
    const teacher = job.method.distillation?.teacher.model;
    return html`<tr role="row">
      <th scope="row" role="rowheader" class="grow"><a class="whole" href="#/jobs/${job.id}"><bdi>${shown(job.alias)}</bdi></a>
        <small class="nowrap"><bdi>${teacher ? `${modelName(teacher)} → ` : ""}${modelName(job.model)}</bdi> <code>${shortId(job.id)}</code></small></th>
      <td role="cell">${status(job.status)}</td>
      <td role="cell" class="progress">${progress(job)}</td>
      <td role="cell" class="wide">${result(job)}</td>
      <td role="cell" class="wide num"><time title=${date(job.created_at)}>${ago(job.created_at)}</time>
        <small>${job.finished_at ? `took ${duration(job.finished_at - job.created_at)}` : ""}</small></td>
    </tr>`;
  }

  function progress(job) {
    if (job.status === "failed") return html`<small class="fault clip"><bdi>${shown(job.error?.message ?? "")}</bdi></small>`;
    if (ENDED.includes(job.status)) return html`<small class="soft">${job.rows ? `${count(job.rows.train)} training rows` : ""}</small>`;
    const { phase, percent: done, completed, total, unit, eta_seconds: eta } = job.progress;
    return html`<span class="with-bar"><span class="phase">${phase}</span>${bar(done / 100, `${shown(job.alias)}: ${phase}`)}</span>
      <small>${total ? `${count(completed)} / ${count(total)} ${unit}` : "starting"}${left(job, eta)}</small>`;
  }

  function left(job, eta) {
    const rest = job.estimated_finish ? job.estimated_finish - Date.now() / 1000 : null;
    if (rest !== null && rest > 0) return ` · about ${duration(rest)} left`;
    return eta ? ` · ${duration(eta)} left in this phase` : "";
  }

  function result(job) {
    const found = results.get(job.id);
    if (!found) return html`<small class="soft">${ENDED.includes(job.status) ? "–" : ""}</small>`;
    return html`<span class="outcome">${percent(found.accuracy)} ${verdict(found.verdict)}</span><small><bdi>${shown(found.recipe)}</bdi></small>`;
  }

  return { title: () => "Jobs", render, stop };
}
