// Agents beside one another: profiles, duels, and strengths by tag.

section("profiles", (width) => {
  const { taus, agents } = board.profiles;
  const rows = shownRows().filter((row) => agents[row.agent]);
  if (!rows.length || !taus.length) return nothing("No shown agent has a normalised score.");
  const drawn = rows.filter((row) => state.drawn.has(row.agent));
  const chart = new Chart({
    width: clamp(width - 34, 300, 1200), height: width < 600 ? 260 : 340, x: [firstTau(drawn), taus.at(-1)], y: [0, 1.04],
    xTitle: "normalised score τ", yTitle: "share of runs above τ",
    label: `Performance profiles of ${drawn.map((row) => row.agent).join(", ")}`,
  });
  chart.add(...[[0, "reference"], [1, "optimum"]].map(([x, name]) =>
    svg("path", { d: `M${chart.X(x)} 0V${chart.height}`, class: `rule ${name}` })));
  chart.add(...drawn.map((row) => profile(chart, taus, row.agent)));
  const stops = taus.map((x, i) => ({
    x, isShown: x >= chart.x[0], title: `runs above ${number(x, 2)}`,
    rows: () => drawn.map((row) => [row.agent, `${(100 * agents[row.agent].value[i]).toFixed(0)} %`, paintOf(row.agent)]),
  }));
  return [legend("profiles", rows), figure("Share of runs above a score", chart.readable(stops.filter((stop) => stop.isShown)), "bands: 95 % bootstrap")];
});

// The left, where every run of the drawn agents is above, has nothing to show.
function firstTau(drawn) {
  const { taus, agents } = board.profiles;
  const first = taus.findIndex((_, i) => drawn.some((row) => agents[row.agent].value[i + 1] < 0.999));
  return Math.min(taus[Math.max(first, 0)], -0.1);
}

function profile(chart, taus, agent) {
  const { value, low, high } = board.profiles.agents[agent];
  const { colour, dash } = paintOf(agent);
  return svg("g", { "data-agent": agent, stroke: colour, fill: colour },
    chart.band(taus.map((tau, i) => [tau, low[i], high[i]]).filter((point) => point.every(isNumber))),
    chart.line(taus.map((tau, i) => [tau, value[i]]), { "stroke-dasharray": dash }));
}

// --- duels ---

section("improvement", () => {
  const rows = shownRows().filter((row) => board.improvement[row.agent]);
  if (rows.length < 2) return nothing("There are not two shown agents to compare.");
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Probability of improvement" },
    el("table", { class: "heatmap duels" },
      caption("Percent. Blue: the row is more often above; orange: the column is."),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "above →"),
        rows.map((row) => el("th", { scope: "col" }, el("span", {}, row.agent))))),
      el("tbody", {}, rows.map((row) => el("tr", {},
        el("th", { scope: "row" }, agentLink(row.agent)),
        rows.map((other) => duel(row.agent, other.agent)))))));
});

function duel(a, b) {
  const chance = board.improvement[a]?.[b];
  if (a === b || !isNumber(chance?.value)) return el("td", { class: "empty" }, a === b ? "·" : "—");
  const percent = (value) => (isNumber(value) ? `${(100 * value).toFixed(0)} %` : "—");
  const cell = el("td", { class: `heat ${chance.value < 0.5 ? "low" : "high"}`, vars: heat(2 * chance.value - 1) },
    (100 * chance.value).toFixed(0));
  return withTip(cell, `${a} above ${b}`, () => [
    ["probability", percent(chance.value)], ["95 %", `${percent(chance.low)} to ${percent(chance.high)}`]]);
}

// --- strengths ---

const MOST_ON_RADAR = 4;

section("tags", (width) => {
  const names = Object.keys(board.tags);
  const rows = shownRows().filter((row) => names.some((tag) => isNumber(board.tags[tag][row.agent])));
  if (!rows.length) return nothing("No shown agent has a normalised score.");
  const drawn = rows.filter((row) => state.drawn.has(row.agent)).slice(0, MOST_ON_RADAR);
  return [
    legend("tags", rows),
    el("div", { class: "strengths" },
      names.length > 2 ? figure("Radar", radar(names, drawn, clamp(width - 34, 280, 460)), "0 in the middle, 1 outside") : null,
      figure("Bars", bars(names, drawn), "the same numbers")),
    el("p", { class: "note" }, `At most ${MOST_ON_RADAR} agents, the first of those drawn. Below 0 the radar is at its middle.`),
  ];
});

function radar(names, rows, size) {
  const [cx, cy, radius] = [size / 2, size / 2 - 24, size / 2 - 76];
  const at = (i, r) => {
    const angle = (2 * Math.PI * i) / names.length - Math.PI / 2;
    return [cx + radius * r * Math.cos(angle), cy + radius * r * Math.sin(angle)];
  };
  const ring = (values) => `M${values.map((value, i) => at(i, value).map((one) => one.toFixed(1)).join(" ")).join("L")}Z`;
  const label = (name, i) => {
    const [x, y] = at(i, 1.13);
    const anchor = Math.abs(x - cx) < 12 ? "middle" : x < cx ? "end" : "start";
    const words = name.split(" ");
    const top = y + 4 - (words.length - 1) * 6;
    return words.map((word, line) => svg("text", { x, y: top + 12 * line, "text-anchor": anchor }, word));
  };
  const area = ({ agent }) => {
    const { colour, dash } = paintOf(agent);
    return svg("path", {
      d: ring(names.map((tag) => clamp(board.tags[tag][agent] ?? 0, 0, 1))), class: "area", "data-agent": agent,
      stroke: colour, fill: colour, "stroke-dasharray": dash,
    });
  };
  return svg("svg", { class: "chart radar", viewBox: `0 0 ${size} ${size - 48}`, role: "img", "aria-label": "The bars beside have the numbers." },
    [0.25, 0.5, 0.75, 1].map((r) => svg("path", { d: ring(names.map(() => r)), class: "grid" })),
    names.map((_, i) => svg("path", { d: `M${cx} ${cy}L${at(i, 1).join(" ")}`, class: "grid" })),
    rows.map(area), names.map(label));
}

function bars(names, rows) {
  const values = rows.flatMap((row) => names.map((tag) => board.tags[tag][row.agent] ?? 0));
  const low = Math.min(0, ...values) < 0 ? -1 : 0;
  const share = (value) => (clamp(value, low, 1) - low) / (1 - low);
  const bar = (tag, { agent }) => {
    const value = board.tags[tag][agent];
    const [from, to] = [Math.min(value ?? 0, 0), Math.max(value ?? 0, 0)].map(share);
    return el("li", { "data-agent": agent },
      el("span", { class: "name" }, agent),
      el("span", { class: "track", vars: { zero: `${share(0) * 100}%` } }, el("i", { vars: {
        from: `${from * 100}%`, size: `${(to - from) * 100}%`, colour: paintOf(agent).colour,
      } })),
      el("b", {}, number(value, 2)));
  };
  return el("div", { class: "tagbars" }, names.map((tag) =>
    el("div", {}, el("h3", {}, tag), el("ul", {}, rows.map((row) => bar(tag, row))))));
}
