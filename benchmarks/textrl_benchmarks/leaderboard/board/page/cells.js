// Runs: the dialog with spec, manifest, result and hashes; the failed ones; the list of all.

const PARTS = { error: "Error", result: "Result", spec: "Spec", manifest: "Manifest", sha256sums: "Hashes" };

function openCell(id, part) {
  const cell = allCells()[id] ?? failedCellOf(id);
  if (!cell) return openDialog("No such run", [nothing(`This board has no run ${id}.`)]);
  const { agent, env_id: env } = cell.spec;
  const seeds = board.heat[agent]?.[env]?.seeds ?? [];
  const parts = Object.entries(PARTS).filter(([key]) => cell[key] !== undefined);
  openDialog(`${agent} on ${shortName(env)}`, [
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Seeds" }, seedTable(seeds, id)),
    el("nav", { class: "parts", "aria-label": "Parts of this run" }, parts.map(([key, text]) =>
      el("a", { href: `#${key}=${id}`, "aria-current": key === part ? "true" : null }, text))),
    parts.map(([key, text]) => el("section", { id: `part-${key}` },
      el("h3", { tabindex: -1 }, text, el("code", {}, id)), el("pre", { tabindex: 0 }, pretty(cell[key])))),
  ]);
  if (part) $(`part-${part}`)?.querySelector("h3").focus();
}

function failedCellOf(id) {
  const failed = board.failures.find((one) => one.cell === id);
  return failed && { ...failed, error: `${failed.type}: ${failed.message}\n\n${failed.traceback}` };
}

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function seedTable(seeds, current) {
  const keys = { score: 3, kl: 2, gold: 3, length: 1, distinct: 3, commonest: 3 };
  return el("table", {},
    caption("Every seed. Distinct: share of different responses; commonest: share of the commonest one."),
    el("thead", {}, el("tr", {}, ["seed", "normalised", ...Object.keys(keys), "run"].map((name) =>
      el("th", { scope: "col", class: "number" }, name === "kl" ? "KL" : name)))),
    el("tbody", {}, seeds.map((seed) => el("tr", { class: seed.cell === current ? "current" : null },
      el("th", { scope: "row", class: "number" }, seed.seed),
      el("td", { class: "number" }, scoreText(seed)),
      Object.entries(keys).map(([key, digits]) => el("td", { class: "number" },
        key === "kl" && seed.is_off_reference ? "∞" : number(seed[key], digits))),
      el("td", {}, el("a", { href: `#cell=${seed.cell}` }, el("code", {}, seed.cell)))))));
}

function openAgent(name) {
  const row = rowOf.get(name);
  if (!row) return openDialog("No such agent", [nothing(`This board has no agent ${name}.`)]);
  const numbers = { iqm: "IQM", mean: "mean", median: "median", optimality_gap: "optimality gap", score: "score", kl: "KL" };
  openDialog(name, [
    el("p", {}, kindChip(row.kind), ` ${row.entry}, policy ${row.policy}; ${row.cells_done} of ${row.cells_planned} runs done.`),
    el("table", {}, caption("Over all environments and seeds"),
      el("thead", {}, el("tr", {}, ["", "value", "95 % interval"].map((text) => el("th", { scope: "col", class: "number" }, text)))),
      el("tbody", {}, Object.entries(numbers).map(([key, text]) => el("tr", {},
        el("th", { scope: "row" }, text), el("td", { class: "number" }, number(row[key].value)),
        el("td", { class: "number" }, interval(row[key])))))),
    row.marks.length ? el("ul", {}, row.marks.map((mark) => el("li", {}, mark))) : null,
    el("section", {}, el("h3", {}, "Settings"), el("pre", { tabindex: 0 }, pretty(row.settings))),
    el("section", {}, el("h3", {}, "Runs"), el("ul", { class: "inline" }, Object.entries(board.heat[name] ?? {}).map(([env, cell]) =>
      el("li", {}, el("a", { href: `#cell=${cell.seeds[0]?.cell}` }, shortName(env)))))),
  ]);
}

function openDialog(title, children) {
  hideTip();
  const dialog = $("details");
  dialog.replaceChildren(
    el("header", {}, el("h2", { id: "details-title" }, title),
      el("button", { type: "button", "aria-label": "Close", click: () => dialog.close() }, "✕")),
    el("div", { class: "inside" }, children));
  if (dialog.open) dialog.querySelector("button").focus();
  else dialog.showModal();
  dialog.querySelector(".inside").scrollTop = 0;
}

// --- failed runs ---

section("failures", () => {
  const names = new Set(shownRows().map((row) => row.agent));
  const failures = board.failures.filter((one) => names.has(one.agent));
  if (!failures.length) return nothing(board.failures.length ? "None of the shown agents failed." : "None: every run ended.");
  const same = Object.values(Object.groupBy(failures, (one) => JSON.stringify([one.agent, one.env, one.traceback])));
  return el("ul", { class: "failures" }, same.map(failure));
});

// Seeds that failed in the same way are told once.
function failure(seeds) {
  const [{ agent, env, type, message, traceback }] = seeds;
  return el("li", { class: "card" },
    el("p", {}, el("b", {}, `${agent} on ${shortName(env)}`), ", ", seeds.map((one) =>
      el("a", { href: `#cell=${one.cell}` }, `seed ${one.seed}`)).flatMap((link) => [link, " "])),
    el("p", { class: "error" }, `${type}: ${message}`),
    el("details", {}, el("summary", {}, "Traceback"), el("pre", { tabindex: 0 }, traceback)));
}

// --- every run ---

section("runs", () => {
  const [names, envs] = [new Set(shownRows().map((row) => row.agent)), new Set(shownEnvironments().map((env) => env.id))];
  const runs = Object.values(board.heat).flatMap((cells) => Object.values(cells)).flatMap((cell) => cell.seeds);
  const list = el("details", {}, el("summary", {}, `All ${plural(runs.length, "run")}`));
  // Hundreds of rows are made when they are wanted.
  list.addEventListener("toggle", () => {
    if (list.querySelector("table")) return;
    const shown = runs.filter(({ cell }) => names.has(allCells()[cell]?.spec.agent) && envs.has(allCells()[cell].spec.env_id));
    list.append(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All runs" }, runTable(shown)));
  });
  const strangers = board.strangers ?? [];
  return strangers.length ? [list, el("p", { class: "note" }, "Left out, for they are not of this suite or of an "
    + `older agent or environment: ${strangers.join(", ")}.`)] : list;
});

function runTable(seeds) {
  const row = (seed) => {
    const { spec, manifest } = allCells()[seed.cell];
    return el("tr", {},
      el("th", { scope: "row" }, el("a", { href: `#manifest=${seed.cell}` }, el("code", {}, seed.cell))),
      el("td", {}, spec.agent), el("td", {}, shortName(spec.env_id)),
      el("td", { class: "number" }, spec.seed), el("td", { class: "number" }, scoreText(seed)),
      el("td", { class: "number" }, duration(manifest.cpu_seconds)),
      el("td", {}, manifest.start?.slice(0, 16).replace("T", " ") ?? "—"));
  };
  return el("table", {}, caption("A name opens its manifest."),
    el("thead", {}, el("tr", {}, ["run", "agent", "environment", "seed", "normalised", "CPU", "started (UTC)"].map((text) =>
      el("th", { scope: "col" }, text)))),
    el("tbody", {}, seeds.map(row)));
}
