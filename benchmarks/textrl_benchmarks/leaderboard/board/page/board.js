// The board's data, what is chosen of it, and who is drawn how.

const read = (id) => JSON.parse($(id).textContent);
const once = (make) => {
  let made;
  return () => (made ??= make());
};
const board = read("board-data");
// The two large parts are parsed when they are first asked for.
const allCells = once(() => read("cells-data"));
const allSamples = once(() => read("samples-data"));

const environments = board.suite.environments;
const environmentOf = new Map(environments.map((env) => [env.id, env]));
const rowOf = new Map(board.rows.map((row) => [row.agent, row]));
const allTags = [...new Set(environments.flatMap((env) => env.tags))];
const shortName = (id) => id.replace(/^textrl\//, "").replace(/-v\d+$/, "");
const isNull = (row) => row.kind === "null";

const state = { text: "", kind: "", place: "", hasNulls: true, drawn: new Set() };

function shownRows() {
  const words = state.text.toLowerCase();
  return board.rows.filter((row) =>
    (state.hasNulls || !isNull(row))
    && (!state.kind || row.kind === state.kind)
    && [row.agent, row.entry, row.kind, row.policy].join(" ").toLowerCase().includes(words));
}

// The place is a tag or an environment: "tag:structure", "env:textrl/Format-v0".
function shownEnvironments() {
  const [kind, name] = [state.place.slice(0, 3), state.place.slice(4)];
  if (kind === "env") return environments.filter((env) => env.id === name);
  return kind === "tag" ? environments.filter((env) => env.tags.includes(name)) : environments;
}

// --- a colour and a dash for each agent, whatever else is filtered ---

const COLOURS = 8;
const DASHES = [null, "6 3", "2 2.5"];
const SHAPES = ["circle", "square", "triangle", "diamond"];
const learners = board.rows.filter((row) => row.kind === "agent").map((row) => row.agent);
learners.slice(0, COLOURS).forEach((agent) => state.drawn.add(agent));

function paintOf(agent) {
  const index = learners.indexOf(agent);
  if (index < 0) return { colour: `var(--${rowOf.get(agent)?.kind ?? "null"})`, dash: null, shape: "circle" };
  return {
    colour: `var(--c${index % COLOURS})`,
    dash: DASHES[Math.floor(index / COLOURS) % DASHES.length],
    shape: SHAPES[index % SHAPES.length],
  };
}

function swatch({ colour, dash, shape }) {
  return svg("svg", { class: "swatch", viewBox: "0 0 20 12", "aria-hidden": "true" },
    svg("path", { d: "M0 6H20", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }),
    marker(shape, 10, 6, 3.6, { fill: colour }));
}

function marker(shape, x, y, r, attributes) {
  if (shape === "circle") return svg("circle", { cx: x, cy: y, r, ...attributes });
  const corners = {
    square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    triangle: [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
    diamond: [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]],
  }[shape];
  const d = corners.map(([dx, dy]) => `${x + dx * r} ${y + dy * r}`).join("L");
  return svg("path", { d: `M${d}Z`, ...attributes });
}

// Buttons that choose who is drawn. Pointing at one dims the others.
function legend(place, rows) {
  const button = (row) => el("button", {
    type: "button", "aria-pressed": String(state.drawn.has(row.agent)), "data-key": `${place}:${row.agent}`,
    click: () => {
      if (!state.drawn.delete(row.agent)) state.drawn.add(row.agent);
      spotlight(null);
      redraw();
    },
    pointerenter: () => spotlight(row.agent), pointerleave: () => spotlight(null),
    focus: () => spotlight(row.agent), blur: () => spotlight(null),
  }, swatch(paintOf(row.agent)), row.agent);
  return el("div", { class: "legend", role: "group", "aria-label": "Agents drawn" }, rows.map(button));
}

function spotlight(agent) {
  const isLit = agent !== null && state.drawn.has(agent);
  for (const series of document.querySelectorAll("[data-agent]"))
    series.classList.toggle("dim", isLit && series.dataset.agent !== agent);
}

const agentLink = (agent) => el("a", { href: `#agent=${encodeURIComponent(agent)}` }, breakable(agent));

// A missing normalised score is minus infinity off the reference, and else unknown.
const scoreText = (seed) => (seed.is_off_reference ? "−∞" : number(seed.normalised_score));

// --- sections: each file adds its own, main.js draws them ---

const sections = [];
const section = (id, draw) => sections.push({ id, draw, isDrawn: false });

function drawSection(one) {
  const body = document.querySelector(`#${one.id} .body`);
  body.replaceChildren(...[one.draw(body.clientWidth)].flat());
  one.isDrawn = true;
}

// Draws again what is there, and gives the focus back to the control that had it.
function redraw() {
  const key = document.activeElement?.dataset.key;
  sections.filter((one) => one.isDrawn).forEach(drawSection);
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}
