// Reward against KL: the exact curve, its tangent at the optimum, and each agent's seeds.

section("frontier", (width) => {
  const rows = shownRows().filter((row) => board.heat[row.agent]);
  if (!rows.length) return nothing("No agent fits the filters.");
  return [
    legend("frontier", rows),
    el("div", { class: "multiples" }, shownEnvironments().map((env) => frontierChart(env, rows, smallWidth(width)))),
    el("p", { class: "note" }, "Large marks are means over seeds, small ones single seeds; an arrow at the "
      + "right edge lies beyond it. Agents of unknown or infinite KL have no place here."),
  ];
});

function frontierChart(env, rows, width) {
  // The reference is where the frontier begins: its KL is 0.
  const frontier = [{ kl: 0, score: env.reference_value }, ...env.frontier].toSorted((a, b) => a.kl - b.kl);
  const best = frontier.reduce((one, other) => (J(other, env) > J(one, env) ? other : one));
  const agents = rows.filter((row) => state.drawn.has(row.agent)).map((row) => cloud(row.agent, env));
  const points = agents.flatMap((one) => one.points);
  const right = clamp(Math.max(...points.map((point) => point.kl), 0) * 1.1, best.kl * 1.4, best.kl * 3) || 1;
  const curve = frontier.filter((point) => point.kl <= right);
  const scores = [...points, ...curve].map((point) => point.score).concat(env.reference_value);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const chart = new Chart({
    width, x: [0, right], y: [low - 0.06 * (high - low), high + 0.12 * (high - low)],
    xTitle: "KL from the reference, nats", yTitle: "score",
    label: frontierLabel(env, agents),
  });
  chart.add(
    tangent(chart, env.optimum_value, env, "optimum"),
    tangent(chart, env.reference_value, env, "reference"),
    chart.line(curve.map((point) => [point.kl, point.score]), { class: "line exact" }),
    ...agents.map((one) => marks(chart, one, right)),
    marker("circle", chart.X(best.kl), chart.Y(best.score), 4.5, { class: "best" }));
  return figure(shortName(env.id), chart.readable(stops(agents, best, right, env)), `β = ${Number(env.kl_coefficient.toPrecision(3))}`);
}

const J = (point, env) => point.score - env.kl_coefficient * point.kl;

// All points with score − β KL = value.
function tangent(chart, value, env, name) {
  const [left, right] = chart.x;
  const ends = [left, right].map((kl) => [kl, value + env.kl_coefficient * kl]);
  return chart.line(ends, { class: `rule ${name} level` });
}

function cloud(agent, env) {
  const seeds = (board.heat[agent]?.[env.id]?.seeds ?? []).filter((seed) => isNumber(seed.kl));
  const points = seeds.map((seed) => ({ agent, ...seed }));
  const middle = points.length
    ? { kl: mean(points.map((one) => one.kl)), score: mean(points.map((one) => one.score)) } : null;
  return { agent, points, middle };
}

function marks(chart, { agent, points, middle }, right) {
  if (!middle) return null;
  const { colour, shape } = paintOf(agent);
  const [x, y] = [chart.X(Math.min(middle.kl, right)), chart.Y(middle.score)];
  const large = middle.kl > right
    ? svg("path", { d: `M${x - 9} ${y - 5}L${x} ${y}L${x - 9} ${y + 5}Z` })
    : marker(shape, x, y, 4.6, { class: "mean" });
  return svg("g", { "data-agent": agent, fill: colour },
    points.filter((one) => one.kl <= right)
      .map((one) => marker(shape, chart.X(one.kl), chart.Y(one.score), 2, { class: "seed" })),
    large);
}

function stops(agents, best, right, env) {
  const seeds = agents.flatMap((one) => one.points).map((seed) => ({
    x: Math.min(seed.kl, right), y: seed.score, title: `${seed.agent}, seed ${seed.seed}`, href: `cell=${seed.cell}`,
    rows: () => [["score", number(seed.score)], ["KL", number(seed.kl, 2)],
      ["score − β KL", number(J(seed, env))], ["normalised", number(seed.normalised_score)]],
  }));
  const optimum = {
    x: best.kl, y: best.score, title: "the exact optimum",
    rows: () => [["score", number(best.score)], ["KL", number(best.kl, 2)], ["score − β KL", number(env.optimum_value)]],
  };
  return [...seeds, optimum].toSorted((a, b) => a.x - b.x);
}

function frontierLabel(env, agents) {
  const found = agents.filter((one) => one.middle)
    .map(({ agent, middle }) => `${agent} ${number(middle.score, 2)} at KL ${number(middle.kl, 2)}`);
  return `${env.id}, score by KL beside the exact frontier: ${found.join(", ") || "nobody is drawn"}.`;
}
