// The head of the page: what the board is, whether it is valid, and how to read a score.

function drawOverview() {
  const { suite } = board;
  $("eyebrow").textContent = `textrl leaderboard · suite ${suite.name}, version ${suite.version}`;
  $("description").textContent = suite.description;
  $("validity").replaceChildren(validity());
  $("ruler").replaceChildren(...ruler());
  $("facts").replaceChildren(...facts().map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function validity() {
  if (board.is_valid)
    return el("p", { class: "valid" }, "✓ Valid: ",
      el("span", {}, "no null agent stands above the reference",
        learners.length ? ", and an agent stands above them all." : "."));
  return el("div", { class: "invalid", role: "alert" },
    el("p", {}, "✗ This board is not valid."),
    el("ul", {}, board.problems.map((problem) => el("li", {}, problem))));
}

function facts() {
  const sum = (key) => board.rows.reduce((total, row) => total + (row[key] ?? 0), 0);
  return [
    ["agents", count(learners.length)],
    ["environments", count(environments.length)],
    ["seeds", count(board.suite.seeds.length)],
    ["episodes a run", count(board.suite.eval_episodes)],
    ["tokens learnt from", count(sum("tokens"))],
    ["CPU time", duration(sum("cpu_seconds"))],
    ["failed runs", count(board.failures.length)],
  ];
}

// The scale with every row on it; dots that would touch are stacked.
function ruler() {
  const width = clamp($("ruler").clientWidth, 280, 1180);
  const isNarrow = width < 600;
  const [left, right] = [20, width - 20];
  const X = (value) => left + ((clamp(value, -1, 1) + 1) / 2) * (right - left);
  const placed = stacked(board.rows.filter((row) => isNumber(row.iqm.value)).map((row) => ({ row, x: X(row.iqm.value) })));
  const base = 48 + 12 * Math.max(0, ...placed.map((one) => one.level));
  const dots = placed.map(({ row, x, level }) => {
    const { colour } = paintOf(row.agent);
    const dot = svg("circle", { cx: x, cy: base - 14 - 12 * level, r: 5, fill: colour, class: row.kind });
    return withTip(dot, row.agent, () => [["IQM", number(row.iqm.value)], ["95 %", interval(row.iqm)]]);
  });
  const best = placed.find(({ row }) => row.kind === "agent");
  const name = best && svg("text", {
    x: best.x, y: base - 27 - 12 * highestNear(placed, best.x), "text-anchor": best.x > width - 60 ? "end" : "middle", class: "leader",
  }, `${best.row.agent} ${number(best.row.iqm.value)}`);
  const words = [
    [-1, "−1", isNarrow ? "or below" : "or below, or −∞", "start"],
    [0, "0", isNarrow ? "the reference" : "the reference: nothing learnt", "middle"],
    [1, "1", isNarrow ? "the optimum" : "the exact optimum: nothing is better", "end"],
  ].map(([value, name, text, anchor]) => {
    const x = anchor === "start" ? 0 : anchor === "end" ? width : X(value);
    return [
      svg("path", { d: `M${X(value)} ${base - 4}v18`, class: "tick" }),
      svg("text", { x, y: base + 32, "text-anchor": anchor, class: "name" }, name),
      svg("text", { x, y: base + 49, "text-anchor": anchor }, text),
    ];
  });
  const steps = Array.from({ length: 80 }, (_, i) => {
    const value = -1 + (i + 0.5) / 40;
    const box = { x: X(value - 0.0125), y: base, width: (right - left) / 80 + 0.5, height: 10 };
    return svg("rect", { ...box, class: `heat ${value < 0 ? "low" : "high"}`, vars: heat(value) });
  });
  const label = board.rows.map((row) => `${row.agent} ${number(row.iqm.value)}`).join(", ");
  return [
    svg("svg", { viewBox: `0 0 ${width} ${base + 62}`, role: "img", "aria-label": `IQM: ${label}` },
      steps, words, dots, name ?? []),
    el("figcaption", {}, "Each dot is a row of the ranking; the hollow ones are null agents, trivial tricks that belong "
      + "at the bottom. An agent that says what the reference never says is off the scale, at −∞."),
  ];
}

// Dots that would touch are put one above the other.
function stacked(dots) {
  dots.forEach((dot, i) => {
    const near = dots.slice(0, i).filter((other) => Math.abs(other.x - dot.x) < 11).map((other) => other.level);
    dot.level = 0;
    while (near.includes(dot.level)) dot.level += 1;
  });
  return dots;
}

const highestNear = (dots, x) => Math.max(...dots.filter((dot) => Math.abs(dot.x - x) < 70).map((dot) => dot.level));

// How much colour a value on the scale from -1 to 1 gets.
const heat = (value) => ({ t: `${(Math.abs(clamp(value, -1, 1)) * 100).toFixed(0)}%` });
