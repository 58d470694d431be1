// Training rows as the teacher explained them, and as the published student answers those that it was asked about.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { api } from "./api.js";
import { alert, empty, heat, loading, namedWords } from "./parts.js";
import { percent, shown } from "./text.js";

export function examplesPart(app, state) {
  const wanted = { label: "", student: "", agreement: "" };
  let [rows, next, error, loaded, turn] = [[], null, null, false, 0];
  let labels = [];

  async function load(after = null) {
    turn += 1;
    const mine = turn;
    if (after === null) [rows, loaded] = [[], false];
    error = null;
    app.draw();
    try {
      const page = await api.examples(state.id, { ...wanted, after, limit: 20 });
      if (mine !== turn) return;
      rows = [...rows, ...page.data];
      [next, loaded] = [page.next_after, true];
      learnLabels(page.data);
    } catch (fault) {
      if (mine !== turn) return;
      error = fault;
    }
    app.draw();
  }
  load();

  function learnLabels(found) {
    const known = state.report?.task.labels ?? [];
    labels = known.length ? known : [...new Set([...labels, ...found.map((one) => one.expected)])].sort();
  }

  function render() {
    return html`
      <form class="filters" @submit=${(event) => event.preventDefault()} aria-label="Which examples">
        ${choice("label", "Label", [["", "any"], ...labels.slice(0, 200).map((one) => [one, shown(one)])])}
        ${choice("student", "Student", [["", "any"], ["wrong", "wrong"], ["right", "right"]])}
        ${choice("agreement", "Words of the two", [["", "any"], ["low", "differ"], ["high", "agree"]])}
      </form>
      ${error ? (error.status === 404 ? empty("No annotated examples", error.message) : alert(error, () => load()))
        : !loaded ? loading(4)
        : !rows.length ? empty("No example is like that", wanted.student || wanted.agreement ? "The student is asked about a sample of up to 200 rows, after the evaluation." : "Choose another label.")
        : html`<p class="legend-line"><span class="key teacher"></span> the teacher’s words <span class="key student"></span> the student’s words <span class="soft">· underlined: named as a reason · the darker, the more it counts</span></p>
          <ul class="examples">${rows.map(example)}</ul>
          ${next === null ? nothing : html`<p class="pad"><button type="button" @click=${() => load(next)}>More examples</button></p>`}`}`;
  }

  const choice = (name, text, options) => html`<label>${text}
    <select name=${name} @change=${(event) => { wanted[name] = event.target.value; load(); }}>${options.map(([value, label]) => html`
      <option value=${value} ?selected=${wanted[name] === value}>${label}</option>`)}</select></label>`;

  const example = (one) => html`<li>
    <div class="answers"><span><span class="soft">expected</span> <bdi>${shown(one.expected)}</bdi></span>
      ${answer("teacher", one.teacher)}${one.student ? answer("student", one.student) : nothing}
      ${one.agreement === null ? nothing : html`<span class="soft agreement" title="F1 of the two sides’ words">words agree ${percent(one.agreement, 0)}</span>`}</div>
    <div class=${one.student ? "sides" : ""}>
      ${side(one.input, one.teacher, "teacher")}${one.student ? side(one.input, one.student, "student") : nothing}</div></li>`;

  const answer = (who, said) => html`<span class="answer ${said.right ? "right" : "wrong"}"><span class="who ${who}">${who}</span>
    <bdi>${shown(said.label)}</bdi> ${said.probability === null ? nothing : html`<span class="num">${percent(said.probability, 0)}</span>`} <small>${said.right ? "right" : "wrong"}</small></span>`;

  const side = (text, said, who) => html`<div>${heat(text, said.words, said.rationale, who)}<span class="sr">Words of the ${who}: ${namedWords(said.rationale)}</span></div>`;

  return { render };
}
