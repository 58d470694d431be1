// A job at a glance: the verdict when there is one, the phases and how long each took, the curves, what it cost.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { coloursOf, isControl, lines } from "./charts.js";
import { bar, facts, icon, scroll, verdict } from "./parts.js";
import { wallTimes } from "./story.js";
import { bytes, count, duration, percent, points, short, shown, whole } from "./text.js";

const PHASES = {
  validate: "Validate", preflight: "Preflight", teacher: "Teach the teacher", annotate: "Annotate", search: "Search",
  train: "Train", evaluate: "Evaluate", publish: "Publish",
};
const MARKS = { done: "done", failed: "failed", cancelled: "failed", paused: "paused" };
const TEACHER = "teacher";

export function overviewPart(app, state) {
  const charts = {
    loss: lines({ x: "step", y: "" }),
    accuracy: lines({ x: "step", y: "", percentages: true }),
  };
  const hidden = new Set();
  let size = null;

  function render() {
    const { job, story, report } = state;
    return html`
      ${report ? outcome(report) : nothing}
      <section aria-labelledby="phases"><h2 id="phases">Phases</h2>${phases(job, story)}</section>
      ${curves(story)}
      <section aria-labelledby="cost"><h2 id="cost">Cost</h2>${cost(job)}</section>
      <section aria-labelledby="asked"><h2 id="asked">What was asked for</h2>${asked(job)}</section>`;
  }

  function outcome(report) {
    const arm = report.arms.find((one) => one.recipe === report.published.recipe);
    return html`<section class="outcome-card" aria-label="Result">
      <div><p class="headline">${headline(report)}</p>
        <p class="soft"><a href="#/jobs/${state.id}/report">Read the report</a></p></div>
      <div class="big"><strong>${percent(arm.accuracy)}</strong><small>test accuracy of <bdi>${shown(arm.recipe)}</bdi>
        <span class="nowrap">[${(100 * arm.low).toFixed(1)}, ${(100 * arm.high).toFixed(1)}]</span></small></div>
      ${report.teacher ? html`<div class="big teacher"><strong>${percent(report.teacher.accuracy)}</strong><small>the teacher’s</small></div>` : nothing}
    </section>`;
  }

  function phases(job, story) {
    const times = wallTimes(story, job, Date.now() / 1000);
    const longest = Math.max(1, ...[...times.values()].filter((one) => one !== null));
    return html`<ol class="phases">${job.phases.map((one) => {
      const took = one.state === "pending" ? null : times.get(one.phase);
      return html`<li class=${one.state} aria-current=${one.state === "running" ? "step" : nothing}>
        <span class="mark">${MARKS[one.state] ? icon(MARKS[one.state]) : nothing}</span>
        <span class="name">${PHASES[one.phase] ?? one.phase}<span class="sr">: ${one.state}</span></span>
        <span class="work">${one.state === "running" ? bar(one.percent / 100, PHASES[one.phase]) : nothing}
          ${one.total ? `${count(one.completed)} / ${count(one.total)} ${one.unit}` : one.state === "running" ? "starting" : ""}
          ${one.state === "running" && one.eta_seconds ? html`<span class="soft">· ${duration(one.eta_seconds)} left</span>` : nothing}</span>
        <span class="took" aria-hidden="true">${took === null ? nothing : html`<i .style=${`inline-size:${Math.max(0.5, (100 * took) / longest)}%`}></i>`}</span>
        <span class="num">${took === null ? "" : whole(took)}</span></li>`;
    })}</ol>`;
  }

  function curves(story) {
    const sizes = [...new Set([...story.runs.values()].map((run) => run.size))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
    if (!sizes.length) return nothing;
    if (!sizes.includes(size)) size = sizes.at(-1);
    const runs = [...story.runs.values()].filter((run) => run.size === size || run.arm === TEACHER);
    const arms = [...new Set(runs.map((run) => run.arm))];
    const colours = coloursOf(arms);
    const visible = runs.filter((run) => !hidden.has(run.arm));
    const series = (what) => visible.filter((run) => run[what].length).map((run) => ({
      name: `${shown(run.arm)}${run.arm === TEACHER ? "" : `, seed ${run.seed}`}`,
      colour: colours.get(run.arm),
      points: run[what],
      dashed: isControl(run.arm),
    }));
    const last = Math.max(...visible.map((run) => run.total ?? 0), 1);
    charts.loss.show(series("loss"), `Training loss by step of ${visible.length} trainings; the table below has the last values.`, last);
    charts.accuracy.show(series("accuracy"), `Validation accuracy by step of ${visible.length} trainings; the table below has the best values.`, last);
    const toggle = (arm) => () => {
      if (!hidden.delete(arm)) hidden.add(arm);
      app.draw();
    };
    return html`<section aria-labelledby="curves"><div class="head small"><h2 id="curves">Trainings</h2>
      ${sizes.length > 1 ? html`<label class="inline">Training rows
        <select @change=${(event) => { size = event.target.value === "all" ? null : Number(event.target.value); app.draw(); }}>
          ${sizes.map((one) => html`<option value=${one ?? "all"} ?selected=${one === size}>${one === null ? "all" : count(one)}</option>`)}</select></label>` : nothing}</div>
      <div class="card">
        <div class="two"><figure><figcaption>Training loss</figcaption>${series("loss").length ? charts.loss.element : html`<p class="blank">No loss has been told yet.</p>`}</figure>
          <figure><figcaption>Validation accuracy</figcaption>${series("accuracy").length ? charts.accuracy.element : html`<p class="blank">Nothing has been validated yet.</p>`}</figure></div>
        <div class="legend" role="group" aria-label="Show in the curves">${arms.map((arm) => html`
          <button type="button" aria-pressed=${!hidden.has(arm)} @click=${toggle(arm)}><i class=${`line ${isControl(arm) ? "dashed" : ""}`} .style=${`color:var(${colours.get(arm)})`}></i><bdi>${shown(arm)}</bdi></button>`)}</div>
        <details><summary>As a table</summary>${table(runs)}</details>
      </div></section>`;
  }

  function table(runs) {
    return scroll("Trainings", html`<table><thead><tr><th scope="col">Recipe</th><th scope="col" class="num">Seed</th><th scope="col" class="num">Step</th>
      <th scope="col" class="num">Last loss</th><th scope="col" class="num">Best validation</th></tr></thead>
      <tbody>${runs.map((run) => html`<tr><th scope="row"><bdi>${shown(run.arm)}</bdi></th><td class="num">${run.seed}</td><td class="num">${count(run.step)} / ${count(run.total)}</td>
        <td class="num">${run.loss.length ? run.loss.at(-1).y.toFixed(4) : "–"}</td>
        <td class="num">${run.accuracy.length ? percent(Math.max(...run.accuracy.map((one) => one.y))) : "–"}</td></tr>`)}</tbody></table>`);
  }

  function cost(job) {
    const { estimate, spent, rows } = job;
    const runs = estimate ? `${estimate.search_runs ? "at most " : ""}${count(estimate.runs)}` : "–";
    return facts([
      ["Worker time", duration(spent.seconds), estimate ? (estimate.seconds ? `estimated at ${duration(estimate.seconds)}` : "no estimate: nothing like it ran here before") : ""],
      job.method.distillation ? ["Teacher tokens", short(spent.teacher_tokens), estimate ? `${count(estimate.teacher_examples)} examples to explain` : ""] : null,
      ["Trainings", runs, estimate?.steps_per_run ? `${count(estimate.steps_per_run)} steps each` : ""],
      ["Rows", rows ? count(rows.train) : "–", rows ? `${count(rows.validation)} validation, ${count(rows.test)} test${rows.unlabelled ? `, ${count(rows.unlabelled)} unlabelled` : ""}` : ""],
      estimate?.disk_bytes ? ["Disk", bytes(estimate.disk_bytes), "estimated"] : null,
      job.trained_tokens ? ["Tokens trained on", short(job.trained_tokens), ""] : null,
    ]);
  }

  function asked(job) {
    const spec = job.method.distillation ?? job.method.supervised ?? {};
    const list = (values) => (Array.isArray(values) ? values.join(", ") : values);
    const { max_steps: steps, n_epochs: epochs, seconds } = job.hyperparameters;
    return html`${facts([
      ["Student", html`<bdi>${shown(job.model)}</bdi>`],
      spec.teacher ? ["Teacher", html`<bdi>${shown(spec.teacher.model)}</bdi>`, spec.teacher.finetune ? "fine-tuned on the training rows first" : "as it is"] : null,
      ["Recipe", html`<bdi>${shown(list(spec.recipe ?? "finetune"))}</bdi>`, spec.search === "auto" && spec.recipe === "auto" ? "the best of a search" : ""],
      ["Training", steps ? `${count(steps)} steps` : seconds ? duration(seconds) : epochs === "auto" ? "automatic" : `${epochs} epochs`, `seeds ${list(spec.seeds)}`],
      spec.attribution ? ["Attribution", shown(spec.attribution.method), `the best ${spec.attribution.top_k} words`] : null,
    ])}
    <details><summary>The whole request</summary><pre tabindex="0"><bdi>${shown(JSON.stringify({ model: job.model, training_file: job.training_file, validation_file: job.validation_file, method: job.method }, null, 2))}</bdi></pre></details>`;
  }

  return { render, stop: () => Object.values(charts).forEach((one) => one.stop()) };
}

/** The verdict on what was published; on the best of the others where that is `finetune` itself. As the report has it. */
export function headline(report) {
  const about = report.comparisons.filter((one) => one.arm === report.published.recipe);
  const others = [...report.comparisons].sort((a, b) => b.difference - a.difference);
  const against = (about.length ? about : others).filter((one) => one.against === "finetune");
  const one = against[0] ?? others[0];
  if (!one) return html`<bdi>${shown(report.published.why)}</bdi>`;
  const doubt = one.verdict === "BEATS" && one.holds === false ? html` <small>not after Holm’s correction over ${one.comparisons} comparisons</small>` : nothing;
  return html`${verdict(one.verdict)} <bdi>${shown(one.arm)}</bdi> against <bdi>${shown(one.against)}</bdi>:
    ${points(one.difference)} points <span class="soft nowrap">[${points(one.low)}, ${points(one.high)}]</span>${doubt}`;
}
