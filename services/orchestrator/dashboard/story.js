// What a job's events say, read once each: the curves of its trainings, and when each phase began.

const METRICS = "metrics";

export function newStory() {
  return { events: [], known: new Set(), runs: new Map(), began: new Map() };
}

/** Add an event, oldest first. True where it was not known. */
export function tell(story, event) {
  if (story.known.has(event.id)) return false;
  story.known.add(event.id);
  story.events.push(event);
  if (event.type === METRICS && event.data?.arm) addMetrics(story, event.data);
  if (event.data?.phase && event.type !== METRICS && !story.began.has(event.data.phase)) {
    story.began.set(event.data.phase, event.created_at);
  }
  return true;
}

function addMetrics(story, { arm, seed, size = null, step, total_steps: total, train_loss: loss, full_valid_mean_token_accuracy: accuracy }) {
  const name = JSON.stringify([arm, seed, size]);
  if (!story.runs.has(name)) story.runs.set(name, { arm, seed, size, total, loss: [], accuracy: [] });
  const run = story.runs.get(name);
  run.total = total;
  run.step = step;
  if (typeof loss === "number") put(run.loss, step, loss);
  if (typeof accuracy === "number") put(run.accuracy, step, accuracy);
}

/** A training that was stopped tells some steps again: what it says last counts. */
function put(points, x, y) {
  while (points.length && points.at(-1).x >= x) points.pop();
  points.push({ x, y });
}

/** Seconds of wall time that each phase took, from one's beginning to the next one's. */
export function wallTimes(story, job, now) {
  const order = job.phases.map((one) => one.phase);
  const starts = order.map((phase, place) => story.began.get(phase) ?? (place === 0 ? job.created_at : null));
  return new Map(order.map((phase, place) => {
    const next = starts.slice(place + 1).find((start) => start !== null) ?? job.finished_at ?? now;
    return [phase, starts[place] === null ? null : Math.max(0, next - starts[place])];
  }));
}
