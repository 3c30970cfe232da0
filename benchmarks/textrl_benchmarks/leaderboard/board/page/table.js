// The ranking: filters that hold for the whole page, and a table that sorts by any column.

const KINDS = { agent: "agent", null: "null agent", reference: "reference", optimum: "optimum" };
const sorting = { key: "board", isDescending: false };
const numeric = (title, text, value, cell) => ({ title, text, value, cell, isNumeric: true });
const COLUMNS = {
  rank: { ...numeric("Rank", "tie group", (row) => row.rank_low, rankText), isAscendingFirst: true },
  agent: { title: "Agent", text: "and what runs it", value: (row) => row.agent, cell: agentCell },
  iqm: numeric("IQM", "95 % interval", (row) => row.iqm.value, iqmCell),
  place: numeric("", "mean there", placeValue, (row) => number(placeValue(row))),
  kind: { title: "Kind", value: (row) => row.kind, cell: (row) => kindChip(row.kind) },
  score: numeric("Score", "as paid", (row) => row.score.value, (row) => withRange(row.score)),
  kl: numeric("KL", "nats", (row) => row.kl.value, (row) => withRange(row.kl, 2)),
  gap: numeric("Gap", "to the optimum", (row) => row.optimality_gap.value, (row) => withRange(row.optimality_gap)),
  seeds: numeric("Seeds", "", (row) => row.seeds.length, (row) => count(row.seeds.length)),
  tokens: numeric("Tokens", "learnt from", (row) => row.tokens, (row) => count(row.tokens)),
  cpu: numeric("CPU", "time", (row) => row.cpu_seconds, (row) => duration(row.cpu_seconds)),
  failed: numeric("Failed", "of runs", (row) => row.cells_failed, failedCell),
  marks: { title: "Marks", value: (row) => row.marks.length || null, cell: marksCell },
};

section("ranking", () => {
  const rows = sorted(shownRows());
  const columns = Object.entries(COLUMNS).filter(([key]) => key !== "place" || state.place);
  $("shown").textContent = `${rows.length} of ${plural(board.rows.length, "row")}`;
  return [
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ranking table" },
      el("table", { class: "ranking" },
        caption("Headings sort. The bars' lines mark the reference, 0, and the optimum, 1; an arrow "
          + "points at what is further below."),
        el("thead", {}, el("tr", {}, columns.map(heading))),
        el("tbody", {}, rows.map((row) => el("tr", { class: row.kind, "data-row": row.agent },
          columns.map(([key, column]) => tableCell(key, column, row))))))),
    rows.length ? null : nothing("No agent fits the filters."),
  ].filter(Boolean);
});

function heading([key, column]) {
  const isChosen = sorting.key === key;
  const direction = sorting.isDescending ? "descending" : "ascending";
  return el("th", { scope: "col", class: `${key} ${column.isNumeric ? "number" : ""}`, "aria-sort": isChosen ? direction : "none" },
    el("button", { type: "button", "data-key": `sort:${key}`, click: () => sortBy(key) },
      key === "place" ? shortName(state.place.slice(4)) : column.title, column.text ? el("small", {}, column.text) : null));
}

function tableCell(key, column, row) {
  const isHead = key === "agent";
  return el(isHead ? "th" : "td", {
    scope: isHead ? "row" : null, class: `${key} ${column.isNumeric ? "number" : ""}`,
  }, column.cell(row));
}

function sortBy(key) {
  const { isNumeric, isAscendingFirst } = COLUMNS[key];
  sorting.isDescending = sorting.key === key ? !sorting.isDescending : isNumeric && !isAscendingFirst;
  sorting.key = key;
  drawSection(sections.find((one) => one.id === "ranking"));
  document.querySelector(`[data-key="sort:${key}"]`).focus();
}

// Missing values stay last in both directions; equal ones keep the board's order.
function sorted(rows) {
  const column = COLUMNS[sorting.key];
  if (!column) return rows;
  const sign = sorting.isDescending ? -1 : 1;
  return rows.toSorted((one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
}

// --- cells ---

function rankText(row) {
  const { rank_low: low, rank_high: high } = row;
  return low === null ? "—" : low === high ? String(low) : `${low}–${high}`;
}

const kindChip = (kind) => el("span", { class: `chip ${kind}` }, KINDS[kind] ?? kind);

function agentCell(row) {
  const what = row.policy === "auto" ? row.entry : `${row.entry}, ${row.policy}`;
  return [
    swatch(paintOf(row.agent)),
    el("span", { class: "who" }, agentLink(row.agent), what === row.agent ? null : el("small", {}, what)),
  ];
}

function iqmCell(row) {
  return el("span", { class: "iqm-cell" }, intervalBar(row.iqm, row.agent),
    el("span", {}, el("b", {}, number(row.iqm.value)), isNumber(row.iqm.low) ? el("small", {}, interval(row.iqm, 2)) : null));
}

// From a quarter below the reference to the optimum, since there the agents are.
function intervalBar({ value, low, high }, agent) {
  if (!isNumber(value)) return el("span", { class: "bar" });
  const X = (one) => 4 + ((clamp(one, -0.25, 1) + 0.25) / 1.25) * 112;
  const { colour } = paintOf(agent);
  const bar = svg("svg", { class: "bar", viewBox: "0 0 120 18", "aria-hidden": "true" },
    [0, 1].map((one) => svg("path", { d: `M${X(one)} 2v14`, class: "tick" })),
    svg("path", { d: "M4 9H116", class: "axis" }),
    svg("path", { d: `M${X(0)} 9H${X(value)}`, stroke: colour, class: "way" }),
    isNumber(low) ? svg("path", { d: `M${X(low) - 1} 9H${X(high) + 1}`, stroke: colour, class: "range" }) : null,
    value < -0.25
      ? svg("path", { d: "M2 9l7 -4v8Z", fill: colour })
      : svg("path", { d: `M${X(value)} 3v12`, stroke: colour, class: "value" }));
  return withTip(bar, agent, () => [["IQM", number(value)], ["95 %", interval({ low, high })]]);
}

const withRange = (one, digits = 3) =>
  el("span", { title: isNumber(one.low) ? interval(one, digits) : null }, number(one.value, digits));

function placeValue(row) {
  const cells = shownEnvironments().map((env) => board.heat[row.agent]?.[env.id]?.value);
  return cells.length && cells.every(isNumber) ? mean(cells) : null;
}

function failedCell(row) {
  if (!row.cells_failed) return "0";
  return el("a", { href: "#failures" }, `${row.cells_failed} of ${row.cells_planned}`);
}

function marksCell(row) {
  const marks = row.marks.length > 2 ? row.marks.slice(0, 1) : row.marks;
  const more = row.marks.length - marks.length;
  return [
    marks.map((mark) => el("span", { class: "mark" }, mark.replace(/textrl\/(\w+)-v\d+/g, "$1"))),
    more ? el("a", { class: "mark", href: `#agent=${encodeURIComponent(row.agent)}` }, `${more} more`) : null,
  ];
}

// --- filters ---

function drawFilters() {
  const filter = (key, read = (target) => target.value) => (event) => {
    state[key] = read(event.target);
    redraw();
  };
  const kinds = [...new Set(board.rows.map((row) => row.kind))];
  $("filters").replaceChildren(
    el("label", {}, "Agent", el("input", {
      type: "search", placeholder: "name or entry", "data-key": "text", input: filter("text"),
    })),
    el("label", {}, "Kind", el("select", { "data-key": "kind", change: filter("kind") },
      option("", "all kinds"), kinds.map((kind) => option(kind, KINDS[kind] ?? kind)))),
    el("label", {}, "Environments", el("select", { "data-key": "place", change: filter("place") },
      option("", "all environments"),
      el("optgroup", { label: "What they isolate" }, allTags.map((tag) => option(`tag:${tag}`, tag))),
      el("optgroup", { label: "Environment" },
        environments.map((env) => option(`env:${env.id}`, shortName(env.id)))))),
    el("label", { class: "check" }, el("input", {
      type: "checkbox", checked: true, "data-key": "nulls", change: filter("hasNulls", (target) => target.checked),
    }), "null agents"),
    el("output", { id: "shown", "aria-live": "polite" }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}
