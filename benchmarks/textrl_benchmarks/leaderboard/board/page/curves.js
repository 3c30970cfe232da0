// Learning curves, one chart an environment.

const MEASURES = { normalised_score: "normalised score", score: "score", kl: "KL" };
const BINS = 30;
let measure = "normalised_score";

section("curves", (width) => {
  const rows = shownRows().filter((row) => board.curves.some((curve) => curve.agent === row.agent));
  if (!rows.length) return nothing("No shown agent has learnt anything: there is no curve.");
  const measures = choice("measure", "Measure", Object.entries(MEASURES), measure, (value) => {
    measure = value;
    redraw();
  });
  return [
    el("div", { class: "tools" }, measures),
    legend("curves", rows),
    el("div", { class: "multiples" }, shownEnvironments().map((env) => curveChart(env, rows, smallWidth(width)))),
  ];
});

function curveChart(env, rows, width) {
  const drawn = rows.filter((row) => state.drawn.has(row.agent));
  const series = drawn.map((row) => ({ agent: row.agent, ...seriesOf(row.agent, env) }));
  const values = series.flatMap((one) => one.points.map((point) => point.value));
  const isNormalised = measure === "normalised_score";
  const floor = values.length ? Math.min(...values) : 0;
  const top = isNormalised ? 1.08 : Math.max(1e-9, ...values) * 1.1;
  const chart = new Chart({
    width, x: [0, env.budget_tokens], y: [isNormalised ? clamp(floor - 0.1, -1, -0.1) : Math.min(floor, 0), top],
    xText: short.format, xTitle: "generated tokens", yTitle: isNormalised ? "" : MEASURES[measure], label: curveLabel(env, series),
  });
  if (isNormalised) { chart.rule(0, "reference"); chart.rule(1, "optimum"); }
  series.forEach((one) => chart.add(curve(chart, one)));
  return figure(shortName(env.id), chart.readable(columns(series, env)), env.tags.join(", "));
}

function curve(chart, { agent, seeds, points }) {
  const { colour, dash } = paintOf(agent);
  const banded = points.filter((point) => point.half !== null);
  return svg("g", { "data-agent": agent, stroke: colour, fill: colour },
    seeds.map((seed) => chart.line(seed, { class: "line faint" })),
    chart.band(banded.map(({ x, value, half }) => [x, value - half, value + half])),
    chart.line(points.map(({ x, value }) => [x, value]), { "stroke-dasharray": dash }));
}

// Batches are averaged in 30 bins of the budget, so that seeds share their places.
function seriesOf(agent, env) {
  const seeds = board.curves
    .filter((one) => one.agent === agent && one.env === env.id)
    .map((one) => binned(one.tokens, one[measure], env.budget_tokens));
  const points = Array.from({ length: BINS }, (_, bin) => {
    const values = seeds.map((seed) => seed[bin]).filter(isNumber);
    return { x: place(bin, env), value: values.length ? mean(values) : null, half: halfWidth(values), n: values.length };
  }).filter((point) => point.value !== null && point.n === seeds.length);
  const lines = seeds.map((seed) => seed.flatMap((value, bin) => (isNumber(value) ? [[place(bin, env), value]] : [])));
  return { seeds: lines, points };
}

const place = (bin, env) => ((bin + 0.5) / BINS) * env.budget_tokens;

function binned(tokens, values, budget) {
  const bins = Array.from({ length: BINS }, () => []);
  tokens.forEach((at, i) => {
    // A batch reports the tokens at its end, which may be a little past the budget.
    const bin = clamp(Math.ceil((at / budget) * BINS) - 1, 0, BINS - 1);
    if (isNumber(values[i])) bins[bin].push(values[i]);
  });
  return bridged(bins.map((bin) => (bin.length ? mean(bin) : null)));
}

// Where batches are longer than a bin, straight lines cross the empty ones.
function bridged(values) {
  const known = values.flatMap((value, i) => (value === null ? [] : [i]));
  return values.map((value, i) => {
    const [before, after] = [known.findLast((k) => k <= i), known.find((k) => k >= i)];
    if (value !== null || before === undefined || after === undefined) return value;
    const share = (i - before) / (after - before);
    return values[before] * (1 - share) + values[after] * share;
  });
}

function columns(series, env) {
  return Array.from({ length: BINS }, (_, bin) => place(bin, env)).map((x) => ({
    x,
    title: `${shortName(env.id)}, ${count(Math.round(x))} tokens`,
    rows: () => series
      .map((one) => [one.agent, one.points.find((point) => point.x === x)?.value])
      .filter(([, value]) => isNumber(value))
      .toSorted((a, b) => b[1] - a[1])
      .map(([agent, value]) => [agent, number(value), paintOf(agent)]),
  }));
}

function curveLabel(env, series) {
  const ends = series.map((one) => `${one.agent} ${number(one.points.at(-1)?.value)}`);
  return `${env.id}, ${MEASURES[measure]} by tokens. At the end: ${ends.join(", ") || "nobody is drawn"}.`;
}
