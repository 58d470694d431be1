// The shell: which view stands in the page, where the focus goes, the key, the theme. Views know each other by address
// only: `#/jobs`, `#/jobs/<id>/<part>`, `#/new`, `#/models`, `#/models/<name>`.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import { key, onKeyWanted } from "./api.js";
import { restyle } from "./charts.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { modelsView } from "./models.js";
import { newView } from "./new.js";
import { icon } from "./parts.js";

const THEMES = ["light dark", "light", "dark"];
const THEME_NAMES = { "light dark": "as the system", light: "light", dark: "dark" };
const LINKS = { live: "Live", polling: "Polling", away: "Not reachable" };

let view = null;
let shownAt = null;
let wanted = null; // null, or whether a key that was given is wrong
let link = "";
let said = "";
let theme = THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : THEMES[0];
let drawing = false;

/** What a view may ask of its surroundings. */
const app = {
  draw() {
    if (drawing) return;
    drawing = true;
    queueMicrotask(() => { drawing = false; paint(); });
  },
  /** Say something to those who cannot see it change. */
  tell(text) { said = text; app.draw(); },
  /** How what is followed comes: "live", "polling" or "away". */
  link(state) {
    const now = LINKS[state] ? state : "";
    if (link !== now) {
      link = now;
      app.draw();
    }
  },
  go(address) { location.hash = address; },
};

function viewAt([place, name, part]) {
  if (place === "new") return newView(app);
  if (place === "models") return modelsView(app, name ?? null);
  if (place === "jobs" && name) return jobView(app, name, part ?? "overview");
  return jobsView(app);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // an address that somebody has cut short
  }
}

/** Show what the address names. A view may do that itself, unless it is to begin `anew`. */
function arrive(anew = false) {
  const path = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decoded);
  const address = path.join("/");
  if (!anew && view?.moveTo?.(path)) {
    shownAt = address;
    return app.draw();
  }
  view?.stop?.();
  link = "";
  view = viewAt(path);
  const first = shownAt === null;
  shownAt = address;
  paint();
  if (!first) {
    document.querySelector("h1")?.focus();
    scrollTo(0, 0);
  }
}

onKeyWanted((wrong) => {
  wanted = wrong;
  app.draw();
});

function giveKey(event) {
  event.preventDefault();
  const value = new FormData(event.target).get("key").trim();
  if (!/^[\x21-\x7e]+$/.test(value)) return;
  key.set(value);
  wanted = null;
  arrive(true);
}

function forgetKey() {
  key.forget();
  view?.stop?.();
  wanted = false;
  app.draw();
}

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  localStorage.setItem("theme", theme);
  applyTheme();
  app.tell(`Colours: ${THEME_NAMES[theme]}`);
}

function applyTheme() {
  document.documentElement.style.colorScheme = theme;
  restyle();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);

const asksForKey = () => html`
  <form class="gate" @submit=${giveKey}>
    <h1 tabindex="-1">This service wants an API key</h1>
    <p>It stays in this tab and is forgotten when the tab closes. Whoever runs the service makes one with
      <code>understudy keys create NAME</code>.</p>
    <label for="key">API key</label>
    <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required autofocus
      aria-describedby="key-said" aria-invalid=${wanted ? "true" : "false"} placeholder="sk-us-…">
    <p id="key-said" class="fault" role="alert">${wanted ? "The service does not know that key." : ""}</p>
    <button class="primary">Go on</button>
  </form>`;

const at = (place) => (shownAt === "" ? "jobs" : shownAt.split("/")[0]) === place;
const entry = (place, name, picture) => html`
  <a href="#/${place}" aria-current=${at(place) ? "page" : nothing}>${icon(picture)}<span>${name}</span></a>`;

function paint() {
  const onHeading = document.activeElement?.tagName === "H1";
  document.title = wanted === null ? `${view.title()} · Understudy` : "API key · Understudy";
  render(html`
    <a class="skip" href="#main" @click=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>Skip to content</a>
    <header class="side">
      <a class="mark" href="#/jobs"><img src="/dashboard/mark.svg" alt="" width="22" height="22">Understudy</a>
      <nav aria-label="Main">${entry("jobs", "Jobs", "jobs")}${entry("new", "New job", "plus")}${entry("models", "Models", "models")}</nav>
      <div class="foot">
        ${link && wanted === null ? html`<span class="link ${link}"><i></i>${LINKS[link]}</span>` : nothing}
        <button type="button" class="plain" @click=${nextTheme} title=${`Colours: ${THEME_NAMES[theme]}`}>${icon("theme")}<span>Theme</span></button>
        <a class="plain" href="/docs">${icon("book")}<span>API</span></a>
        ${key.get() ? html`<button type="button" class="plain" @click=${forgetKey}>${icon("key")}<span>Forget key</span></button>` : nothing}
      </div>
    </header>
    <main id="main" tabindex="-1">${wanted === null ? view.render() : asksForKey()}</main>
    <p class="sr" role="status">${said}</p>`, document.getElementById("app"));
  // A heading that made way for another, as when what was loading is there, hands its focus on.
  if (onHeading && document.activeElement === document.body) document.querySelector("h1")?.focus({ preventScroll: true });
}

addEventListener("hashchange", () => arrive());
applyTheme();
arrive();
