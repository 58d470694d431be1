// Chart.js in the page's colours. A chart is a picture with a sentence; whoever shows one puts its numbers in a table too.

import "./vendor/chartjs/chart.umd.min.js";

const { Chart } = globalThis;
Chart.defaults.font.family = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
Chart.defaults.font.size = 11.5;
Chart.defaults.animation = false;

const SERIES = 8;
const alive = new Set();

/** Colours that follow the theme: custom properties resolve `light-dark()` only where a property uses them. */
function resolved(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Draw every chart anew, in the colours that hold now. */
export function restyle() {
  alive.forEach((one) => one.redraw());
}

const axis = (title, grid, soft, more = {}) => ({
  title: { display: Boolean(title), text: title, color: soft },
  grid: { color: grid, drawTicks: false },
  border: { display: false },
  ticks: { color: soft, padding: 6, maxTicksLimit: 6 },
  ...more,
});

function options({ x, y, percentages, marks, shares }, xs, end) {
  const [grid, soft, panel, text] = ["--line", "--soft", "--panel", "--ink"].map(resolved);
  const asPercent = percentages ? { callback: (value) => `${Math.round(100 * value)} %` } : {};
  const linear = { type: "linear" };
  return {
    responsive: true,
    maintainAspectRatio: false,
    normalized: true,
    interaction: { mode: "nearest", axis: "x", intersect: false },
    scales: {
      x: axis(x, "transparent", soft, { ...linear, ...(marks ? ticksAt(xs) : {}), ...(shares ? sharesFrom(xs) : {}), ...(marks || shares ? {} : { min: 0, suggestedMax: end ?? undefined }) }),
      y: (({ ticks, ...rest }) => ({ ...rest, ticks: { ...ticks, ...asPercent } }))(axis(y, grid, soft, linear)),
    },
    plugins: {
      legend: { display: false },
      tooltip: {
        backgroundColor: panel, titleColor: text, bodyColor: text, borderColor: grid, borderWidth: 1, padding: 8,
        displayColors: true, boxWidth: 8, boxHeight: 8,
        callbacks: {
          title: (items) => (items.length ? `${x} ${items[0].label}` : ""),
          label: (item) => ` ${item.dataset.label}: ${percentages ? `${(100 * item.parsed.y).toFixed(1)} %` : item.parsed.y.toPrecision(4)}`,
        },
      },
    },
  };
}

/** A logarithmic axis that has marks where there are points, and nowhere else. */
const ticksAt = (xs) => ({
  type: "logarithmic", min: Math.min(...xs) * 0.94, max: Math.max(...xs) * 1.06,
  afterBuildTicks: (one) => { one.ticks = xs.map((value) => ({ value })); },
});

/** An axis of shares from somewhat below the least one. */
const sharesFrom = (xs) => ({ min: Math.max(0, Math.floor(10 * Math.min(...xs) - 0.5) / 10), max: 1 });

/**
 * A chart of lines. `show(series, sentence)` takes `[{name, colour, points: [{x, y}], dashed, dots, only, plain}]`, where `colour` is
 * the name of a custom property; equal data are not drawn again.
 */
export function lines(words) {
  const element = document.createElement("div");
  element.className = "chart";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  element.append(canvas);
  let [chart, series, drawn, end] = [null, [], "", null];

  function redraw() {
    chart?.destroy();
    chart = null;
    drawn = "";
    paint();
  }

  function paint() {
    if (!element.isConnected || !series.length) return;
    const now = JSON.stringify(series);
    if (now === drawn) return;
    drawn = now;
    const datasets = series.map(dataset);
    const xs = [...new Set(series.filter((one) => !one.plain).flatMap((one) => one.points.map((point) => point.x)))].sort((a, b) => a - b);
    if (!chart) chart = new Chart(canvas, { type: "line", data: { datasets }, options: options(words, xs, end) });
    else {
      chart.data.datasets = datasets;
      chart.options.scales.x.suggestedMax = end ?? undefined;
      chart.update("none");
    }
  }

  const one = {
    element,
    redraw,
    /** `last` is where the axis ends, though no point is there yet. */
    show(found, sentence, last = null) {
      [series, end] = [found, last];
      canvas.setAttribute("aria-label", sentence);
      requestAnimationFrame(paint); // the element may be put into the page by the very drawing that asks for this
    },
    stop() {
      chart?.destroy();
      alive.delete(one);
    },
  };
  alive.add(one);
  return one;
}

function dataset({ name, colour, points, dashed, dots, only, plain }) {
  const paint = resolved(colour);
  return {
    label: name,
    data: points,
    borderColor: paint,
    backgroundColor: paint,
    borderWidth: plain ? 1 : 1.75,
    borderDash: dashed ? [4, 3] : [],
    showLine: !only,
    pointRadius: plain ? 0 : dots || only ? 3.5 : points.length < 3 ? 3 : 0,
    pointHoverRadius: plain ? 0 : 4,
    pointHitRadius: plain ? 0 : 8,
    tension: 0,
    spanGaps: true,
    fill: false,
  };
}

const TEACHER = "teacher";
const CONTROL = /\+(random|shuffled)_rationale$/;
export const isControl = (arm) => CONTROL.test(arm);

/** The colour of each arm: a control has its recipe's, and its line is dashed. */
export function coloursOf(arms) {
  const recipes = [...new Set(arms.filter((arm) => arm !== TEACHER).map((arm) => arm.replace(CONTROL, "")))];
  const colour = (arm) => (arm === TEACHER ? "--teacher" : `--series-${(recipes.indexOf(arm.replace(CONTROL, "")) % SERIES) + 1}`);
  return new Map(arms.map((arm) => [arm, colour(arm)]));
}
