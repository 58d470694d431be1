// Two lists of a job: what happened, and the rows that could not be used.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { api } from "./api.js";
import { alert, empty, loading, scroll } from "./parts.js";
import { clock, count, counted, date, shown } from "./text.js";

const PAGE = 100;

export function eventsPart(app, state) {
  let metrics = false;
  let most = PAGE;

  function render() {
    const all = state.story.events.filter((one) => metrics || one.type !== "metrics");
    const found = all.slice(-most).reverse();
    return html`
      <div class="chips"><label class="check"><input type="checkbox" .checked=${metrics} @change=${(event) => { metrics = event.target.checked; app.draw(); }}>
        Show training figures</label></div>
      ${found.length ? html`<ol class="events" aria-label="Events, the newest first">${repeat(found, (one) => one.id, line)}</ol>` : loading(3)}
      ${all.length > most ? html`<p class="pad"><button type="button" @click=${() => { most += PAGE; app.draw(); }}>Older events</button></p>` : nothing}`;
  }

  const line = (one) => html`<li class=${`at-${one.level}`}>
    <time title=${date(one.created_at)}>${clock(one.created_at)}</time>
    <span>${one.level === "info" ? nothing : html`<b>${one.level === "warn" ? "Warning" : "Error"}</b> `}<bdi>${shown(one.message)}</bdi></span></li>`;

  return { render };
}

export function rowsPart(app, state) {
  let [rows, more, error, loaded] = [[], false, null, false];

  async function fetchMore() {
    try {
      const page = await api.rejected(state.id, rows.length || null);
      rows = [...rows, ...page.data];
      [more, loaded, error] = [page.has_more, true, null];
    } catch (fault) {
      error = fault;
    }
    app.draw();
  }
  if (state.job?.dataset) fetchMore();

  function render() {
    if (error) return alert(error, fetchMore);
    if (!state.job.dataset) return empty("Not known yet", "The files have not been read to their end.");
    if (!loaded) {
      if (!rows.length && !error) fetchOnce();
      return loading(4);
    }
    if (!rows.length) return empty("Every row could be used", "No row of the uploaded files was set aside.");
    return html`<p class="soft">${counted(state.job.rejected_rows.count, "row")} set aside. Lines count from 1 in the uploaded file.</p>
      ${scroll("Rejected rows", rejectedTable(rows))}
      ${more ? html`<p class="pad"><button type="button" @click=${fetchMore}>More rows</button></p>` : nothing}`;
  }

  let fetched = Boolean(state.job?.dataset);
  function fetchOnce() {
    if (!fetched) {
      fetched = true;
      fetchMore();
    }
  }

  return { render };
}

export const rejectedTable = (rows) => html`<table><thead><tr><th scope="col">File</th><th scope="col" class="num">Line</th><th scope="col" class="grow">Why</th><th scope="col">Field</th></tr></thead>
  <tbody>${rows.map((row) => html`<tr><td>${row.split}</td><td class="num">${count(row.line)}</td><td class="grow"><bdi>${shown(row.reason)}</bdi></td><td>${row.param ? html`<code>${shown(row.param)}</code>` : "–"}</td></tr>`)}</tbody></table>`;
