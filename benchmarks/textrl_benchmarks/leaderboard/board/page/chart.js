// A chart: scales, axes, and one way to read it by pointer or by arrow keys.

class Chart {
  constructor({ width = 340, height = 220, x, y, xText, xTitle, yTitle, label }) {
    Object.assign(this, { x, y, left: 36, top: yTitle ? 22 : 10 });
    this.width = width - this.left - 12;
    this.height = height - this.top - 36;
    this.plot = svg("svg", { x: this.left, y: this.top, width: this.width, height: this.height });
    this.cursor = svg("g", { class: "cursor" });
    this.node = svg("svg", {
      class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0,
    }, this.axes(xText, xTitle, yTitle, width, height), this.plot, this.cursor);
  }

  X(value) { return ((value - this.x[0]) / (this.x[1] - this.x[0])) * this.width; }
  Y(value) { return (1 - (value - this.y[0]) / (this.y[1] - this.y[0])) * this.height; }

  axes(xText, xTitle, yTitle, width, height) {
    const { left, top } = this;
    const bottom = top + this.height;
    const [rows, columns] = [ticks(...this.y, 4), ticks(...this.x, width < 500 ? 4 : 8)];
    xText ??= (value) => number(value, decimalsOf(columns));
    return svg("g", { class: "axes" },
      rows.map((value) => [
        svg("path", { d: `M${left} ${top + this.Y(value)}h${this.width}`, class: "grid" }),
        svg("text", { x: left - 6, y: top + this.Y(value) + 3.5, "text-anchor": "end" },
          number(value, decimalsOf(rows))),
      ]),
      columns.map((value) => svg("text", {
        x: left + this.X(value), y: bottom + 15, "text-anchor": "middle",
      }, xText(value))),
      svg("text", { x: left + this.width, y: height - 5, "text-anchor": "end", class: "title" }, xTitle),
      svg("text", { x: 2, y: 10, class: "title" }, yTitle));
  }

  add(...nodes) { this.plot.append(...nodes.filter(Boolean)); }

  path(points) {
    return `M${points.map(([x, y]) => `${this.X(x).toFixed(1)} ${this.Y(y).toFixed(1)}`).join("L")}`;
  }

  line(points, attributes) {
    return points.length ? svg("path", { d: this.path(points), class: "line", ...attributes }) : null;
  }

  // points: [x, low, high]
  band(points, attributes) {
    if (!points.length) return null;
    const upper = points.map(([x, , high]) => [x, high]);
    const lower = points.map(([x, low]) => [x, low]).reverse();
    return svg("path", { d: `${this.path([...upper, ...lower])}Z`, class: "band", ...attributes });
  }

  rule(y, name) {
    if (y < this.y[0] || y > this.y[1]) return;
    this.add(svg("path", { d: `M0 ${this.Y(y)}H${this.width}`, class: `rule ${name}` }));
  }

  // Stops are what can be read: { x, y (absent: the whole column), title, rows, href }, x ascending.
  readable(stops) {
    let current = -1;
    const show = (index, isSpoken) => {
      if (!stops.length) return;
      current = clamp(index, 0, stops.length - 1);
      const { x, y, title, rows } = stops[current];
      const at = { x: this.left + this.X(x), y: this.top + (y === undefined ? 0 : this.Y(y)) };
      this.cursor.replaceChildren(y === undefined
        ? svg("path", { d: `M${at.x} ${this.top}v${this.height}` })
        : svg("circle", { cx: at.x, cy: at.y, r: 7 }));
      const found = rows();
      showTip(() => this.anchor(at), title, found);
      if (isSpoken) say(title, found);
    };
    const hide = () => { this.cursor.replaceChildren(); hideTip(); };
    const follow = () => { if (stops[current]?.href) location.hash = stops[current].href; };
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    this.node.addEventListener("pointermove", (event) => {
      const nearest = this.nearest(stops, event);
      if (nearest < 0) hide(); else show(nearest, false);
    });
    this.node.addEventListener("pointerleave", hide);
    this.node.addEventListener("blur", hide);
    this.node.addEventListener("click", follow);
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Enter") follow();
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      show(current + steps[event.key], true);
    });
    return this.node;
  }

  nearest(stops, event) {
    const box = this.node.getBoundingClientRect();
    const scale = this.node.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale - this.left;
    const y = (event.clientY - box.top) * scale - this.top;
    const far = stops.map((stop) => stop.y === undefined
      ? Math.abs(this.X(stop.x) - x) / 1000
      : Math.hypot(this.X(stop.x) - x, this.Y(stop.y) - y));
    const best = far.indexOf(Math.min(...far));
    return far[best] < 24 ? best : -1;
  }

  anchor({ x, y }) {
    const box = this.node.getBoundingClientRect();
    const scale = box.width / this.node.viewBox.baseVal.width;
    const [left, top] = [box.left + x * scale, box.top + y * scale];
    return { left, top, width: 0, bottom: top };
  }
}

// Small charts fill a column on a wide screen, and most of a narrow one.
const smallWidth = (width) => (width < 540 ? Math.max(260, width * 0.88 - 34) : 340);
const figure = (title, node, note) =>
  el("figure", { class: "card" }, el("figcaption", {}, title, note ? el("small", {}, note) : null), node);
const nothing = (text) => el("p", { class: "nothing" }, text);
