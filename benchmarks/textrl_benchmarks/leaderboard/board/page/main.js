// Theme, links into the page, and the order of drawing.

const THEMES = { auto: "◐ auto", light: "○ light", dark: "● dark" };

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = THEMES[theme];
  $("theme").setAttribute("aria-label", `Colours: ${theme}. Change.`);
}

// A browser may forbid files to remember anything; the choice then lasts as long as the page.
function remembered(write) {
  try {
    if (write) localStorage.setItem("textrl-theme", write);
    return localStorage.getItem("textrl-theme");
  } catch (error) {
    if (error instanceof DOMException) return null;
    throw error;
  }
}

function startTheme() {
  const names = Object.keys(THEMES);
  setTheme(names.includes(remembered()) ? remembered() : "auto");
  $("theme").addEventListener("click", () => {
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    setTheme(next);
    remembered(next);
  });
}

// #cell=, #error=, #result=, #spec=, #manifest=, #sha256sums= with a run; #agent=; #sample=environment,prompt
function follow() {
  const [key, value = ""] = location.hash.slice(1).split("=").map(decodeURIComponent);
  if (key === "cell") openCell(value);
  else if (key in PARTS) openCell(value, key);
  else if (key === "agent") openAgent(value);
  else if ($("details").open) $("details").close();
  if (key === "sample") followSample(value);
}

function followSample(value) {
  const [env, index = "0"] = value.split(",");
  if (environmentOf.has(env)) sample.env = env;
  sample.index = Math.max(0, promptsOf(sample.env).findIndex((one) => one.prompt_index === Number(index)));
  drawRest();
  drawSamplesAgain();
  $("samples").scrollIntoView();
}

// The head and the ranking at once; the rest when the browser has nothing better to do.
function drawRest() {
  sections.filter((one) => !one.isDrawn).forEach(drawSection);
}

function drawWhenIdle() {
  const next = sections.find((one) => !one.isDrawn);
  if (!next) {
    document.documentElement.dataset.drawn = "all";
    return;
  }
  drawSection(next);
  (window.requestIdleCallback ?? setTimeout)(drawWhenIdle);
}

function redrawOnResize() {
  let width = innerWidth;
  let timer;
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (innerWidth === width) return;
      width = innerWidth;
      $("ruler").replaceChildren(...ruler());
      redraw();
    }, 150);
  });
}

// The section in sight is marked in the bar at the top.
function markSection() {
  const links = new Map([...document.querySelectorAll("nav.top a")].map((link) => [link.hash.slice(1), link]));
  const bar = document.querySelector("nav.top .links");
  const watch = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach(({ target }) => {
    links.forEach((link, id) => link.toggleAttribute("aria-current", id === target.id));
    bar.scrollLeft = links.get(target.id).offsetLeft - 80;
  }), { rootMargin: "-30% 0px -65% 0px" });
  links.forEach((_, id) => watch.observe($(id)));
}

startTheme();
drawOverview();
drawFilters();
drawSection(sections[0]);
redrawOnResize();
markSection();
addEventListener("hashchange", follow);
addEventListener("scroll", placeTip, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
$("details").addEventListener("close", () => {
  if (/^#(cell|agent|error|spec|manifest|result|sha256sums)=/.test(location.hash)) history.replaceState(null, "", "#");
});
if (location.hash) {
  drawRest();
  follow();
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}
requestAnimationFrame(() => setTimeout(drawWhenIdle));
