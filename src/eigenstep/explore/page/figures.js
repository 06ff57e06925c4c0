// Drawing: numbers come from the server, this file only places them.

const NS = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number as readers write it: so many significant digits, no needless zeros, exponents only where they help. */
export function shown(value, digits = 3) {
  if (value === null || value === undefined) return "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(digits)));
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`;
}

/** From data to pixels. `log` for a logarithmic scale; the range may run either way. */
export function scale([low, high], [start, end], log) {
  const to = log ? Math.log : (value) => value;
  const from = to(low);
  const span = to(high) - from || 1;
  const place = (value) => start + ((to(value) - from) / span) * (end - start);
  place.invert = (pixel) => {
    const at = from + ((pixel - start) / (end - start)) * span;
    return log ? Math.exp(at) : at;
  };
  return place;
}

function logTicks(low, high, most) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const decades = last - first + 1;
  if (decades <= 2) {
    const ticks = [];
    for (let d = first - 1; d <= last; d += 1) {
      for (const m of [1, 2, 5]) {
        const tick = Number(`${m}e${d}`);
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    if (ticks.length > 1) return ticks.length > most ? ticks.filter((_, k) => k % 2 === 0) : ticks;
    return [low, high].map((value) => Number(value.toPrecision(2)));
  }
  const stride = Math.ceil(decades / most);
  const ticks = [];
  for (let d = last; d >= first; d -= stride) ticks.unshift(Number(`1e${d}`));
  return ticks;
}

function evenTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const stride = [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / stride - 1e-9); k * stride <= high * (1 + 1e-9); k += 1) ticks.push(Number((k * stride).toPrecision(12)));
  return ticks;
}

function tickText(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    const [mantissa, exponent] = value.toExponential().split("e");
    const raised = String(Number(exponent)).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
    return `${mantissa === "1" ? "" : `${Number(Number(mantissa).toPrecision(3))}·`}10${raised}`;
  }
  return String(Number(value.toPrecision(3)));
}

/** The nearest heights that keep their order and stand `gap` apart (pool adjacent violators). */
function spread(heights, gap, top, bottom) {
  const order = heights.map((_, k) => k).sort((a, b) => heights[a] - heights[b]);
  const pools = [];
  order.forEach((index, rank) => {
    let pool = [heights[index] - rank * gap, 1];
    while (pools.length && pools[pools.length - 1][0] > pool[0]) {
      const [mean, size] = pools.pop();
      pool = [(mean * size + pool[0] * pool[1]) / (size + pool[1]), size + pool[1]];
    }
    pools.push(pool);
  });
  const placed = new Array(heights.length);
  const levels = pools.flatMap(([mean, size]) => new Array(size).fill(mean));
  order.forEach((index, rank) => { placed[index] = levels[rank] + rank * gap; });
  // Shift what would leave the axes, and push its neighbours on.
  let edge = bottom;
  for (const index of order.slice().reverse()) edge = (placed[index] = Math.min(placed[index], edge)) - gap;
  edge = top;
  for (const index of order) edge = (placed[index] = Math.max(placed[index], edge)) + gap;
  return placed;
}

function wordWidth(words) {
  return words.length * 6.9;
}

/** Curves with their names at their ends; where the figure is narrow, the names stand in a line above it.
 *  `bands`: [{style, points: [[x, low, high]]}], shaded behind; `marks`: [{x, words}], dashed lines across. */
export function curves(host, { label, x, y, series, bars, bands, marks, height = 270 }) {
  const width = host.clientWidth;
  if (width < 80) return;
  const narrow = width < 430;
  const named = series.filter((one) => one.name && one.points.length);
  const right = narrow ? 12 : Math.min(0.34 * width, 18 + Math.max(0, ...named.map((one) => wordWidth(one.name))));
  const lines = narrow ? legendLines(named, width) : [];
  const top = (y.title ? 26 : 12) + 18 * lines.length;
  const left = 50;
  const bottom = 42;
  height += 18 * lines.length + (y.title ? 14 : 0);
  const placeX = scale(x.domain, [left, width - right], x.log);
  const placeY = scale(y.domain, [height - bottom, top], y.log);
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  const frame = `${host.id}-frame`;
  svg.append(el("clipPath", { id: frame }, el("rect", { x: left - 8, y: top - 5, width: width - right - left + 16, height: height - bottom - top + 8 })));

  const ticksY = y.ticks || (y.log ? logTicks(...y.domain, 5) : evenTicks(...y.domain, 6));
  for (const tick of ticksY) {
    const at = placeY(tick);
    svg.append(el("line", { class: "gridline", x1: left, x2: width - right, y1: at, y2: at }));
    svg.append(el("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, tickText(tick)));
  }
  const [from, to] = [Math.min(...x.domain), Math.max(...x.domain)];
  const room = Math.max(3, Math.floor((width - right - left) / 58));
  const ticksX = x.ticks || (x.log ? logTicks(from, to, room) : evenTicks(from, to, room));
  for (const tick of ticksX) {
    const at = placeX(tick);
    if (x.log) svg.append(el("line", { class: "gridline", x1: at, x2: at, y1: top, y2: height - bottom }));
    svg.append(el("text", { x: at, y: height - bottom + 17, "text-anchor": "middle" }, tickText(tick)));
  }
  svg.append(el("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  svg.append(el("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.title));
  if (y.title) svg.append(el("text", { x: 6, y: top - 13 }, y.title));
  if (y.line !== undefined) {
    svg.append(el("line", { class: "axis", x1: left, x2: width - right, y1: placeY(y.line), y2: placeY(y.line) }));
  }
  for (const bar of bars || []) {
    const [a, b] = [placeX(bar.from), placeX(bar.to)];
    const base = height - bottom;
    const tall = bar.part * (base - top);
    svg.append(el("rect", { class: "bar", x: Math.min(a, b) + 1, width: Math.max(1, Math.abs(b - a) - 2), y: base - tall, height: tall }, el("title", {}, bar.title)));
  }
  for (const band of bands || []) {
    const [bottomMost, topMost] = [Math.min(...y.domain), Math.max(...y.domain)];
    const inside = (value) => placeY(Math.min(topMost, Math.max(bottomMost, value)));
    const upper = band.points.map(([a, , high]) => `${placeX(a).toFixed(1)} ${inside(high).toFixed(1)}`);
    const lower = band.points.map(([a, low]) => `${placeX(a).toFixed(1)} ${inside(low).toFixed(1)}`).reverse();
    svg.append(el("path", { class: `band f-${band.style}`, d: `M${[...upper, ...lower].join("L")}Z`, "clip-path": `url(#${frame})` }));
  }
  const marked = (marks || []).map((mark) => ({ ...mark, at: placeX(mark.x) })).sort((a, b) => a.at - b.at);
  marked.forEach(({ at, words }, k) => {
    // Words stand outside of two marks, and of one where there is more room.
    const after = marked.length > 1 ? k > 0 || at - wordWidth(words) < left : at < (left + width - right) / 2;
    svg.append(el("line", { class: "mark", x1: at, x2: at, y1: top, y2: height - bottom }));
    svg.append(el("text", { class: "halo i-mark", x: at + (after ? 6 : -6), y: top + 12 + 17 * k, "text-anchor": after ? "start" : "end" }, words));
  });

  const ends = [];
  for (const one of series) {
    const points = one.points.filter(([, value]) => value !== null && (!y.log || value > 0));
    if (!points.length) continue;
    const inside = (value) => Math.min(height - bottom + 1, Math.max(top - 6, placeY(value)));
    const pixels = points.map(([a, b]) => [placeX(a), inside(b)]);
    const path = points.map(([a, b]) => [placeX(a), placeY(b)]).map(([a, b], k) => `${k ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
    const kind = one.style === "ours" ? "curve ours" : "curve";
    svg.append(el("path", { class: `${kind} s-${one.style}`, d: path, "clip-path": `url(#${frame})` }));
    if (one.dots) for (const [a, b] of pixels) svg.append(el("circle", { class: `f-${one.style}`, cx: a, cy: b, r: 3 }));
    if (one.mark) {
      const at = points.findIndex(([a]) => a === one.mark);
      if (at >= 0) svg.append(el("circle", { class: `f-${one.style}`, cx: pixels[at][0], cy: pixels[at][1], r: 6 }));
    }
    if (one.name) ends.push({ one, at: pixels[pixels.length - 1] });
  }
  if (narrow) {
    lines.forEach((line, row) => {
      let at = left - 38;
      for (const one of line) {
        svg.append(el("circle", { class: `f-${one.style}`, cx: at + 4, cy: 10 + 18 * row, r: 4 }));
        svg.append(el("text", { class: `name i-${one.style}`, x: at + 12, y: 14 + 18 * row }, one.name));
        at += 26 + wordWidth(one.name);
      }
    });
  } else if (ends.length) {
    const places = spread(ends.map(({ at }) => at[1]), 15, top, height - bottom);
    ends.forEach(({ one, at }, k) => {
      if (Math.abs(places[k] - at[1]) > 4 || at[0] < width - right - 8) {
        svg.append(el("line", { class: `s-${one.style}`, x1: at[0] + 2, y1: at[1], x2: width - right + 8, y2: places[k], "stroke-width": 0.7 }));
      }
      svg.append(el("text", { class: `name i-${one.style}${one.style === "ours" ? " strong" : ""}`, x: width - right + 11, y: places[k] + 4 }, one.name));
    });
  }
  host.replaceChildren(svg);
}

function legendLines(named, width) {
  const lines = [[]];
  let at = 12;
  for (const one of named) {
    const wide = 26 + wordWidth(one.name);
    if (at + wide > width && lines[lines.length - 1].length) {
      lines.push([]);
      at = 12;
    }
    lines[lines.length - 1].push(one);
    at += wide;
  }
  return lines;
}

/** The grid on its line, each free level a slider: by pointer, by finger, by keyboard. */
export class GridLine {
  constructor(host, told) {
    this.host = host;
    this.told = told;
    this.back = el("g");
    this.front = el("g", { role: "group", "aria-label": "Levels of the grid" });
    this.svg = el("svg", {}, this.back, this.front);
    this.levels = [];
    this.held = null;
    host.replaceChildren(this.svg);
    host.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) host.addEventListener(end, (event) => this.#release(event));
  }

  /** `sigmas`: ours; `optimum`: those to show behind where ours were moved; `rows`: [{name, style, sigmas}]. */
  draw(data) {
    this.data = data;
    const { sigmas, optimum, rows, range } = data;
    const width = this.host.clientWidth;
    if (width < 80) return;
    const narrow = width < 560;
    const left = narrow ? 16 : 30 + Math.max(60, ...rows.map((row) => wordWidth(row.name)));
    const right = 22;
    const ends = [sigmas, ...rows.map((row) => row.sigmas)].some((grid) => grid[grid.length - 1] === 0);
    const [low, high] = range;
    const zeroRoom = ends ? Math.max(34, 0.07 * (width - left - right)) : 0;
    this.place = scale([high, low], [left, width - right - zeroRoom], true);
    const zero = width - right;
    const at = (sigma) => (sigma > 0 ? this.place(Math.max(sigma, low)) : zero);
    const first = narrow ? 62 : 42;
    const pitch = narrow ? 44 : 32;
    const rowAt = (k) => first + 42 + k * pitch + (narrow ? 10 : 0);
    const bottom = rows.length ? rowAt(rows.length - 1) + 22 : first + 34;
    const height = bottom + 44;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);

    const back = [];
    const room = Math.max(3, Math.floor((width - left - right) / 60));
    for (const tick of logTicks(low, high, room)) {
      back.push(el("line", { class: "gridline", x1: at(tick), x2: at(tick), y1: first - 12, y2: bottom }));
      back.push(el("text", { x: at(tick), y: bottom + 16, "text-anchor": "middle" }, tickText(tick)));
    }
    if (ends) {
      back.push(el("line", { class: "gridline", x1: zero, x2: zero, y1: first - 12, y2: bottom }));
      back.push(el("text", { x: zero, y: bottom + 16, "text-anchor": "middle" }, "0"));
    }
    back.push(el("text", { x: left, y: bottom + 35 }, narrow ? "σ: noise" : "noise level σ, in units of the data"));
    back.push(el("text", { x: width - right, y: bottom + 35, "text-anchor": "end" }, narrow ? "data → " : "sampling runs from noise to data →"));
    rows.forEach((row, k) => {
      const y = rowAt(k);
      const dots = row.sigmas.map((sigma) => at(sigma));
      back.push(el("line", { class: `s-${row.style}`, x1: dots[0], x2: dots[dots.length - 1], y1: y, y2: y, opacity: 0.45 }));
      row.sigmas.forEach((sigma, i) => {
        back.push(el("circle", { class: sigma > 0 ? `f-${row.style}` : `s-${row.style}`, cx: dots[i], cy: y, r: 4.5, ...(sigma > 0 ? {} : { fill: "var(--card)", "stroke-width": 1.6 }) }, el("title", {}, `${row.name}: σ = ${shown(sigma, 5)}`)));
      });
      back.push(narrow ? el("text", { class: `name halo i-${row.style}`, x: left, y: y - 11 }, row.name)
        : el("text", { class: `name i-${row.style}`, x: left - 16, y: y + 4, "text-anchor": "end" }, row.name));
    });
    back.push(narrow ? el("text", { class: "name strong i-ours halo", x: left, y: first - 40 }, data.name)
      : el("text", { class: "name strong i-ours", x: left - 16, y: first + 4, "text-anchor": "end" }, data.name));
    back.push(el("line", { class: "s-ours", x1: at(sigmas[0]), x2: at(sigmas[sigmas.length - 1]), y1: first, y2: first, opacity: 0.5, "stroke-width": 1.5 }));
    if (optimum) {
      optimum.slice(1, -1).forEach((sigma, i) => {
        if (Math.abs(at(sigma) - at(sigmas[i + 1])) > 0.5) back.push(el("circle", { class: "ghost", cx: at(sigma), cy: first, r: 7.5 }));
      });
    }
    const last = sigmas.length - 1;
    for (const k of [0, last]) {
      back.push(el("circle", { class: sigmas[k] > 0 ? "f-ours" : "s-ours", cx: at(sigmas[k]), cy: first, r: 6, ...(sigmas[k] > 0 ? {} : { fill: "var(--card)", "stroke-width": 2 }) }, el("title", {}, `σ = ${shown(sigmas[k], 5)}, fixed`)));
    }
    // The values stand above their dots where there is room; the first keeps its own, the others give way.
    let free = -Infinity;
    sigmas.forEach((sigma, k) => {
      const words = shown(sigma, 3);
      const half = wordWidth(words) / 2;
      const x = Math.max(at(sigma), left + (narrow ? half : 0));
      if (x - half < free || (k < last && k > 0 && x + half > zero - 6 && ends)) return;
      free = x + half + 5;
      back.push(el("text", { class: "halo i-ours", x, y: first - 16 + (narrow ? 2 : 0), "text-anchor": "middle" }, words));
    });
    this.back.replaceChildren(...back);

    while (this.levels.length > Math.max(0, last - 1)) this.levels.pop().remove();
    while (this.levels.length < last - 1) this.#add();
    // Levels that lie close together get smaller dots.
    const gaps = sigmas.slice(1).map((sigma, i) => at(sigma) - at(sigmas[i]));
    const radius = Math.min(7.5, Math.max(4, 0.48 * Math.min(...gaps))).toFixed(1);
    this.levels.forEach((level, i) => {
      const k = i + 1;
      const [least, most] = this.#bounds(k);
      level.setAttribute("transform", `translate(${at(sigmas[k]).toFixed(2)} ${first})`);
      level.setAttribute("aria-label", `Level ${k + 1} of ${sigmas.length}`);
      level.setAttribute("aria-valuemin", least);
      level.setAttribute("aria-valuemax", most);
      level.setAttribute("aria-valuenow", sigmas[k]);
      level.setAttribute("aria-valuetext", `σ ${shown(sigmas[k], 5)}${data.words ? `, ${data.words}` : ""}`);
      level.children[1].setAttribute("r", radius);
      level.lastChild.textContent = `σ = ${shown(sigmas[k], 6)}`;
    });
  }

  #add() {
    const k = this.levels.length + 1;
    const level = el("g", { class: "level", role: "slider", tabindex: 0, "aria-orientation": "horizontal" },
      el("circle", { class: "hit", r: 15 }), el("circle", { class: "dot f-ours", r: 7.5 }), el("circle", { class: "ring", r: 12 }), el("title"));
    level.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.held = k;
      level.classList.add("held");
      level.focus({ preventScroll: true });
      this.host.setPointerCapture(event.pointerId);
    });
    level.addEventListener("keydown", (event) => this.#key(event, k));
    this.levels.push(level);
    this.front.append(level);
  }

  /** Between its neighbours, 1 % away from either, and above the lowest level of the model. */
  #bounds(k) {
    const { sigmas, floor } = this.data;
    const below = Math.max(floor, sigmas[k + 1] * 1.01, this.data.range[0]);
    return [Math.min(below, sigmas[k]), Math.max(sigmas[k - 1] / 1.01, sigmas[k])];
  }

  #to(k, sigma) {
    const [least, most] = this.#bounds(k);
    const wanted = Number(sigma.toPrecision(6));
    const value = Math.min(most, Math.max(least, wanted));
    if (value !== this.data.sigmas[k]) {
      const sigmas = this.data.sigmas.slice();
      sigmas[k] = value;
      this.draw({ ...this.data, sigmas, optimum: this.data.best });
      this.told.moved(sigmas);
    }
    this.told.stopped(value === wanted ? null : k);
  }

  #move(event) {
    if (this.held === null) return;
    const box = this.svg.getBoundingClientRect();
    this.#to(this.held, this.place.invert(event.clientX - box.left));
  }

  #release() {
    if (this.held === null) return;
    this.levels[this.held - 1]?.classList.remove("held");
    this.held = null;
    this.told.settled();
  }

  #key(event, k) {
    const sigma = this.data.sigmas[k];
    const big = event.shiftKey ? 1.1 : 1.01;
    const [least, most] = this.#bounds(k);
    // The line runs from noise at the left to data at the right: → goes to less noise, as it looks; ↑ is more.
    const moves = {
      ArrowLeft: sigma * big, ArrowRight: sigma / big, ArrowUp: sigma * big, ArrowDown: sigma / big,
      PageUp: sigma * 1.1, PageDown: sigma / 1.1, Home: least, End: most,
    };
    if (event.key in moves) {
      this.#to(k, moves[event.key]);
    } else if (event.key === "Escape" || event.key === "Delete" || event.key === "Backspace") {
      this.told.snapped(k);
    } else {
      return;
    }
    event.preventDefault();
  }
}
