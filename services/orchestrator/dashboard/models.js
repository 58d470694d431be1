// Published models: which alias names which version, moving one there and back, and a text asked of student and teacher.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { api } from "./api.js";
import { compareBox } from "./compare.js";
import { alert, confirm, copyable, empty, loading, scroll, verdict } from "./parts.js";
import { ago, bytes, counted, date, percent, shortId, shown } from "./text.js";

export function modelsView(app, chosen) {
  let [versions, histories, error, fault, busy] = [null, new Map(), null, null, false];
  let promoting = null;
  let model = chosen;
  const box = compareBox(app);

  async function load() {
    error = null;
    app.draw();
    try {
      versions = (await api.versions()).data;
      const aliases = [...new Set(versions.flatMap((one) => one.aliases))].sort();
      histories = new Map(await Promise.all(aliases.map(async (name) => [name, await api.version(name)])));
      if (model && !versions.some((one) => one.id === model || one.aliases.includes(model))) model = null;
      model ??= aliases.includes("production") ? "production" : aliases[0] ?? versions[0]?.id ?? null;
      await choose(model);
    } catch (found) {
      error = found;
    }
    app.draw();
  }
  load();

  async function choose(name) {
    model = name;
    box.use(name, name ? (histories.get(name) ?? await api.version(name)).task : null);
    app.draw();
  }

  async function move(name, work, done) {
    [busy, fault] = [true, null];
    app.draw();
    try {
      const moved = await work();
      app.tell(`${name} ${done} ${shortId(moved.artifact)}`);
      promoting = null;
      await load();
    } catch (found) {
      fault = found;
    }
    busy = false;
    app.draw();
  }

  async function rollBack(name, shownNow) {
    const agreed = await confirm({ title: `Roll ${shown(name)} back?`, text: `Whoever asks for “${shown(name)}” is answered by ${shortId(shownNow.back[0])} from then on.`, action: "Roll back" });
    if (agreed) await move(name, () => api.rollback(name, { expected: shownNow.id }), "now names");
  }

  function promote(event) {
    event.preventDefault();
    const given = new FormData(event.target);
    const alias = String(given.get("alias")).trim();
    const body = { model: promoting, force: given.has("force") };
    const now = histories.get(alias)?.id;
    move(alias, () => api.promote(alias, now ? { ...body, expected: now } : body), "now names");
  }

  function render() {
    return html`<div class="head"><h1 tabindex="-1">Models</h1></div>
      ${error ? alert(error, load) : !versions ? loading(5)
        : !versions.length ? empty("No model is published yet", "A job that succeeds publishes its best student.", html`<a class="button primary" href="#/new">New job</a>`)
        : html`${fault ? alert(fault) : nothing}${aliases()}${box.render(picker())}${table()}`}`;
  }

  const aliases = () => html`<section aria-labelledby="aliases"><h2 id="aliases">Aliases</h2>
    ${histories.size ? html`<ul class="aliases">${[...histories].map(([name, now]) => html`<li>
      <div class="row"><strong class="alias"><bdi>${shown(name)}</bdi></strong>
        <span class="end">${now.back.length ? html`<button type="button" ?disabled=${busy} @click=${() => rollBack(name, now)} aria-label=${`Roll back ${name}`}>Roll back</button>` : nothing}</span></div>
      <p class="outcome">${percent(now.accuracy)} ${verdict(now.verdict)}</p>
      <p class="soft">${copyable(now.id, app.tell)}${now.recipe ? html` <bdi>${shown(now.recipe)}</bdi>` : nothing}</p>
      <details><summary>${counted(now.history.length, "move")}</summary><ol class="moves">${[...now.history].reverse().map((one) => html`
        <li><span>${one.how} <code>${shortId(one.artifact)}</code></span> <span class="soft"><time title=${date(one.at)}>${ago(one.at)}</time>${one.by ? html` by <bdi>${shown(shortId(one.by))}</bdi>` : nothing}</span></li>`)}</ol></details></li>`)}</ul>`
      : html`<p class="soft">No alias names a model: promote one below.</p>`}</section>`;

  const picker = () => html`<label class="inline" for="try-model">Model</label>
    <select id="try-model" @change=${(event) => choose(event.target.value).catch((found) => { fault = found; app.draw(); })}>
      ${[...histories.keys()].map((name) => html`<option value=${name} ?selected=${name === model}>${shown(name)}</option>`)}
      ${versions.map((one) => html`<option value=${one.id} ?selected=${one.id === model}>${shortId(one.id)}${one.recipe ? ` · ${shown(one.recipe)}` : ""}</option>`)}</select>`;

  const table = () => html`<section aria-labelledby="versions"><h2 id="versions">Versions</h2>${scroll("Versions", html`
    <table class="rows"><thead><tr><th scope="col">Version</th><th scope="col">Aliases</th><th scope="col" class="num">Accuracy</th><th scope="col">Verdict</th><th scope="col" class="num">Size</th>
      <th scope="col" class="num">Published</th><th scope="col"><span class="sr">Actions</span></th></tr></thead>
      <tbody>${versions.map((one) => html`<tr class=${one.aliases.length ? "chosen" : ""}>
        <th scope="row">${copyable(one.id, app.tell)}<small><bdi>${shown(one.recipe ?? "")}</bdi>${one.job ? html` · <a href="#/jobs/${one.job}">job</a>` : nothing}</small></th>
        <td>${one.aliases.map((name) => html`<span class="tag"><bdi>${shown(name)}</bdi></span> `)}</td>
        <td class="num"><strong>${percent(one.accuracy)}</strong>${one.low === null ? nothing : html`<small>${(100 * one.low).toFixed(1)} – ${(100 * one.high).toFixed(1)}</small>`}</td>
        <td>${one.problem ? html`<small class="fault">${shown(one.problem)}</small>` : verdict(one.verdict)}</td><td class="num">${bytes(one.bytes)}</td>
        <td class="num"><time title=${date(one.created)}>${ago(one.created)}</time></td>
        <td class="end">${promoting === one.id ? nothing : html`<button type="button" @click=${() => { promoting = one.id; fault = null; app.draw(); queueMicrotask(() => document.getElementById("promote-alias")?.focus()); }} aria-label=${`Promote ${one.id}`}>Promote</button>`}</td></tr>
        ${promoting === one.id ? html`<tr class="inline-form"><td colspan="7"><form class="row" @submit=${promote}>
          <label class="inline" for="promote-alias">Let the alias</label><input id="promote-alias" name="alias" required list="alias-names" autocomplete="off" spellcheck="false" pattern="[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}" .value=${"production"}>
          <datalist id="alias-names">${[...histories.keys()].map((name) => html`<option value=${name}></option>`)}</datalist><span>name this version</span>
          <label class="check"><input type="checkbox" name="force"> even for another task</label>
          <span class="row end"><button type="button" @click=${() => { promoting = null; app.draw(); }}>Back</button><button class="primary" ?disabled=${busy}>Promote</button></span></form></td></tr>` : nothing}`)}</tbody></table>`)}</section>`;

  return {
    title: () => "Models",
    render,
    moveTo(path) {
      if (path[0] !== "models") return false;
      if (versions && path[1] && path[1] !== model) choose(path[1]).catch((found) => { fault = found; app.draw(); });
      return true;
    },
    stop: box.stop,
  };
}
