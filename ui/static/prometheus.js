// The text format of Prometheus, and figures from it.

const number = (text) => Number(text.replace("Inf", "Infinity"));

/** Parse the text: a Map of names, each with an array of {labels, value}. */
export function parse(text) {
  const samples = new Map();
  for (const [, name, labels = "", value] of text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)/gm)) {
    // No label of the service has a character that the format escapes.
    const pairs = [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text_]) => [key, text_]);
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({labels: Object.fromEntries(pairs), value: number(value)});
  }
  return samples;
}

/** The sum of a metric. */
export const total = (samples, name) => (samples.get(name) ?? []).reduce((sum, {value}) => sum + value, 0);

/** The sums of a metric by the values of a label. */
export function sums(samples, name, label) {
  const found = new Map();
  for (const {labels, value} of samples.get(name) ?? []) {
    // The requests of these pages would hide those of clients.
    if (/^\/(metrics|health|ui)\b/.test(labels.route)) continue;
    found.set(labels[label], (found.get(labels[label]) ?? 0) + value);
  }
  return found;
}

/** By how much counters have grown. A smaller value means that the service began again with 0. */
export const increase = (after, before) =>
  new Map([...after].map(([key, value]) => [key, value - (before.get(key) <= value ? before.get(key) : 0)]));

/** A quantile of a histogram, as histogram_quantile() of PromQL; undefined if nothing was counted. */
export function quantile(share, buckets) {
  const sorted = [...buckets].map(([bound, count]) => [number(bound), count]).sort(([a], [b]) => a - b);
  const wanted = share * sorted.at(-1)?.[1];
  let [lower, below] = [0, 0];
  for (const [upper, count] of sorted) {
    if (wanted && count >= wanted) return upper === Infinity ? lower : lower + ((upper - lower) * (wanted - below)) / (count - below);
    [lower, below] = [upper, count];
  }
}
