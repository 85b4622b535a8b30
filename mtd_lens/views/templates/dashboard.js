// Draws the page from the data in #data. Attention arrives as 16-bit numbers, base64, only on and
// below the diagonal; every other value as JSON. CircuitsVis draws the patterns.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const LEVELS = 32767, UNDEFINED = -32768; // of a value from 0 to 1; for "not defined"
const BLUE = "#0072b2", ORANGE = "#d55e00";
const MAX_LABEL = 8; // characters of a token's name beside a pattern
const WINDOW = 96; // positions that a pattern is drawn for; more are slow, and too small to see
const state = { first: 0, sequence: 0, layer: 0, head: 0, pattern: 0, query: DATA.length - 1 };
const find = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------- the numbers

const triangle = (DATA.length * (DATA.length + 1)) / 2;
const decoded = new Map();

function numbers(text) {
  if (!decoded.has(text)) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    decoded.set(text, new Int16Array(bytes.buffer));
  }
  return decoded.get(text);
}

/** Map number `index` of a packed text: a row for each query, with its keys up to the query. */
function unpack(text, index) {
  const packed = numbers(text);
  const rows = [];
  for (let query = 0, at = index * triangle; query < DATA.length; query++) {
    const row = [];
    for (let key = 0; key <= query; key++, at++) {
      row.push(packed[at] === UNDEFINED ? NaN : packed[at] / LEVELS);
    }
    rows.push(row);
  }
  return rows;
}

/** Attention of a head; head number `n_heads` is, at each query, the one nearest to the pattern. */
function attention(layer, head, pattern = state.pattern) {
  const text = DATA.attention[state.sequence];
  const one = (h) => unpack(text, layer * DATA.n_heads + h);
  if (head < DATA.n_heads) return one(head);
  const heads = [...Array(DATA.n_heads).keys()].map(one);
  return DATA.patterns[pattern].nearest[layer].map((h, query) => heads[h][query]);
}

const analytic = (pattern) => unpack(DATA.analytic[state.sequence], pattern);
const finite = (row) => row.every(Number.isFinite);
const peak = (row) => Math.max(...row.map(Math.abs));

/** Where full colour starts: the median over queries of the largest magnitude, of both maps. */
function scaleOf(...maps) {
  const peaks = maps.map((map) => {
    const largest = map.filter(finite).map(peak).sort((a, b) => a - b);
    return largest[Math.floor(largest.length / 2)] ?? 1;
  });
  return Math.max(...peaks, 1e-3);
}

/** What a row leaves of 1: attention to what a vocabulary puts before the sequence, if anything. */
const before = (row) =>
  DATA.n_before ? Math.max(0, row.reduce((rest, value) => rest - Math.abs(value), 1)) : 0;

/** Mean total variation between two maps over the queries where both are defined. */
function distance(a, b) {
  let sum = 0, n = 0;
  a.forEach((row, query) => {
    if (!finite(b[query])) return;
    sum += row.reduce((total, value, key) => total + Math.abs(value - b[query][key]), before(row)) / 2;
    n += 1;
  });
  return n ? sum / n : NaN;
}

// ------------------------------------------------------------------------------------ CircuitsVis

const charts = {};

/** Name the axes and cells of an AttentionPattern's chart, and keep it, to be freed when replaced. */
function adopt(element, id, first, names) {
  if (!element || typeof element !== "object") return;
  if (element.props?.type !== "matrix") {
    [].concat(element.props?.children ?? []).forEach((child) => adopt(child, id, first, names));
    return;
  }
  element.ref = (chart) => { if (chart) charts[id] = chart; };
  const { scales, plugins } = element.props.options;
  const label = (index) => `${shortened(names[index])} (${first + index})`;
  scales.x.title.text = "key: token (position)";
  scales.y.title.text = "query: token (position)";
  scales.x.ticks.callback = (index) => label(index);
  scales.y.ticks.callback = (index) => label(names.length - 1 - index); // drawn downwards
  plugins.tooltip.callbacks.label = ({ raw }) => [
    `query ${label(raw.destIdx)}`, `key ${label(raw.srcIdx)}`, `value ${raw.v}`,
  ];
}

/** Put a CircuitsVis view in place of what stands in the box of this id. */
function view(id, component, props) {
  const holder = document.createElement("div");
  holder.id = `${id}-view`;
  charts[id]?.destroy();
  delete charts[id];
  find(id).replaceChildren(holder);
  CircuitsVis.render(holder.id, component, props);
}

/** Blank names would not be seen. */
const readable = (text) => (text.trim() ? text : JSON.stringify(text));
const nameOf = (token) => readable(DATA.names[token]);
const shownNames = () => DATA.tokens[state.sequence].map(nameOf);
/** Vectors are hard to tell apart, and have their positions beside them. */
const placed = (text, position) => (DATA.vectors ? `${position}: ${text}` : text);
const asHtml = (text) =>
  text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`); // ColoredTokens takes HTML

function shortened(text) {
  const characters = [...text];
  return characters.length > MAX_LABEL ? `${characters.slice(0, MAX_LABEL - 1).join("")}…` : text;
}

/** A row with holes where a cell would be white, which the chart then need not hold. */
function visible(row, limit) {
  const cells = new Array(row.length);
  row.forEach((value, key) => {
    if (Math.abs(value) >= limit / 256) cells[key] = Number(value.toFixed(4));
  });
  return cells;
}

function drawPattern(id, map, limit) {
  const { first } = state;
  const names = shownNames().slice(first, first + WINDOW);
  const component = (props) => {
    const element = CircuitsVis.AttentionPattern(props);
    adopt(element, id, first, names);
    return element;
  };
  const rows = map
    .slice(first, first + WINDOW)
    .map((row) => visible(row.slice(first, first + WINDOW), limit));
  rows[0][0] ??= 0; // a chart must hold something
  view(id, component, {
    attention: rows,
    tokens: names.map(String),
    minValue: -limit,
    maxValue: limit,
    positiveColor: BLUE,
    negativeColor: ORANGE,
    maskUpperTri: false,
  });
}

function drawTokens(id, row, limit) {
  view(id, CircuitsVis.ColoredTokens, {
    tokens: shownNames().slice(0, row.length).map(placed).map(asHtml),
    values: row.map((value) => Number(value.toFixed(4))),
    minValue: -limit,
    maxValue: limit,
    positiveColor: BLUE,
    negativeColor: ORANGE,
    paddingBottom: 0,
  });
}

// --------------------------------------------------------------------------------- small pictures

function thumbnail(map, limit) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = DATA.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(DATA.length, DATA.length);
  map.forEach((row, query) => row.forEach((value, key) => {
    const share = Math.min(Math.abs(value) / limit, 1);
    const full = value < 0 ? [213, 94, 0] : [0, 114, 178]; // ORANGE, BLUE
    const colour = full.map((channel) => 255 + (channel - 255) * share);
    image.data.set([...colour, 255], 4 * (query * DATA.length + key));
  }));
  context.putImageData(image, 0, 0);
  return canvas;
}

const headName = (layer, head) =>
  head < DATA.n_heads ? `L${layer}H${head}` : `L${layer} nearest`;
const nColumns = () => DATA.n_heads + (DATA.patterns.length && DATA.n_heads > 1 ? 1 : 0);

function drawGrid() {
  const grid = find("heads");
  grid.style.setProperty("--columns", nColumns());
  const buttons = [];
  for (let layer = 0; layer < DATA.n_layers; layer++) {
    for (let head = 0; head < nColumns(); head++) {
      const map = attention(layer, head, head < DATA.n_heads ? 0 : DATA.defaults[layer]);
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.layer = layer;
      button.dataset.head = head;
      button.setAttribute("aria-pressed", layer === state.layer && head === state.head);
      button.append(thumbnail(map, scaleOf(map)), headName(layer, head));
      button.onclick = () => choose(layer, head);
      buttons.push(button);
    }
  }
  grid.replaceChildren(...buttons);
}

const MOVES = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

function moveInGrid(event) {
  const move = MOVES[event.key];
  if (!move) return;
  event.preventDefault();
  const layer = (state.layer + move[0] + DATA.n_layers) % DATA.n_layers;
  const head = (state.head + move[1] + nColumns()) % nColumns();
  choose(layer, head);
  find("heads").querySelector('[aria-pressed="true"]').focus();
}

// ------------------------------------------------------------------------------------- the panels

/** The colours of all maps, from the ends on full. */
function drawBar(limit, signed) {
  const end = limit.toPrecision(2);
  find("bar").style.background =
    `linear-gradient(90deg, ${signed ? `${ORANGE}, ` : ""}#fff, ${BLUE})`;
  find("bar-low").textContent = signed ? `−${end} and below` : "0";
  find("bar-middle").textContent = signed ? "0" : "attention";
  find("bar-high").textContent = `${end} and above`;
}

function drawPatterns() {
  const map = attention(state.layer, state.head);
  const name = headName(state.layer, state.head);
  find("model-title").textContent = `Model: ${name}`;
  if (!DATA.patterns.length) {
    const limit = scaleOf(map);
    drawPattern("model-map", map, limit);
    drawBar(limit, map.flat().some((value) => value < 0));
    return;
  }
  const target = analytic(state.pattern);
  const limit = scaleOf(map, target);
  const difference = map.map((row, query) => row.map((v, key) => v - target[query][key]));
  find("analytic-title").textContent = `Algorithm: ${DATA.patterns[state.pattern].name}`;
  drawPattern("model-map", map, limit);
  drawPattern("analytic-map", target, limit);
  drawPattern("difference-map", difference, limit);
  drawBar(limit, true); // differences have both signs
  const far = distance(map, target);
  const cut = state.first ? ` Keys before position ${state.first} are only in the rows below.` : "";
  find("scale").textContent =
    `Total variation between ${name} and the algorithm's ${DATA.patterns[state.pattern].name}: ` +
    `${far.toFixed(3)} on average over queries (0: the same, 1: no key in common${DATA.vectors ? " with the same sign" : ""}).${cut}`;
}

function drawQuery() {
  const { query } = state;
  const token = nameOf(DATA.tokens[state.sequence][query]);
  find("query-value").textContent = `position ${query}, token ${token}`;
  const rows = [["model-row", attention(state.layer, state.head)[query]]];
  if (DATA.patterns.length) rows.push(["analytic-row", analytic(state.pattern)[query]]);
  const limit = Math.max(1e-3, ...rows.map(([, row]) => row).filter(finite).map(peak));
  for (const [id, row] of rows) {
    if (finite(row)) drawTokens(id, row, limit);
    else find(id).textContent = "The algorithm says nothing here: it has no evidence yet.";
  }
  if (DATA.sources) {
    if (DATA.latents) drawTable("latent-table", DATA.components, DATA.latents);
    drawTable("prediction-table", DATA.outcomes.map(readable), DATA.predictions);
  }
}

/** Text in an SVG element of this kind. */
function svg(kind, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.textContent = text;
  return element;
}

/** Bars of what the chosen head scores keys by at the last query, and the fitted form's line. */
function drawScores() {
  if (!DATA.scores) return;
  const { layer, head, sequence } = state;
  const chart = find("scores-chart");
  if (head === DATA.n_heads) {
    chart.replaceChildren();
    find("scores-words").textContent = "Choose a single head.";
    return;
  }
  const { keys } = DATA.scores;
  const [measured, fitted] = ["measured", "fitted"].map((kind) => DATA.scores[kind][layer][head][sequence]);
  const explained = DATA.scores.explained[layer][head];
  const most = Math.max(1e-9, ...measured.map(Math.abs), ...fitted.map(Math.abs));
  const [width, height, left] = [900, 190, 40];
  const step = (width - left) / keys.length;
  const y = (value) => 80 - (70 * value) / most;
  const x = (index) => left + step * (index + 0.5);
  const name = `Scores of ${headName(layer, head)} at the last query, and the fitted form's`;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  picture.append(svg("line", { class: "axis", x1: left, x2: width, y1: y(0), y2: y(0) }));
  for (const value of [most, 0, -most]) {
    const label = value ? value.toPrecision(2).replace("-", "−") : "0";
    picture.append(svg("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const each = Math.ceil(16 / step);
  keys.forEach((key, index) => {
    const size = { width: step * 0.7, height: Math.abs(y(measured[index]) - y(0)) };
    const at = { x: x(index) - step * 0.35, y: Math.min(y(0), y(measured[index])) };
    const bar = svg("rect", { class: "measured", ...at, ...size });
    bar.append(svg("title", {}, `key ${key}: ${measured[index]}, fitted ${fitted[index]}`));
    picture.append(bar);
    if (index % each) return;
    const token = shortened(nameOf(DATA.tokens[sequence][key]));
    picture.append(svg("text", { x: x(index), y: 168, "text-anchor": "middle" }, token));
    picture.append(svg("text", { x: x(index), y: 184, "text-anchor": "middle" }, key));
  });
  const points = fitted.map((value, index) => `${x(index)},${y(value)}`).join(" ");
  picture.append(svg("polyline", { class: "fitted", points }));
  chart.replaceChildren(picture);
  find("scores-words").textContent =
    `${headName(layer, head)}: bars are its scores by key (token, position), the orange line is the fitted form's. ` +
    (explained === null ? "Its scores do not vary." : `R² on other sequences: ${explained.toFixed(2)}.`);
}

/** Tokens as text, those of the query itself marked. */
function drawPlain(id, tokens) {
  const first = tokens.length - DATA.given.n_own;
  const own = document.createElement("mark");
  own.textContent = tokens.slice(first).map(nameOf).join(" ");
  find(id).replaceChildren(`${tokens.slice(0, first).map(nameOf).join(" ")} `, own);
}

function drawGiven() {
  if (!DATA.given) return;
  drawPlain("given-sequence", DATA.tokens[state.sequence]);
  drawPlain("given-source", DATA.given.sources[state.sequence]);
  const { predictions, outcomes } = DATA.given;
  const rows = Object.entries(predictions).map(([name, values]) => [name, values[state.sequence]]);
  fillTable("given-table", outcomes.map(readable), rows);
}

/** A row for each source, a column for each entry, at the query. */
function drawTable(id, columns, values) {
  const known = DATA.sources.filter((source) => values[source]);
  const at = (source) => values[source][state.sequence][state.query];
  fillTable(id, columns, known.map((source) => [source, at(source)]));
}

/** A table of named rows; probabilities are shaded. */
function fillTable(id, columns, rows) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const text of ["", ...columns]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const [title, values] of rows) {
    const row = body.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = title;
    row.append(name);
    for (const value of values) {
      const cell = row.insertCell();
      cell.textContent = value === null ? "–" : value.toFixed(3);
      if (!DATA.vectors) cell.style.setProperty("--share", `${100 * (value ?? 0)}%`);
    }
  }
  find(id).replaceChildren(table);
}

function drawFigures() {
  document.querySelectorAll("[data-sequence]").forEach((figure) => {
    figure.hidden = Number(figure.dataset.sequence) !== state.sequence;
  });
}

// ----------------------------------------------------------------------------------- what is shown

function drawAttention() {
  find("heads").querySelectorAll("button").forEach((button) => {
    const here = Number(button.dataset.layer) === state.layer &&
      Number(button.dataset.head) === state.head;
    button.setAttribute("aria-pressed", here);
  });
  if (DATA.patterns.length) find("pattern").value = state.pattern;
  drawPatterns();
  drawQuery();
  drawScores();
}

function choose(layer, head) {
  if (layer !== state.layer && DATA.patterns.length) state.pattern = DATA.defaults[layer];
  state.layer = layer;
  state.head = head;
  drawAttention();
}

function drawSequence() {
  find("sequence").value = state.sequence;
  drawGrid();
  drawAttention();
  drawGiven();
  drawFigures();
}

/** Where the context is longer than a pattern can show, let the part be chosen; the last at first. */
function startWindows() {
  const select = find("window");
  const last = Math.max(DATA.length - WINDOW, 0);
  select.parentElement.hidden = last === 0;
  for (let first = 0; ; first = Math.min(first + WINDOW, last)) {
    const end = Math.min(first + WINDOW, DATA.length) - 1;
    select.add(new Option(`${first} to ${end}`, first));
    if (first === last) break;
  }
  select.value = state.first = last;
  select.onchange = (event) => {
    state.first = Number(event.target.value);
    drawPatterns();
  };
}

function start() {
  [state.layer, state.head, state.pattern] = DATA.opening;
  find("sequence").onchange = (event) => {
    state.sequence = Number(event.target.value);
    drawSequence();
  };
  if (DATA.patterns.length) {
    find("pattern").onchange = (event) => {
      state.pattern = Number(event.target.value);
      drawAttention();
    };
  }
  startWindows();
  find("query").oninput = (event) => {
    state.query = Number(event.target.value);
    drawQuery();
  };
  find("heads").onkeydown = moveInGrid;
  find("theme").onclick = () => {
    const root = document.documentElement;
    const dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  };
  drawSequence();
}

start();
