// One text, asked of a student and of its teacher: both answers, both maps, side by side.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { api } from "./api.js";
import { alert, heat, namedWords, spread } from "./parts.js";
import { modelName, percent, shown } from "./text.js";

const REASONS = { gate: "learned, by its gates", generated: "learned, in its own words", saliency: "by its gradients" };

export function compareBox(app) {
  let [model, task, text, choices] = [null, null, "", ""];
  let [busy, error, found, asking] = [false, null, null, null];

  async function ask(event) {
    event.preventDefault();
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    [busy, error] = [true, null];
    app.draw();
    try {
      const listed = choices.split("\n").map((one) => one.trim()).filter(Boolean);
      const answer = await api.compare({ model, input: text, ...(needsChoices() ? { choices: listed } : {}) }, mine.signal);
      if (mine !== asking) return;
      found = answer;
      app.tell(`Student: ${said(found.student)}. Teacher: ${said(found.teacher)}.`);
    } catch (fault) {
      if (mine !== asking || fault.name === "AbortError") return;
      [error, found] = [fault, null];
    }
    busy = false;
    app.draw();
  }

  const said = (side) => (side.error ? "no answer" : `${shown(side.label)}, ${percent(side.probability, 0)}`);
  const needsChoices = () => task?.kind === "choice";

  function render(picker) {
    return html`<section aria-labelledby="try"><h2 id="try">Try a text</h2>
      <form class="card try" @submit=${ask}>
        <div class="row">${picker}<span class="soft">${task ? (task.labels.length ? `${task.labels.length > 6 ? `one of ${task.labels.length} labels` : task.labels.map(shown).join(", ")}` : task.kind) : ""}</span></div>
        <label class="sr" for="try-text">Text</label>
        <textarea id="try-text" rows="3" required maxlength="100000" dir="auto" placeholder="Write or paste a text" .value=${text} @input=${(event) => { text = event.target.value; }}
          @keydown=${(event) => { if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) event.target.form.requestSubmit(); }}></textarea>
        ${needsChoices() ? html`<label for="try-choices">Choices, one a line</label><textarea id="try-choices" rows="3" required dir="auto" .value=${choices} @input=${(event) => { choices = event.target.value; }}></textarea>` : nothing}
        <div class="row"><button class="primary" ?disabled=${busy || !model}>${busy ? "Asking …" : "Ask both"}</button>
          ${found && found.agree !== null ? html`<span class="answer ${found.agree ? "right" : "wrong"}"><small>${found.agree ? "they agree" : "they differ"}</small></span>` : nothing}</div>
        ${error ? alert(error) : nothing}
        ${found ? html`<div class="sides" id="answers">${side("Student", "student", found.student)}${side("Teacher", "teacher", found.teacher)}</div>` : nothing}
      </form></section>`;
  }

  const side = (title, kind, one) => html`<article class="side-card ${kind}" aria-label=${title}>
    <h3><span class="who ${kind}">${title}</span> <small><bdi>${one.model ? modelName(one.model) : ""}</bdi>${one.ms === null ? nothing : ` · ${one.ms.toFixed(0)} ms`}</small></h3>
    ${one.error ? html`<p class="fault"><bdi>${shown(one.error.message)}</bdi></p>` : html`
      <p class="label"><bdi>${shown(one.label)}</bdi> ${one.probability === null ? nothing : html`<span class="num">${percent(one.probability)}</span>`}</p>
      ${heat(found.input, one.words, one.rationale, kind)}
      <p class="soft">Words${one.reasons ? ` (${REASONS[one.reasons] && kind === "student" ? REASONS[one.reasons] : shown(one.reasons)})` : ""}: <bdi>${namedWords(one.rationale)}</bdi></p>
      ${spread(one.probabilities, kind)}`}</article>`;

  return {
    use(name, itsTask) {
      if (name !== model) [found, error] = [null, null];
      [model, task] = [name, itsTask];
    },
    stop: () => asking?.abort(),
    render,
  };
}
