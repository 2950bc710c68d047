"use strict";
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888"];
const runs = JSON.parse(document.getElementById("data").textContent).runs;
const main = document.getElementById("main"), tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";

/* Elements: text is always a text node, so nothing a run says becomes markup. */
function make(name, attributes, ...children) {
  const node = document.createElement(name);
  return fill(node, attributes, children);
}
function draw(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  for (const child of children) if (child !== null) node.append(child);
  return node;
}
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) || Math.abs(value) >= 1e5) return Math.round(value).toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en", { maximumFractionDigits: size < 1 ? 4 : 2 });
}
function tell(node, words) {
  node.setAttribute("tabindex", "-1");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", words);
  const show = () => {
    tip.textContent = words; tip.hidden = false;
    const box = node.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(4, box.top - tip.offsetHeight - 6) + "px";
  };
  node.addEventListener("mouseenter", show); node.addEventListener("focus", show);
  for (const end of ["mouseleave", "blur"]) node.addEventListener(end, () => { tip.hidden = true; });
  return node;
}
/* One tab stop a drawing; arrow keys go from mark to mark. */
function roving(svg) {
  const marks = [...svg.querySelectorAll("[tabindex]")];
  if (marks.length) marks[0].setAttribute("tabindex", "0");
  svg.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], at = marks.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = marks[Math.max(0, Math.min(marks.length - 1, at + step))];
    marks[at].setAttribute("tabindex", "-1"); next.setAttribute("tabindex", "0"); next.focus();
  });
}
addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });

/* Colours of a share, from pale to deep blue; readable on both grounds. */
function shade(share) {
  const at = Math.max(0, Math.min(1, share)), from = [222, 235, 247], to = [8, 48, 107];
  return "rgb(" + from.map((one, place) => Math.round(one + at * (to[place] - one))).join(",") + ")";
}

function figure(caption, drawing) {
  roving(drawing);
  return make("figure", {}, drawing, make("figcaption", {}, caption));
}

/* What all names begin with, up to a dot: it is left out of labels. */
function common(names) {
  let start = names.length > 1 ? names[0].slice(0, names[0].lastIndexOf(".") + 1) : "";
  while (start && !names.every(name => name.startsWith(start))) start = start.slice(0, start.slice(0, -1).lastIndexOf(".") + 1);
  return start.length;
}

/* A heat map: rows and columns by name; cells of null stay empty, those with a fill keep it. */
function heat(rows, columns, cells, words, label) {
  const cut = common(rows), wide = 30, high = 18, left = 14 + 7 * Math.max(...rows.map(row => row.length - cut));
  const top = 16 + 5.2 * Math.max(...columns.map(column => column.length));
  const svg = draw("svg", { viewBox: `0 0 ${left + wide * columns.length + 70} ${top + high * rows.length + 4}`, role: "group", "aria-label": label });
  svg.setAttribute("width", left + wide * columns.length + 70); svg.setAttribute("class", "narrow");
  columns.forEach((name, place) => svg.append(draw("text", { transform: `translate(${left + wide * place + 14} ${top - 6}) rotate(-50)` }, name)));
  rows.forEach((name, place) => {
    svg.append(draw("text", { x: left - 6, y: top + high * place + 13, "text-anchor": "end" }, name.slice(cut)));
    columns.forEach((column, at) => {
      const share = cells[place][at];
      if (share === null || share === undefined) return;
      svg.append(tell(draw("rect", { x: left + wide * at, y: top + high * place, width: wide - 2, height: high - 2, rx: 2, fill: share.fill || shade(share.share), stroke: share.edge || "none" }), words(name, column, share)));
    });
  });
  return svg;
}

/* Lines or points on two axes, names at the ends. */
function plot({ title, x, y, lines, log, dots, frontier }) {
  const width = 720, height = 320, left = 66, right = 190, top = 14, bottom = 44;
  const points = lines.flatMap(line => line.points).filter(point => point.every(Number.isFinite) && (!log || point[1] > 0));
  if (!points.length) return null;
  const span = values => { let [low, high] = [Math.min(...values), Math.max(...values)]; if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; } return [low, high]; };
  const scale = log ? Math.log : value => value;
  const [x0, x1] = span(points.map(point => point[0])), [y0, y1] = span(points.map(point => scale(point[1])));
  const pad = (y1 - y0) * 0.06, across = value => left + (value - x0) / (x1 - x0) * (width - left - right);
  const up = value => height - bottom - (scale(value) - y0 + pad) / (y1 - y0 + 2 * pad) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "group", "aria-label": title });
  svg.append(draw("path", { class: "axis", fill: "none", d: `M${left} ${top}V${height - bottom}H${width - right}` }));
  for (let step = 0; step <= 4; step++) {
    const value = x0 + (x1 - x0) * step / 4, level = y0 + (y1 - y0) * step / 4, back = log ? Math.exp(level) : level;
    svg.append(draw("text", { x: across(value), y: height - bottom + 16, "text-anchor": "middle" }, number(+value.toPrecision(3))));
    svg.append(draw("text", { x: left - 8, y: up(back) + 4, "text-anchor": "end" }, number(+back.toPrecision(3))));
  }
  svg.append(draw("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, x));
  svg.append(draw("text", { transform: `translate(14 ${(height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y));
  if (frontier && frontier.length > 1) svg.append(draw("path", { fill: "none", class: "axis", "stroke-width": 2, "stroke-dasharray": "5 4", d: "M" + frontier.map(([a, b]) => `${across(a)} ${up(b)}`).join("L") }));
  const names = [];
  lines.forEach((line, place) => {
    const colour = COLOURS[place % COLOURS.length], own = line.points.filter(point => point.every(Number.isFinite) && (!log || point[1] > 0));
    if (!own.length) return;
    if (!dots) svg.append(draw("path", { fill: "none", stroke: colour, "stroke-width": 2, d: "M" + own.map(([a, b]) => `${across(a)} ${up(b)}`).join("L") }));
    for (const [a, b] of own) svg.append(tell(draw("circle", { cx: across(a), cy: up(b), r: dots ? 6 : 4, fill: colour }), `${line.name}: ${x} ${number(a)}, ${y} ${number(b)}`));
    const [a, b] = own[own.length - 1];
    names.push({ name: line.name, colour, x: dots ? across(a) + 10 : width - right + 8, y: up(b) + 4 });
  });
  names.sort((one, other) => one.y - other.y);
  names.forEach((one, place) => { if (place) one.y = Math.max(one.y, names[place - 1].y + 14); });
  for (const one of names) svg.append(draw("text", { x: one.x, y: one.y, style: `fill:${one.colour};font-weight:600` }, one.name.length > 26 ? one.name.slice(0, 25) + "…" : one.name));
  return svg;
}

function bars(part) {
  const rows = part.rows.slice(0, 60), high = 20, left = 10 + 7 * Math.max(...rows.map(row => row.name.length)), width = 420;
  const most = Math.max(...rows.map(row => Math.abs(row.value))) || 1;
  const svg = draw("svg", { viewBox: `0 0 ${left + width + 90} ${high * rows.length + 4}`, width: left + width + 90, role: "group", "aria-label": part.title });
  rows.forEach((row, place) => {
    const long = Math.max(1, Math.abs(row.value) / most * width);
    svg.append(draw("text", { x: left - 6, y: high * place + 14, "text-anchor": "end" }, row.name));
    svg.append(tell(draw("rect", { x: left, y: high * place + 2, width: long, height: high - 5, fill: COLOURS[0] }), `${row.name}: ${number(row.value)} ${part.unit}`));
    svg.append(draw("text", { x: left + long + 6, y: high * place + 14 }, number(row.value)));
  });
  return svg;
}

/* A table that sorts by its heads and filters by words. */
function table(columns, rows, label) {
  const body = make("tbody"), head = make("tr"), filter = make("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${label}` });
  let order = null, down = false;
  const show = () => {
    const words = filter.value.toLowerCase();
    const shown = rows.filter(row => columns.some(column => String(row[column.key] ?? "").toLowerCase().includes(words)));
    if (order) shown.sort((one, other) => {
      const [a, b] = [one[order], other[order]];
      const way = typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en", { numeric: true });
      return down ? -way : way;
    });
    body.replaceChildren(...shown.map(row => make("tr", {}, ...columns.map(column => make("td", column.text ? {} : { class: "n" }, number(row[column.key]))))));
  };
  for (const column of columns) {
    const button = make("button", { type: "button" }, column.label), cell = make("th", { scope: "col", ...(column.text ? {} : { class: "n" }) }, button);
    button.addEventListener("click", () => {
      down = order === column.key ? !down : false; order = column.key;
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending"); show();
    });
    head.append(cell);
  }
  filter.addEventListener("input", show); show();
  const whole = make("table", {}, make("caption", { class: "soft" }, label), make("thead", {}, head), body);
  return make("div", {}, filter, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, whole));
}

function tiles(run) {
  const list = make("ul", { class: "tiles" });
  for (const pair of run.pairs) {
    const change = pair.before ? (pair.after / pair.before - 1) * 100 : 0, better = pair.better === "lower" ? change < 0 : change > 0;
    const words = `${number(pair.before)} → ${number(pair.after)}`;
    const tone = !pair.better || Math.abs(change) < 0.05 ? "soft" : better ? "good" : "bad";
    list.append(make("li", {}, pair.label + (pair.unit ? `, ${pair.unit}` : ""), make("strong", {}, words), make("span", { class: tone }, `${change > 0 ? "+" : ""}${change.toFixed(1)}%`)));
  }
  for (const fact of run.facts) list.append(make("li", {}, fact.label, make("strong", {}, `${number(fact.value)} ${fact.unit}`)));
  return list;
}

function layers(run, section) {
  if (!run.layers.length) return;
  const blocks = [...new Set(run.layers.map(layer => layer.block))], kinds = [...new Set(run.layers.map(layer => layer.kind))];
  const at = new Map(run.layers.map(layer => [layer.block + "\n" + layer.kind, layer]));
  const cells = key => { const most = key === "sparsity" ? 1 : Math.max(...run.layers.map(layer => layer[key] || 0)) || 1;
    return blocks.map(block => kinds.map(kind => { const layer = at.get(block + "\n" + kind); return layer && layer[key] !== null ? { share: layer[key] / most, value: layer[key] } : null; })); };
  section.append(make("h3", {}, "Share removed, by block and matrix"));
  section.append(figure("Darker is more. Move over a cell, or tab to it, for its value.", heat(blocks, kinds, cells("sparsity"), (row, column, cell) => `${row}.${column}: ${number(100 * cell.value)}% removed`, "share removed")));
  const losses = run.layers.filter(layer => layer.loss !== null && layer.loss !== undefined);
  if (losses.length) {
    const lines = kinds.map(kind => ({ name: kind, points: losses.filter(layer => layer.kind === kind).map(layer => [blocks.indexOf(layer.block), layer.loss]) }));
    section.append(make("h3", {}, "Loss of each layer"), figure("Squared error of a layer's outputs, a token. Logarithmic.", plot({ title: "loss of each layer", x: "block", y: "loss a token", lines, log: true })));
  }
  section.append(make("h3", {}, "Layers"), table([
    { key: "name", label: "layer", text: true }, { key: "ratio", label: "ratio asked" }, { key: "sparsity", label: "removed" },
    { key: "loss", label: "loss" }, { key: "weights", label: "weights" }, { key: "seconds", label: "seconds" }], run.layers, `layers of ${run.name}`));
}

function heads(run, section) {
  if (run.heads.length) {
    const widest = Math.max(...run.heads.map(row => row.count)), columns = Array.from({ length: widest }, (_, place) => String(place));
    const cells = run.heads.map(row => columns.map((_, place) => place < row.count ? { fill: row.kept.includes(place) ? COLOURS[0] : "transparent", edge: COLOURS[0], kept: row.kept.includes(place) } : null));
    section.append(make("h3", {}, "Heads"), figure("Filled heads were kept, empty ones removed.", heat(run.heads.map(row => row.name), columns, cells, (row, column, cell) => `${row} head ${column}: ${cell.kept ? "kept" : "removed"}`, "heads")));
  }
  if (run.scores) {
    const rows = run.scores.rows, most = Math.max(...rows.flatMap(row => row.values.map(Math.abs))) || 1;
    const columns = Array.from({ length: Math.max(...rows.map(row => row.values.length)) }, (_, place) => String(place));
    const cells = rows.map(row => columns.map((_, place) => place < row.values.length ? { share: Math.abs(row.values[place]) / most, value: row.values[place] } : null));
    section.append(make("h3", {}, `Heads: ${run.scores.title}`), figure("Darker is larger.", heat(rows.map(row => row.name), columns, cells, (row, column, cell) => `${row} head ${column}: ${number(cell.value)}`, run.scores.title)));
  }
}

/* Quality against size or time, where several runs were measured alike. */
function compare() {
  const section = make("section", { id: "compare" }, make("h2", {}, "All runs"));
  const rows = runs.map(run => ({ name: run.name, kind: run.kind, model: run.model, ...Object.fromEntries([...run.pairs.map(pair => [pair.label, pair.after]), ...run.facts.map(fact => [fact.label, fact.value])]) }));
  const labels = [...new Set(runs.flatMap(run => [...run.pairs, ...run.facts].map(part => part.label)))];
  const quality = ["held-out perplexity", "perplexity", "top-1", "accuracy", "BLEU", "error", "held-out loss"].filter(label => rows.filter(row => label in row).length > 1);
  const sizes = ["size", "multiply-accumulates", "cost of a prediction", "block weights removed", "time"];
  for (const model of new Set(rows.map(row => row.model))) for (const label of quality) for (const size of sizes) {
    const known = rows.filter(row => row.model === model && label in row && size in row);
    if (new Set(known.map(row => row[size])).size < 2) continue;
    const better = runs.flatMap(run => run.pairs).find(pair => pair.label === label)?.better || "lower", more = size === "block weights removed";
    const beats = (one, other) => (more ? one[size] >= other[size] : one[size] <= other[size]) && (better === "higher" ? one[label] >= other[label] : one[label] <= other[label]) && (one[size] !== other[size] || one[label] !== other[label]);
    const best = known.filter(row => !known.some(other => beats(other, row))).sort((one, other) => one[size] - other[size]);
    const frontier = best.map(row => [row[size], row[label]]), lines = known.map(row => ({ name: row.name, points: [[row[size], row[label]]] }));
    section.append(make("h3", {}, `${label} against ${size}` + (model ? `, ${model}` : "")), figure("A point a run. The dashed line joins runs that no other run beats in both.", plot({ frontier, title: `${label} against ${size}`, x: size, y: label, dots: true, log: label.includes("perplexity"), lines })));
  }
  section.append(table([{ key: "name", label: "run", text: true }, { key: "kind", label: "kind", text: true }, ...labels.map(label => ({ key: label, label }))], rows, "all runs"));
  return section;
}

function show(run, place) {
  const section = make("section", { class: "run", id: `run-${place}` }, make("h2", {}, run.name));
  section.append(make("p", { class: "soft" }, `${run.kind}${run.model ? ` of ${run.model}` : ""}, in ${run.folder}`), tiles(run));
  for (const curve of run.curves) { const drawn = plot({ ...curve, title: curve.title }); if (drawn) section.append(make("h3", {}, curve.title), figure(`${curve.y} against ${curve.x}`, drawn)); }
  heads(run, section);
  for (const part of run.bars) section.append(make("h3", {}, part.title), figure(part.unit, bars(part)));
  layers(run, section);
  if (run.recipe) section.append(make("h3", {}, "Recipe to repeat it"), make("p", { class: "soft" }, "Save as recipe.yaml and run: secateur run recipe.yaml --out again"), make("pre", { tabindex: "0" }, run.recipe));
  const versions = Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  if (versions) section.append(make("p", { class: "soft" }, `Environment: ${versions}`));
  return section;
}

const list = make("ul");
main.replaceChildren();
if (runs.length > 1) { main.append(compare()); list.append(make("li", {}, make("a", { href: "#compare" }, "All runs"))); }
runs.forEach((run, place) => { main.append(show(run, place)); list.append(make("li", {}, make("a", { href: `#run-${place}` }, run.name))); });
if (runs.length > 1) document.getElementById("contents").append(list); else document.getElementById("contents").remove();
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
