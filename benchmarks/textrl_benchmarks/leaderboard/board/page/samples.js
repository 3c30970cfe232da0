// One prompt, every agent's answer, token by token.

const NUMBERS = {
  log_prob: ["log-prob", (one, i) => at(one.log_probs, i), "strong: the agent found it unlikely"],
  ref_log_prob: ["reference log-prob", (one, i) => at(one.ref_log_probs, i), "strong: the reference finds it unlikely"],
  kl: ["KL", klOf, "log-prob less that of the reference; blue: likelier than there"],
  value: ["value", (one, i) => at(one.values, i), "strong: the agent expects more"],
  advantage: ["advantage", (one, i) => at(one.advantages, i), "blue: better than expected"],
};
const SIGNED = new Set(["kl", "advantage"]);
const sample = { env: environments[0]?.id, index: 0, key: "kl" };

// A list that is missing is unknown; a null inside a list of log-probs stands for minus infinity.
function at(list, i) {
  if (!list || i >= list.length) return null;
  return list[i] ?? -Infinity;
}

function klOf(one, i) {
  const [ours, reference] = [at(one.log_probs, i), at(one.ref_log_probs, i)];
  if (ours === null || reference === null) return null;
  return reference === -Infinity ? Infinity : ours - reference;
}

function tokenNumber(value) {
  if (value === null) return "—";
  return Number.isFinite(value) ? number(value) : `${value < 0 ? "−" : ""}∞, off the reference`;
}

const promptsOf = (env) => allSamples()[env] ?? [];
const sampleLink = () =>
  `#sample=${encodeURIComponent(sample.env)},${promptsOf(sample.env)[sample.index]?.prompt_index ?? 0}`;

section("samples", () => {
  const prompt = promptsOf(sample.env)[sample.index];
  drawSampleTools();
  if (!prompt) return nothing("No samples were stored for this environment.");
  const wanted = new Map(shownRows().map((row, i) => [row.agent, i]));
  const responses = prompt.responses.filter((one) => wanted.has(one.agent))
    .toSorted((a, b) => wanted.get(a.agent) - wanted.get(b.agent));
  const scale = scaleOf(responses);
  return [
    el("blockquote", { class: "prompt" }, el("span", {}, "Prompt"), prompt.prompt || "(empty)"),
    scaleLegend(scale),
    el("div", { class: "answers" }, responses.map((one) => answer(one, scale))),
  ];
});

function drawSampleTools() {
  const prompts = promptsOf(sample.env);
  const go = (change) => {
    Object.assign(sample, change);
    history.replaceState(null, "", sampleLink());
    drawSamplesAgain();
  };
  const step = (by, text, name) => el("button", {
    type: "button", "aria-label": name, "data-key": name, disabled: !prompts[sample.index + by],
    click: () => go({ index: sample.index + by }),
  }, text);
  $("sample-tools").replaceChildren(
    el("label", {}, "Environment", el("select", {
      id: "sample-env", "data-key": "sample-env", change: (event) => go({ env: event.target.value, index: 0 }),
    }, environments.map((env) => option(env.id, shortName(env.id), env.id === sample.env)))),
    el("div", { class: "steps" },
      el("label", {}, "Prompt", el("select", {
        id: "sample-prompt", "data-key": "sample-prompt", change: (event) => go({ index: Number(event.target.value) }),
      }, prompts.map((one, i) => option(i, `${one.prompt_index}: ${clip(one.prompt)}`, i === sample.index)))),
      step(-1, "←", "previous prompt"), step(1, "→", "next prompt")),
    choice("colour", "Colour by", Object.entries(NUMBERS).map(([key, [text]]) => [key, text]), sample.key, (key) => {
      sample.key = key;
      drawSamplesAgain();
    }));
}

const clip = (text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text);

function drawSamplesAgain() {
  const key = document.activeElement?.dataset.key;
  drawSection(sections.find((one) => one.id === "samples"));
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// One scale for all answers. So that no token bleaches the rest, its ends are the 2nd and 98th of a hundred, and
// null agents, whose numbers are extreme, have no say where there are others.
function scaleOf(responses) {
  const [text, read] = NUMBERS[sample.key];
  const others = responses.filter((one) => rowOf.get(one.agent).kind !== "null");
  const values = (others.length ? others : responses).flatMap((one) => one.tokens.map((_, i) => read(one, i)))
    .filter(Number.isFinite).toSorted((a, b) => a - b);
  const quantile = (share) => values[Math.round(share * (values.length - 1))] ?? 0;
  const ends = [quantile(0.02), quantile(0.98)];
  if (!SIGNED.has(sample.key)) return { text, read, low: ends[0], high: ends[1], isSigned: false };
  const most = Math.max(Math.abs(ends[0]), Math.abs(ends[1]));
  return { text, read, low: -most, high: most, isSigned: true };
}

// What is unlikely, dear or valuable is strong; a signed number has two colours.
function tint(value, { low, high, isSigned }) {
  if (!Number.isFinite(value) || high === low) return { kind: Math.abs(value) === Infinity ? "off" : "plain", t: 0 };
  if (isSigned) return { kind: value < 0 ? "low" : "high", t: clamp(Math.abs(value) / high, 0, 1) };
  const share = clamp((value - low) / (high - low), 0, 1);
  return { kind: "high", t: sample.key === "value" ? share : 1 - share };
}

const percent = (t) => ({ t: `${(t * 100).toFixed(0)}%` });

function scaleLegend(scale) {
  const steps = Array.from({ length: 21 }, (_, i) => {
    const { kind, t } = tint(scale.low + (i / 20) * (scale.high - scale.low), scale);
    return el("i", { class: `heat ${kind}`, vars: percent(t) });
  });
  return el("p", { class: "scale" }, el("span", {}, scale.text), `≤ ${number(scale.low, 2)}`,
    el("span", { class: "steps" }, steps), `≥ ${number(scale.high, 2)}`,
    el("i", { class: "heat off" }), "off the reference",
    el("span", { class: "hint" }, NUMBERS[sample.key][2]));
}

// --- an answer ---

function answer(one, scale) {
  const kls = one.tokens.map((_, i) => klOf(one, i));
  const total = kls.includes(null) ? "—" : kls.includes(Infinity) ? "∞" : number(kls.reduce((a, b) => a + b, 0), 2);
  return el("article", { class: "card", "data-answer": one.agent },
    el("header", {},
      el("h3", {}, swatch(paintOf(one.agent)), agentLink(one.agent)),
      el("a", { href: `#cell=${one.cell}` }, `seed ${one.seed}`)),
    el("ol", { class: "tokens", "aria-label": `Response of ${one.agent}`, keydown: walk },
      one.tokens.map((text, i) => token(one, text, i, scale))),
    el("p", { class: "sums" },
      el("span", {}, "score ", el("b", {}, number(one.score))), el("span", {}, "KL ", el("b", {}, total)),
      isNumber(one.gold) ? el("span", {}, "gold ", el("b", {}, number(one.gold))) : null,
      el("span", {}, plural(one.tokens.length, "token")), el("span", {}, `ended by ${one.finish_reason}`)));
}

function token(one, text, i, scale) {
  const { kind, t } = tint(scale.read(one, i), scale);
  const rows = () => Object.values(NUMBERS).map(([name, read]) => [name, tokenNumber(read(one, i))]);
  const node = el("li", { class: `heat ${kind}`, vars: percent(t), tabindex: i ? -1 : 0 }, visible(text));
  node.addEventListener("focus", () => { if (node.matches(":focus-visible")) say(visible(text), rows()); });
  return withTip(node, visible(text), rows);
}

// White space alone would be a token that nobody sees.
const visible = (text) => (text.trim() ? text : text.replace(/\n/g, "↵").replace(/\s/g, "␣") || "∅");

// The arrow keys walk within an answer; only one of its tokens is a stop of Tab.
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (!step) return;
  event.preventDefault();
  const tokens = [...event.currentTarget.children];
  const next = tokens[clamp(tokens.indexOf(document.activeElement) + step, 0, tokens.length - 1)];
  tokens.forEach((one) => one.setAttribute("tabindex", one === next ? 0 : -1));
  next.focus();
}
