// The report: verdicts first, then the arms with their intervals, and what lies behind them. The numbers are the API's;
// intervals stand in the tables that hold them, curves are drawn by the plotting library.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { api } from "./api.js";
import { coloursOf, isControl, lines } from "./charts.js";
import { headline } from "./overview.js";
import { alert, axisAround, empty, facts, heat, interval, loading, scroll, verdict } from "./parts.js";
import { count, duration, percent, points, short, shown } from "./text.js";

const DIAGONAL = [{ x: 0, y: 0 }, { x: 1, y: 1 }];

export function reportPart(app, state) {
  const charts = { calibration: lines({ x: "confidence", y: "", percentages: true, shares: true }), curve: lines({ x: "labelled rows", y: "", percentages: true, marks: true }) };
  let error = null;
  let saving = false;

  async function save() {
    [saving, error] = [true, null];
    app.draw();
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await api.reportPage(state.id));
      link.download = `${state.id}.html`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } catch (fault) {
      error = fault;
    }
    saving = false;
    app.draw();
  }

  function render() {
    const { report, job } = state;
    if (!report) {
      if (job.report) return loading(6);
      return ["failed", "cancelled"].includes(job.status)
        ? empty("No report", "The job ended before its evaluation.")
        : empty("Not there yet", `The report is written when every training has been evaluated. The job is in the phase ${job.phase}.`);
    }
    return html`
      ${error ? alert(error) : nothing}
      <div class="head top"><p class="headline">${headline(report)}</p>
        <button type="button" ?disabled=${saving} @click=${save}>Save as a page</button></div>
      ${report.caveats.length ? html`<section class="caveats" aria-labelledby="caveats"><h2 id="caveats">Keep in mind</h2><ul>${report.caveats.map((one) => html`<li><bdi>${shown(one)}</bdi></li>`)}</ul></section>` : nothing}
      <section aria-labelledby="arms"><h2 id="arms">Accuracy on the test split</h2>${arms(report)}</section>
      ${report.comparisons.length ? html`<section aria-labelledby="pairs"><h2 id="pairs">Comparisons</h2>${comparisons(report)}</section>` : nothing}
      ${figures(report)}
      ${confusion(report.confusion)}
      ${words(report)}
      ${examples(report)}
      ${cost(report)}
      <section><h2>How it was decided</h2><p class="prose"><bdi>${shown(report.rule)}</bdi></p><p class="prose"><bdi>${shown(report.published.why)}</bdi></p></section>`;
  }

  function arms(report) {
    const rows = [
      ...(report.teacher ? [{ ...report.teacher, name: "teacher", kind: "teacher", latency: report.teacher.latency_ms }] : []),
      ...report.arms.map((arm) => ({ ...arm, name: arm.recipe, kind: arm.recipe === report.published.recipe ? "student" : arm.control_of ? "control" : "plain", latency: arm.latency_ms })),
    ];
    const axis = axisAround(rows.flatMap((row) => [row.low, row.high]));
    return scroll("Accuracy of each arm", html`<table class="rows"><thead><tr><th scope="col">Arm</th><th scope="col" class="num">Accuracy</th>
      <th scope="col" class="num">95 % interval</th><th scope="col" class="plot"><span class="sr">Interval drawn</span></th><th scope="col" class="num">Validation</th><th scope="col" class="num">Weights</th><th scope="col" class="num">ms</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr class=${row.kind === "student" ? "chosen" : ""}>
        <th scope="row"><bdi>${shown(row.name)}</bdi> ${row.kind === "student" ? html`<span class="tag">published</span>` : row.kind === "control" ? html`<span class="tag quiet">control</span>` : nothing}</th>
        <td class="num"><strong>${percent(row.accuracy)}</strong></td><td class="num soft">${(100 * row.low).toFixed(1)} – ${(100 * row.high).toFixed(1)}</td>
        <td class="plot">${interval({ value: row.accuracy, low: row.low, high: row.high }, axis, row.kind)}</td>
        <td class="num">${percent(row.validation_accuracy)}</td><td class="num">${short(row.parameters)}</td><td class="num">${row.latency?.toFixed(1) ?? "–"}</td></tr>`)}
        <tr class="quiet"><th scope="row">baseline: <bdi>${shown(report.baseline.description)}</bdi></th><td class="num">${percent(report.baseline.accuracy)}</td><td></td><td class="plot"></td><td></td><td></td><td></td></tr></tbody></table>`);
  }

  function comparisons(report) {
    const axis = axisAround([0, ...report.comparisons.flatMap((one) => [one.low, one.high])]);
    return scroll("Comparisons", html`<table class="rows"><thead><tr><th scope="col">Claim</th><th scope="col">Verdict</th><th scope="col" class="num">Points</th>
      <th scope="col" class="num">95 % interval</th><th scope="col" class="plot"><span class="sr">Interval drawn</span></th><th scope="col" class="num">p, corrected</th></tr></thead>
      <tbody>${report.comparisons.map((one) => html`<tr><th scope="row"><bdi>${shown(one.arm)}</bdi> <small>against <bdi>${shown(one.against)}</bdi></small></th>
        <td>${verdict(one.verdict)}${one.verdict === "BEATS" && one.holds === false ? html` <small>not after correction</small>` : nothing}</td><td class="num"><strong>${points(one.difference)}</strong></td>
        <td class="num soft">${points(one.low)} to ${points(one.high)}</td><td class="plot">${interval({ value: one.difference, low: one.low, high: one.high }, axis, "plain")}</td>
        <td class="num">${one.p_holm === null ? "–" : one.p_holm < 0.001 ? "< 0.001" : one.p_holm.toFixed(3)}</td></tr>`)}</tbody></table>`);
  }

  function figures(report) {
    const { calibration, curve } = report;
    if (!calibration.length && !curve.length) return nothing;
    const colours = coloursOf(["teacher", ...report.arms.map((arm) => arm.recipe)]);
    const label = (name) => ({ name: shown(name), colour: colours.get(name) ?? "--soft", dashed: isControl(name) });
    if (calibration.length) {
      charts.calibration.show([
        { name: "perfect", colour: "--soft", points: DIAGONAL, dashed: true, plain: true },
        ...calibration.map((one) => ({ ...label(one.model), only: true, points: one.bins.map((bin) => ({ x: bin.confidence, y: bin.accuracy })) })),
      ], `How often answers of a confidence are right. ${calibration.map((one) => `${shown(one.model)}: calibration error ${percent(one.ece)}`).join(", ")}.`);
    }
    const recipes = [...new Set(curve.map((one) => one.recipe))];
    if (curve.length) {
      charts.curve.show(recipes.map((recipe) => ({
        ...label(recipe), dots: true,
        points: curve.filter((one) => one.recipe === recipe).sort((a, b) => a.size - b.size).map((one) => ({ x: one.size, y: one.accuracy.value })),
      })), "Test accuracy by the number of labelled rows; the table below has the numbers.");
    }
    return html`<section aria-labelledby="figures"><h2 id="figures">Figures</h2><div class="card two">
      ${calibration.length ? html`<figure><figcaption>Calibration: share right by confidence</figcaption>${charts.calibration.element}
        ${legend(calibration.map((one) => [label(one.model), `${shown(one.model)}, error ${percent(one.ece)}`]))}
        <details><summary>As a table</summary>${scroll("Calibration", html`<table><thead><tr><th scope="col">Model</th><th scope="col" class="num">Error</th><th scope="col" class="num">If calibrated</th><th scope="col" class="num">Brier</th></tr></thead>
          <tbody>${calibration.map((one) => html`<tr><th scope="row"><bdi>${shown(one.model)}</bdi></th><td class="num">${percent(one.ece)}</td><td class="num">${percent(one.ece_if_calibrated)}</td><td class="num">${one.brier.toFixed(3)}</td></tr>`)}</tbody></table>`)}</details></figure>` : nothing}
      ${curve.length ? html`<figure><figcaption>Test accuracy by labelled rows</figcaption>${charts.curve.element}
        ${legend(recipes.map((recipe) => [label(recipe), shown(recipe)]))}
        <details><summary>As a table</summary>${scroll("Learning curve", html`<table><thead><tr><th scope="col">Recipe</th><th scope="col" class="num">Rows</th><th scope="col" class="num">Accuracy</th><th scope="col" class="num">To finetune</th></tr></thead>
          <tbody>${curve.map((one) => html`<tr><th scope="row"><bdi>${shown(one.recipe)}</bdi></th><td class="num">${count(one.size)}</td><td class="num">${percent(one.accuracy.value)}</td><td class="num">${one.difference ? points(one.difference.value) : "–"}</td></tr>`)}</tbody></table>`)}</details></figure>` : nothing}
    </div></section>`;
  }

  const legend = (entries) => html`<p class="legend">${entries.map(([{ colour, dashed }, text]) => html`<span><i class="line ${dashed ? "dashed" : ""}" .style=${`color:var(${colour})`}></i><bdi>${text}</bdi></span>`)}</p>`;

  function confusion(found) {
    if (!found) return nothing;
    const { labels, counts, top } = found;
    const table = counts && labels.length <= 12
      ? scroll("Confusion", html`<table class="matrix"><thead><tr><th scope="col">expected \\ given</th>${labels.map((one) => html`<th scope="col"><bdi>${shown(one)}</bdi></th>`)}</tr></thead>
        <tbody>${counts.map((row, i) => html`<tr><th scope="row"><bdi>${shown(labels[i])}</bdi></th>${row.map((value, j) => html`<td class="num ${i === j ? "hit" : value ? "miss" : "none"}"
          .style=${`--s:${(value / Math.max(1, row.reduce((a, b) => a + b, 0))).toFixed(3)}`}>${value || "·"}</td>`)}</tr>`)}</tbody></table>`)
      : html`<ul class="plain">${top.map((one) => html`<li><bdi>${shown(one.expected)}</bdi> answered as <bdi>${shown(one.given)}</bdi>: ${count(one.count)} of ${count(one.of)}</li>`)}</ul>`;
    return html`<section aria-labelledby="confusion"><h2 id="confusion">Where the student errs</h2>${table}</section>`;
  }

  function words(report) {
    const { words: rows, agreement } = report;
    if (!rows.length) return nothing;
    const said = agreement.map((one) => `${one.named} and ${one.reference}: F1 ${one.f1.value.toFixed(2)}, by chance ${one.f1_random.toFixed(2)}`).join(" · ");
    return html`<section aria-labelledby="words"><h2 id="words">Whose words</h2><p class="soft">${said}. <a href="#/jobs/${state.id}/examples">More examples</a></p>
      <ul class="examples">${rows.map((row) => html`<li><div class="answers"><span><span class="soft">expected</span> <bdi>${shown(row.expected)}</bdi></span></div>
        <div class="sides"><div><span class="who teacher">teacher</span>${heat(row.input, [], row.teacher, "teacher")}</div><div><span class="who student">student</span>${heat(row.input, [], row.student, "student")}</div></div></li>`)}</ul></section>`;
  }

  function examples(report) {
    if (!report.examples.length) return nothing;
    return html`<section aria-labelledby="tests"><h2 id="tests">Test rows that the student answered</h2><ul class="examples grid">${report.examples.map((one) => html`
      <li><div class="answers"><span class="answer ${one.right ? "right" : "wrong"}"><bdi>${shown(one.given)}</bdi> <span class="num">${percent(one.probability, 0)}</span> <small>${one.right ? "right" : "wrong"}</small></span>
        ${one.right ? nothing : html`<span><span class="soft">expected</span> <bdi>${shown(one.expected)}</bdi></span>`}</div>${heat(one.input, [], one.words, "student")}</li>`)}</ul></section>`;
  }

  function cost(report) {
    const found = report.cost;
    if (!found) return nothing;
    return html`<section aria-labelledby="report-cost"><h2 id="report-cost">What it cost</h2>${facts([
      ["Distilling beyond fine-tuning", duration(found.beyond), found.repaid_after ? `repaid after ${count(found.repaid_after)} answers` : ""],
      found.latency_ratio ? ["Speed", `${found.latency_ratio.toFixed(1)} ×`, "the teacher’s, one answer at a time"] : null,
      found.parameters_ratio ? ["Teacher’s size", `${found.parameters_ratio.toFixed(1)} ×`, "the student’s, by parameters"] : null,
      ["All trainings", duration(found.experiment), `${count(found.runs)} of them, controls too`],
    ])}</section>`;
  }

  return { render, stop: () => Object.values(charts).forEach((one) => one.stop()) };
}
