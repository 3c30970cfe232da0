// Agent by environment: numbers on colour. Blue is towards the optimum, orange below the reference.

section("heat", () => {
  const [rows, envs] = [shownRows(), shownEnvironments()];
  if (!rows.length) return nothing("No agent fits the filters.");
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Heat map" },
    el("table", { class: "heatmap" },
      caption("Blue: the way from the reference (0) to the optimum (1). Orange: worse than the "
        + "reference. −∞: off the reference. A dash: its KL is unknown, so it has no normalised score."),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Agent"),
        envs.map((env) => el("th", { scope: "col", title: `${env.id}: ${env.tags.join(", ")}` },
          breakable(shortName(env.id)))))),
      el("tbody", {}, rows.map((row) => el("tr", {},
        el("th", { scope: "row" }, agentLink(row.agent)),
        envs.map((env) => heatCell(row.agent, env.id)))))));
});

function heatCell(agent, env) {
  const cell = board.heat[agent]?.[env];
  const failed = board.failures.filter((one) => one.agent === agent && one.env === env).length;
  if (!cell?.seeds.length)
    return el("td", { class: "empty" }, failed ? el("a", { href: "#failures" }, "failed") : "—");
  const { value, seeds } = cell;
  const areOff = value === null && seeds.some((seed) => seed.is_off_reference);
  const kind = isNumber(value) ? (value < 0 ? "low" : "high") : areOff ? "off" : "unknown";
  const text = areOff ? "−∞" : number(value, Math.abs(value) < 9.995 ? 2 : 1);
  const link = el("a", {
    href: `#cell=${seeds[0].cell}`, "data-key": `heat:${agent}:${env}`,
    "aria-label": `${agent} on ${shortName(env)}: ${areOff ? "off the reference" : text}`,
  }, text, failed ? el("sup", { title: `${failed} failed` }, "!") : null);
  return el("td", { class: `heat ${kind}`, vars: isNumber(value) ? heat(value) : {} },
    withTip(link, `${agent} on ${shortName(env)}`, () => heatRows(cell, areOff, failed)));
}

function heatRows(cell, areOff, failed) {
  const of = (key) => cell.seeds.map((seed) => seed[key]);
  const average = (key, digits) => (of(key).every(isNumber) ? number(mean(of(key)), digits) : "—");
  return [
    ["normalised score", areOff ? "−∞, off the reference" : number(cell.value)],
    [cell.interval === "bootstrap" ? "95 % interval" : "a new seed, 95 %", interval(cell)],
    ["score", average("score")],
    ["KL", areOff ? "∞" : average("kl", 2)],
    ["seeds", cell.seeds.map(scoreText).join("  ")],
    ...(failed ? [["failed seeds", String(failed)]] : []),
  ];
}
