// The form for a job: files, models, what people set, a dry run, and then the job itself.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { ApiError, api, onceKey } from "./api.js";
import { rejectedTable } from "./lists.js";
import { alert, facts, scroll } from "./parts.js";
import { bytes, count, counted, duration, percent, short, shown } from "./text.js";

/** The recipes that `auto` chooses from, as the form offers them. A test holds them to those that there are. */
export const RECIPES = [
  ["rationale_gate", "a gate on each token from the teacher’s words"],
  ["saliency", "to write or mark the teacher’s words as a second task"],
  ["logit_kd", "the teacher’s probabilities"],
  ["rationale_input", "the words as an input"],
  ["attribution_alignment", "the teacher’s whole map"],
  ["label_then_rationale", "the label, then the words, in one text"],
  ["rationale_then_label", "the words, then the label, in one text"],
  ["step_by_step", "free-text reasons of the rows"],
  ["teacher_labels", "rows that nobody labelled, with the teacher’s answers"],
];
const METHODS = ["saliency", "input_x_gradient", "integrated_gradients"];
const FILES = [
  ["training", "Training rows", "JSON lines, CSV, TSV or Parquet with input and output", true],
  ["validation", "Validation rows", "else a tenth of the training rows is held out", false],
  ["test", "Test rows", "else a fifth is held out", false],
  ["unlabelled", "Rows without an answer", "the teacher labels them", false],
];
/** Where the API's names of fields stand in the form. */
const FIELDS = [
  [/(^|\.)training_file$|^file$/, "training"], [/validation_file$/, "validation"], [/test_file$/, "test"], [/unlabelled_file$/, "unlabelled"],
  [/teacher\.hyperparameters/, "teacher_steps"], [/teacher/, "teacher"], [/^model$/, "student"], [/recipe/, "recipe"], [/alias$|^suffix$/, "alias"],
  [/max_steps|hyperparameters/, "max_steps"], [/seeds?(\[|$)/, "seeds"], [/sizes/, "sizes"], [/max_train_rows/, "max_train_rows"], [/budget/, "budget"], [/attribution/, "method"], [/template/, "template"],
];

export function newView(app) {
  const files = {};
  const uploaded = new Map(); // a File -> its id, so that a dry run and the job send it once
  let [auto, finetune, distils] = [true, false, true];
  let [busy, error, dry] = ["", null, null];
  let once = onceKey();
  let over = "";

  const changed = () => {
    [dry, error] = [null, null];
    once = onceKey();
    app.draw();
  };

  async function idOf(name) {
    const file = files[name];
    if (!file) return null;
    if (!uploaded.has(file)) {
      try {
        uploaded.set(file, (await api.upload(file)).id);
      } catch (fault) {
        throw fault instanceof ApiError && fault.param === "file" ? new ApiError(fault.status, { message: fault.message, code: fault.code, param: name }) : fault;
      }
    }
    return uploaded.get(file);
  }

  async function bodyOf(form) {
    const given = new FormData(form);
    const text = (name) => String(given.get(name) ?? "").trim();
    const whole = (name) => (text(name) === "" ? undefined : Number(text(name)));
    const list = (name) => text(name).split(/[\s,]+/).filter(Boolean).map(Number);
    const drop = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null && !(Array.isArray(value) && !value.length)));
    const ids = Object.fromEntries(await Promise.all(FILES.map(async ([name]) => [name, await idOf(name)])));
    const steps = whole("max_steps");
    const common = drop({
      test_file: ids.test, alias: text("alias"), seeds: list("seeds"), sizes: list("sizes"), max_train_rows: whole("max_train_rows"),
      template: text("template"), hyperparameters: steps === undefined ? undefined : { max_steps: steps },
      budget: whole("budget") === undefined ? undefined : { seconds: 60 * whole("budget") },
    });
    const teacherSteps = whole("teacher_steps");
    const method = distils
      ? { type: "distillation", distillation: { ...common, ...drop({
        teacher: { model: text("teacher"), finetune, ...(finetune && teacherSteps !== undefined ? { hyperparameters: { max_steps: teacherSteps } } : {}) },
        recipe: auto ? "auto" : given.getAll("recipe"),
        attribution: { method: text("method") || METHODS[0] },
        unlabelled_file: ids.unlabelled,
      }) } }
      : { type: "supervised", supervised: common };
    return { model: text("student"), training_file: ids.training, ...drop({ validation_file: ids.validation }), method };
  }

  async function send(event) {
    event.preventDefault();
    const form = event.target;
    const what = event.submitter?.value === "submit" ? "submit" : "dry";
    if (!files.training) return refuse(new ApiError(0, { message: "Choose a file with training rows.", param: "training_file" }));
    if (distils && !auto && !form.querySelector("[name=recipe]:checked")) return refuse(new ApiError(0, { message: "Choose at least one recipe, or let the search choose.", param: "recipe" }));
    [busy, error] = [what, null];
    app.draw();
    try {
      const body = await bodyOf(form);
      if (what === "submit") {
        const job = await api.submit(body, once);
        app.tell("The job was submitted");
        return app.go(`#/jobs/${job.id}`);
      }
      dry = await api.dryRun(body);
      app.tell(`Dry run: ${count(dry.rows.train)} training rows, ${count(dry.rows.rejected)} rejected`);
    } catch (fault) {
      refuse(fault);
    }
    busy = "";
    app.draw();
  }

  const fieldOf = (param) => (param ? FIELDS.find(([pattern]) => pattern.test(param))?.[1] ?? null : null);

  function refuse(fault) {
    [error, dry, busy] = [fault, null, ""];
    app.draw();
    const field = fieldOf(fault.param);
    queueMicrotask(() => (document.getElementById(field === "recipe" ? "recipe-auto" : `f-${field}`) ?? document.querySelector(".alert"))?.focus());
  }

  const faultOf = (name) => (error && fieldOf(error.param) === name ? shown(error.message) : "");
  const described = (name, hint) => ({ described: `${hint ? `h-${name} ` : ""}e-${name}`, invalid: faultOf(name) ? "true" : "false" });
  const under = (name, hint) => html`${hint ? html`<small id="h-${name}">${hint}</small>` : nothing}<span class="fault" id="e-${name}">${faultOf(name)}</span>`;

  function input(name, label, { hint = "", ...more } = {}) {
    const { described: by, invalid } = described(name, hint);
    return html`<div class="field"><label for="f-${name}">${label}</label>
      <input id="f-${name}" name=${name} type=${more.type ?? "text"} min=${more.min ?? nothing} placeholder=${more.placeholder ?? ""} pattern=${more.pattern ?? nothing} title=${more.title ?? nothing}
        ?required=${more.required ?? false} autocomplete="off" spellcheck="false" list=${more.list ?? nothing} aria-describedby=${by} aria-invalid=${invalid}>${under(name, hint)}</div>`;
  }

  function file([name, label, hint, needed]) {
    const chosen = files[name];
    const take = (picked) => {
      if (picked) files[name] = picked;
      over = "";
      changed();
    };
    const drop = (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); };
    return html`<div class="field drop ${over === name ? "over" : ""} ${chosen ? "full" : ""}"
      @dragover=${(event) => { event.preventDefault(); if (over !== name) { over = name; app.draw(); } }} @dragleave=${() => { over = ""; app.draw(); }} @drop=${drop}>
      <label for="f-${name}">${label}</label>
      <input id="f-${name}" type="file" accept=".jsonl,.json,.csv,.tsv,.parquet" ?required=${needed && !chosen} @change=${(event) => take(event.target.files[0])}
        aria-describedby="h-${name} e-${name}" aria-invalid=${faultOf(name) ? "true" : "false"}>
      <small id="h-${name}">${chosen ? html`<strong><bdi>${shown(chosen.name)}</bdi></strong> · ${bytes(chosen.size)}` : hint}</small><span class="fault" id="e-${name}">${faultOf(name)}</span></div>`;
  }

  function render() {
    const general = error && !fieldOf(error.param);
    return html`
      <div class="head"><h1 tabindex="-1">New job</h1></div>
      <div class="with-aside">
        <form class="job-form" @submit=${send} @input=${() => { if (dry || error) changed(); }}>
          <fieldset><legend>Data</legend>${file(FILES[0])}
            <details ?open=${Boolean(files.validation || files.test || files.unlabelled)}><summary>Validation, test and unlabelled rows</summary><div class="grid-2">${FILES.slice(1).filter(([name]) => distils || name !== "unlabelled").map(file)}</div></details></fieldset>
          <fieldset><legend>Models</legend>
            <div class="choices" role="group" aria-label="Method">
              <label><input type="radio" name="kind" .checked=${distils} @change=${() => { distils = true; changed(); }}><span><strong>Distil</strong> <small>learn from a teacher, beside controls</small></span></label>
              <label><input type="radio" name="kind" .checked=${!distils} @change=${() => { distils = false; changed(); }}><span><strong>Fine-tune</strong> <small>the rows’ own answers alone</small></span></label></div>
            <div class="grid-2">
              ${distils ? html`<div>${input("teacher", "Teacher", { required: true, placeholder: "google/flan-t5-large", hint: "a hub name, a path or an artifact" })}
                <label class="check"><input type="checkbox" .checked=${finetune} @change=${(event) => { finetune = event.target.checked; changed(); }}> Fine-tune it on the training rows first</label></div>` : nothing}
              ${input("student", "Student", { required: true, placeholder: "google/flan-t5-small", hint: "also cut:6 of the teacher, or scratch:bert-2x128" })}</div></fieldset>
          ${distils ? recipes() : nothing}
          <details class="more"><summary>More settings</summary><div class="grid-2">
            ${input("alias", "Publish as", { placeholder: "production", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}", title: "letters, digits, dots, dashes and underscores", hint: "the name that the student is served under" })}
            ${input("max_steps", "Steps of each training", { type: "number", min: 1, placeholder: "automatic" })}
            ${distils && finetune ? input("teacher_steps", "Steps of the teacher’s training", { type: "number", min: 1, placeholder: "automatic" }) : nothing}
            ${input("seeds", "Seeds", { placeholder: "0", pattern: "[0-9, ]*", title: "numbers with commas between them", hint: "one training of each recipe for each: 0, 1, 2" })}
            ${input("sizes", "Learning curve", { placeholder: "none", pattern: "[0-9, ]*", title: "numbers with commas between them", hint: "smaller training sets: 100, 300" })}
            ${input("max_train_rows", "Training rows at most", { type: "number", min: 2, placeholder: "all" })}
            ${input("budget", "Minutes at most", { type: "number", min: 1, placeholder: "no bound", hint: "what is there when they are over is kept" })}
            ${distils ? html`<div class="field"><label for="f-method">Attribution</label><select id="f-method" name="method" aria-describedby="e-method">${METHODS.map((one) => html`<option>${one}</option>`)}</select>${under("method", "")}</div>` : nothing}
            ${input("template", "Text around the input", { placeholder: "{input}", hint: "is never a reason" })}
          </div></details>
          ${general ? html`<div tabindex="-1">${alert(error)}</div>` : nothing}
          <div class="row"><button type="submit" value="dry" ?disabled=${busy !== ""}>${busy === "dry" ? "Checking …" : "Dry run"}</button>
            <button type="submit" value="submit" class="primary" ?disabled=${busy !== ""}>${busy === "submit" ? "Submitting …" : "Submit the job"}</button>
            <small class="soft">A dry run checks everything and trains nothing.</small></div>
        </form>
        <aside aria-label="Dry run" aria-live="polite">${dry ? dryRun() : busy === "dry" ? html`<p class="soft">Reading the files and counting tokens …</p>` : html`<h2>Before it costs anything</h2>
          <p class="soft">A dry run reads the files, says which rows cannot be used and why, counts tokens, and estimates time and disk from earlier jobs here.</p>`}</aside>
      </div>`;
  }

  const recipes = () => html`<fieldset aria-describedby="e-recipe"><legend>Recipe</legend>
    <div class="choices" role="group" aria-label="How recipes are chosen">
      <label><input type="radio" id="recipe-auto" name="how" .checked=${auto} @change=${() => { auto = true; changed(); }}><span><strong>Search</strong> <small>tries all that fit and trains the best in full</small></span></label>
      <label><input type="radio" name="how" .checked=${!auto} @change=${() => { auto = false; changed(); }}><span><strong>Choose</strong> <small>these, with their controls</small></span></label></div>
    ${auto ? nothing : html`<div class="recipes">${RECIPES.map(([name, learns]) => html`<label class="check"><input type="checkbox" name="recipe" value=${name}><span><code>${name}</code> <small>${learns}</small></span></label>`)}</div>`}
    <span class="fault" id="e-recipe">${faultOf("recipe")}</span></fieldset>`;

  function dryRun() {
    const { rows, estimate, student, teacher, arms, rejected_rows: rejected, task } = dry;
    const cut = [["student", student], ["teacher", teacher]].filter(([, one]) => one?.truncated_share > 0);
    return html`<h2>Dry run</h2>
      ${facts([
        ["Task", task.kind, task.labels.length ? `${count(task.labels.length)} labels` : ""],
        ["Rows", count(rows.train), `${count(rows.validation)} validation, ${count(rows.test)} test${rows.unlabelled ? `, ${count(rows.unlabelled)} unlabelled` : ""}`],
        ["Rejected", count(rows.rejected), ""],
        ["Trainings", `${dry.searches ? "≤ " : ""}${count(estimate.runs)}`, `${count(estimate.steps_per_run)} steps each`],
        ["Worker time", estimate.seconds === null ? "not known" : duration(estimate.seconds), ""],
        ["Disk", estimate.disk_bytes === null ? "not known" : bytes(estimate.disk_bytes), ""],
        ["Student’s tokens", short(student.tokens), `longest ${count(student.longest)} of ${count(student.window)}`],
        teacher ? ["Teacher’s tokens", short(teacher.tokens), `${count(estimate.teacher_examples)} examples to explain`] : null,
      ])}
      ${cut.map(([who, one]) => html`<p class="warn">${percent(one.truncated_share, 0)} of the rows do not fit the ${who}’s window.</p>`)}
      <details ?open=${arms.length < 9}><summary>${count(arms.length)} ${dry.searches ? "recipes and controls to choose from" : "recipes and controls to train"}</summary>
        <ul class="arms">${arms.map((arm) => html`<li><bdi>${shown(arm.name)}</bdi></li>`)}</ul></details>
      ${estimate.unknown.length ? html`<details><summary>What is not known</summary><ul class="plain">${estimate.unknown.map((one) => html`<li><bdi>${shown(one)}</bdi></li>`)}</ul></details>` : nothing}
      ${rejected.count ? html`<h3>${counted(rejected.count, "rejected row")}</h3>${scroll("Rejected rows", rejectedTable(rejected.data.slice(0, 50)))}` : nothing}`;
  }

  return { title: () => "New job", render, stop() {} };
}
