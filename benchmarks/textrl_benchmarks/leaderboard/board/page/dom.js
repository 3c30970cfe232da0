// Elements by hand. A child that is a string becomes a text node: nothing here reads HTML.

const $ = (id) => document.getElementById(id);
const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "vars") setVariables(node, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// Style attributes are forbidden by the page's security policy, custom properties set here are not.
function setVariables(node, values) {
  for (const [name, value] of Object.entries(values)) node.style.setProperty(`--${name}`, value);
}

// Stays in sight where its table is wider than the screen.
const caption = (text) => el("caption", {}, el("span", {}, text));
// A long name may break at its underscores and before its inner capitals.
const breakable = (name) => name.split(/(?<=_)|(?<=[a-z])(?=[A-Z])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));
const option = (value, text, isChosen = false) =>
  el("option", { value, selected: isChosen }, text);

// Radio buttons that look like one control.
function choice(name, label, options, current, change) {
  const radios = options.map(([value, text]) =>
    el("label", {},
      el("input", {
        type: "radio", name, value, checked: value === current, "data-key": `${name}:${value}`,
        change: () => change(value),
      }),
      el("span", {}, text)));
  return el("fieldset", { class: "choice" }, el("legend", {}, label), radios);
}

// --- the tip, for the pointer and for the keyboard ---

let anchored = null;

// `anchorOf` says where the thing is, also after the page was scrolled.
function showTip(anchorOf, title, rows) {
  const tip = $("tip");
  tip.replaceChildren(
    el("strong", {}, title),
    el("dl", {}, rows.map(([name, value, paint]) => [
      el("dt", {}, paint ? swatch(paint) : null, name), el("dd", {}, value),
    ])));
  tip.classList.add("shown");
  anchored = anchorOf;
  placeTip();
}

function placeTip() {
  if (!anchored) return;
  const [tip, anchor] = [$("tip"), anchored()];
  const box = tip.getBoundingClientRect();
  const space = document.documentElement.clientWidth - box.width - 8;
  const above = anchor.top - box.height - 10;
  const left = Math.max(8, Math.min(anchor.left + anchor.width / 2 - box.width / 2, space));
  setVariables(tip, { left: `${left}px`, top: `${above > 8 ? above : anchor.bottom + 10}px` });
}

function hideTip() {
  anchored = null;
  $("tip").classList.remove("shown");
}

const say = (title, rows) => {
  $("live").textContent = `${title}: ${rows.map(([name, value]) => `${name} ${value}`).join(", ")}`;
};

// Rows are asked for when they are shown. Focus shows them as the pointer does.
function withTip(node, title, rows) {
  const show = () => showTip(() => node.getBoundingClientRect(), title, rows());
  node.addEventListener("pointerenter", show);
  node.addEventListener("pointerleave", hideTip);
  node.addEventListener("focus", show);
  node.addEventListener("blur", hideTip);
  return node;
}
