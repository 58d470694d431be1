// Numbers, times and strangers' texts as people read them. Pure functions; nothing here makes HTML.

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => (value === null || value === undefined ? "–" : number.format(value));

/** `1 row`, `2 rows` */
export const counted = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;

export function short(value) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (value >= size) return `${Number((value / (unit === "k" ? 1e3 : size)).toPrecision(3))} ${unit}`;
  }
  return count(value);
}

export const percent = (share, digits = 1) =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;

/** A difference of shares in points, with its sign and a true minus. */
export function points(difference) {
  const rounded = (100 * difference).toFixed(1);
  if (Number(rounded) === 0) return "0.0";
  return (difference > 0 ? "+" : "−") + rounded.replace("-", "");
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60) % 60} s`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(minutes / 1440)} d`;
}

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (size >= unit) return `${(size / unit).toFixed(size >= 10 * unit ? 0 : 1)} ${name}`;
  }
  return `${size} B`;
}

/** A time that is known to the second. */
export const whole = (seconds) =>
  seconds === null || seconds === undefined ? "–" : seconds < 1 ? "< 1 s" : seconds < 60 ? `${Math.round(seconds)} s` : duration(seconds);

/** How long ago `at`, in seconds since 1970, was. */
export function ago(at, now = Date.now() / 1000) {
  const seconds = Math.max(0, now - at);
  if (seconds < 45) return "just now";
  if (seconds < 5400) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 30 * 86400) return `${Math.round(seconds / 86400)} d ago`;
  return date(at).slice(0, 10);
}

const two = (value) => String(value).padStart(2, "0");
export function date(at) {
  const when = new Date(1000 * at);
  const day = `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())}`;
  return `${day} ${two(when.getHours())}:${two(when.getMinutes())}`;
}
export const clock = (at) => {
  const when = new Date(1000 * at);
  return `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}`;
};

/**
 * A stranger's text without characters that turn around or hide what stands beside them: each is shown as its number.
 * Marks of direction that right-to-left texts need stay as they are.
 */
export const shown = (text) =>
  String(text ?? "").replace(/[\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029\ufeff\u0000-\u0008\u000e-\u001f]/g, (one) =>
    `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

/** The end of an id, which tells it from others: `ftjob-…ad2d4862` */
export function shortId(id) {
  const text = shown(id);
  const dash = text.indexOf("-");
  return text.length > 18 ? `${text.slice(0, dash + 1)}${text.slice(-8)}` : text;
}

/** A model's name without the folders before it; an artifact's id shortened. */
export function modelName(name) {
  const text = shown(name);
  return /^[a-z]+-[0-9a-f]{16,}$/.test(text) ? shortId(text) : text.split("/").slice(-2).join("/").slice(-48);
}

/**
 * The text in pieces `{text, strength, named, sign}`. `words` have offsets in characters (not in UTF-16 units) and
 * scores; `named` are the words that are given as reasons. `strength` is a share of the strongest score.
 */
export function pieces(text, words, named) {
  const characters = Array.from(text);
  const slice = (from, to) => characters.slice(from, to).join("");
  const chosen = new Set(named.map((word) => word.start));
  const ordered = [...(words.length ? words : named)].sort((a, b) => a.start - b.start);
  const strongest = Math.max(...ordered.map((word) => Math.abs(word.score)), 0);
  const found = [];
  let place = 0;
  for (const word of ordered) {
    if (word.start < place) continue;
    if (word.start > place) found.push({ text: slice(place, word.start), strength: 0, named: false, sign: 0 });
    found.push({
      text: slice(word.start, word.end),
      strength: strongest ? Math.abs(word.score) / strongest : 1,
      named: chosen.has(word.start),
      sign: Math.sign(word.score),
      score: word.score,
    });
    place = word.end;
  }
  if (place < characters.length) found.push({ text: slice(place), strength: 0, named: false, sign: 0 });
  return found;
}
