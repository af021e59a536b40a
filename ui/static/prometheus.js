// The text format of Prometheus, and figures from it.

/** Parse the text: an array of [name, value, labels]. No label has a character that is escaped. */
export const parse = (text) =>
	[...text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)/gm)].map(([, name, labels = "", value]) =>
		[name, Number(value), Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map((pair) => pair.slice(1)))]);

/** The sums of a metric by a label, without the requests of these pages, which would hide others. */
export function sums(samples, metric, label) {
	const found = new Map();
	for (const [name, value, labels] of samples) {
		if (name !== metric || /^\/(metrics|health|jobs|ui)(\/|$)/.test(labels.route)) continue;
		found.set(labels[label], (found.get(labels[label]) ?? 0) + value);
	}
	return found;
}

export const total = (samples, metric) => sums(samples, metric).get(undefined) ?? 0;

/** How much counters have grown. After a restart they begin with 0. */
export function increase(after, before) {
	const restarted = [...before].some(([key, value]) => !(after.get(key) >= value));
	return new Map([...after].map(([key, value]) => [key, restarted ? value : value - (before.get(key) ?? 0)]));
}

/** A quantile of a histogram, as histogram_quantile() of PromQL; undefined if nothing was counted. */
export function quantile(share, buckets) {
	const wanted = share * [...buckets.values()].at(-1);
	let [lower, below] = [0, 0];
	for (const [bound, count] of buckets) {
		const upper = bound === "+Inf" ? lower : Number(bound);
		if (wanted && count >= wanted) return lower + ((upper - lower) * (wanted - below)) / (count - below);
		[lower, below] = [upper, count];
	}
}
