// The pieces that every view is made of. Data reach the page as text only: lit escapes what stands in `${}`, and
// `shown` takes the sting out of characters that reorder a line.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";
import { duration, percent, pieces, shortId, shown } from "./text.js";

const PATHS = {
  jobs: svg`<path d="M3 4.5h10M3 8h10M3 11.5h6"/>`,
  plus: svg`<path d="M8 3.5v9M3.5 8h9"/>`,
  models: svg`<path d="M8 2.5 13 5.2v5.6L8 13.5 3 10.8V5.2zM3 5.2l5 2.8 5-2.8M8 8v5.5"/>`,
  done: svg`<path d="m4 8.4 2.6 2.6L12 5.6"/>`,
  failed: svg`<path d="m5 5 6 6m0-6-6 6"/>`,
  paused: svg`<path d="M6 5v6m4-6v6"/>`,
  copy: svg`<rect x="5.5" y="5.5" width="7" height="7" rx="1.5"/><path d="M10.5 3.5h-5a2 2 0 0 0-2 2v5"/>`,
  theme: svg`<circle cx="8" cy="8" r="5"/><path d="M8 3a5 5 0 0 1 0 10z" fill="currentColor"/>`,
  key: svg`<circle cx="5.5" cy="10.5" r="2.5"/><path d="m7.3 8.7 5.2-5.2m-2 2 1.5 1.5"/>`,
  book: svg`<path d="M3.5 3.5H7A1.5 1.5 0 0 1 8 5v8a1.5 1.5 0 0 0-1-.5H3.5zM12.5 3.5H9A1.5 1.5 0 0 0 8 5v8a1.5 1.5 0 0 1 1-.5h3.5z"/>`,
  file: svg`<path d="M4.5 2.5h4l3 3v8h-7zM8.5 2.5v3h3"/>`,
};

/** Decoration beside words that say the same. */
export const icon = (name) => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">${PATHS[name]}</svg>`;

const STATUS = {
  validating_files: ["Checking files", "busy"],
  queued: ["Queued", "wait"],
  running: ["Running", "busy"],
  succeeded: ["Succeeded", "good"],
  failed: ["Failed", "bad"],
  cancelled: ["Cancelled", "quiet"],
  paused: ["Paused", "wait"],
};
export const statusWord = (status) => STATUS[status]?.[0] ?? shown(status);
export const status = (name) =>
  html`<span class="status ${STATUS[name]?.[1] ?? "quiet"}"><i></i>${statusWord(name)}</span>`;

/** A bar with its share in words; `label` says of what. */
export const bar = (share, label, kind = "") => html`
  <span class="bar ${kind}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(100 * share)}><i .style=${`inline-size:${(100 * share).toFixed(1)}%`}></i></span>`;

const VERDICTS = [["DOES NOT BEAT", "bad"], ["BEATS", "good"], ["INCONCLUSIVE", "open"]];
export function verdict(sentence) {
  const found = VERDICTS.find(([word]) => sentence?.includes(word));
  return found ? html`<span class="badge ${found[1]}">${found[0]}</span>` : nothing;
}

/** An estimate with its interval on an axis from `low` to `high`; the numbers stand beside it in the table. */
export function interval(one, axis, kind = "student") {
  const place = (value) => (100 * (Math.min(Math.max(value, axis.low), axis.high) - axis.low)) / (axis.high - axis.low);
  const zero = axis.low < 0 && axis.high > 0;
  return html`<span class="track ${kind}" aria-hidden="true">
    ${zero ? html`<i class="zero" .style=${`inset-inline-start:${place(0)}%`}></i>` : nothing}
    <i class="range" .style=${`inset-inline-start:${place(one.low)}%;inline-size:${place(one.high) - place(one.low)}%`}></i>
    <i class="dot" .style=${`inset-inline-start:${place(one.value)}%`}></i></span>`;
}
export function axisAround(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.01, 0.06 * (high - low));
  return { low: low - room, high: high + room };
}

export const alert = (error, again) => html`
  <div class="alert" role="alert">
    <strong>${error.code === "unreachable" ? "The service cannot be reached" : "That did not work"}</strong>
    <p><bdi>${shown(error.message)}</bdi></p>
    ${error.retryAfter ? html`<p class="soft">Worth another try in ${duration(error.retryAfter)}.</p>` : nothing}
    ${again ? html`<button type="button" @click=${again}>Try again</button>` : nothing}
  </div>`;

export const empty = (title, text, action = nothing) => html`
  <div class="empty"><h2>${title}</h2><p>${text}</p>${action}</div>`;

export const loading = (rows = 4) => html`
  <div class="loading" role="status"><span class="sr">Loading</span>
    ${Array.from({ length: rows }, () => html`<span class="bone" aria-hidden="true"></span>`)}</div>`;

export const facts = (entries) => html`
  <dl class="facts">${entries.filter(Boolean).map(([name, value, note]) => html`
    <div><dt>${name}</dt><dd>${value}${note ? html`<small>${note}</small>` : nothing}</dd></div>`)}</dl>`;

export const scroll = (label, table) => html`<div class="scroll" tabindex="0" role="group" aria-label=${label}>${table}</div>`;

/** An id, shortened, that a press copies whole. */
export function copyable(id, tell) {
  const copy = async () => {
    await navigator.clipboard?.writeText(id);
    tell(`Copied ${id}`);
  };
  return html`<button type="button" class="id" title=${id} aria-label=${`Copy ${id}`} @click=${copy}>${shortId(id)}${icon("copy")}</button>`;
}

/** A text with its words as marks: the darker, the higher the score; those that are named as reasons underlined. */
export const heat = (text, words, named, kind) => html`
  <p class="heat ${kind}" dir="auto">${pieces(text, words, named).map((piece) =>
    piece.strength === 0 && !piece.named
      ? shown(piece.text)
      : html`<mark class="${piece.named ? "named" : ""} ${piece.sign < 0 ? "against" : ""}"
          .style=${`--s:${piece.strength.toFixed(3)}`}
          title=${piece.score === undefined ? nothing : `score ${piece.score.toPrecision(3)}`}>${shown(piece.text)}</mark>`)}</p>`;

export const namedWords = (named) =>
  named.length ? named.map((word) => shown(word.text)).join(" · ") : "no words";

/** The probabilities of all answers, the likeliest first. */
export function spread(probabilities, kind, most = 8) {
  const ordered = Object.entries(probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  if (!ordered.length) return nothing;
  const rest = ordered.length - most;
  return html`<ul class="spread ${kind}">${ordered.slice(0, most).map(([label, share]) => html`
    <li><bdi class="name">${shown(label)}</bdi><span class="bar" aria-hidden="true"><i .style=${`inline-size:${(100 * share).toFixed(1)}%`}></i></span><span class="num">${percent(share)}</span></li>`)}
    ${rest > 0 ? html`<li class="soft">and ${rest} more</li>` : nothing}</ul>`;
}

/** Asks before something that cannot be undone, or that others notice. Resolves to whether it was agreed to. */
export function confirm({ title, text, action, danger = false }) {
  const box = document.createElement("dialog");
  box.setAttribute("aria-labelledby", "confirm-title");
  const [heading, body, row, no, yes] = ["h2", "p", "div", "button", "button"].map((tag) => document.createElement(tag));
  heading.id = "confirm-title";
  heading.textContent = title;
  body.textContent = text;
  row.className = "row end";
  no.textContent = "Back";
  yes.textContent = action;
  yes.className = danger ? "danger" : "primary";
  row.append(no, yes);
  box.append(heading, body, row);
  document.body.append(box);
  return new Promise((decide) => {
    no.onclick = () => box.close("");
    yes.onclick = () => box.close("yes");
    box.onclose = () => { box.remove(); decide(box.returnValue === "yes"); };
    box.showModal();
    no.focus();
  });
}
