// The page: its settings are its address; every change asks the server for the numbers and draws them.

import { GridLine, curves, shown } from "./figures.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["spectrum", "eigenvalues", "solver", "steps", "objective", "path", "sigma_min", "sigma_max", "start_level", "start", "noise_floor", "final"];
const RESHAPING = new Set(["steps", "path", "sigma_min", "sigma_max", "start_level", "final"]);
const DEFAULTS = { eigenvalues: "auto", solver: "ddim", steps: "6", objective: "w2", path: "", start: "marginal", final: "zero" };
const WELL_KNOWN = ["karras", "exponential", "ays_sd15"];
const MOST_COMPARED = 6;
const SOLVERS = {
  ddim: "DDIM (= Euler)", euler: "Euler (= DDIM)", heun: "Heun", dpm_2: "DPM 2", dpmpp_2m: "DPM++ 2M", dpmpp_3m: "DPM++ 3M", dpmpp_2s: "DPM++ 2S",
  ipndm2: "iPNDM, order 2", ipndm3: "iPNDM, order 3", ipndm4: "iPNDM, order 4", unipc2: "UniPC, order 2", unipc3: "UniPC, order 3", deis2: "DEIS, order 2",
  deis3: "DEIS, order 3", euler_ancestral: "Euler ancestral", ddim_eta: "DDIM, η = 1", dpmpp_2m_sde: "DPM++ 2M SDE",
};
const OBJECTIVES = {
  w2: ["squared Wasserstein distance", "squared W₂", "Squared 2-Wasserstein distance of the samples from the data: how far off they are, coarse structure first."],
  kl: ["KL(data ‖ samples)", "KL, nats", "KL(data ‖ samples), in nats: every lost detail counts, however small; set a noise floor with it."],
  reverse_kl: ["KL(samples ‖ data)", "KL, nats", "KL(samples ‖ data), in nats: what the samples show that the data never would."],
  local: ["local error", "local error", "Sum of squared errors of single steps: what each step does wrong by itself, without errors that cancel by luck."],
  blend: ["W₂² + local/5", "blend of both", "Squared Wasserstein distance and a fifth of the local error: what cancels between steps counts, but no step may rely on it."],
};
const FORMATS = { diffusers: "diffusers", comfyui: "ComfyUI", "k-diffusion": "k-diffusion", webui: "A1111, Forge", "sd.cpp": "sd.cpp", text: "text", json: "JSON", python: "Python" };
const FORMAT_HINTS = { diffusers: "A scheduler of diffusers that walks these levels.", json: "Everything this page knows of the grid.", python: "The calls of eigenstep that give this grid and its error." };

let options = null;
let answer = null;
let moved = null;
let compare = WELL_KNOWN.slice();
let format = "diffusers";
let columns = { key: null, found: new Map() };

// ---------------------------------------------------------------- the server

class Refusal extends Error {}
class Silence extends Error {}

async function ask(address, init) {
  let response;
  try {
    response = await fetch(address, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Silence();
  }
  const body = response.headers.get("content-type")?.includes("json") ? await response.json() : await response.text();
  if (!response.ok) throw new Refusal(body.error || `The server refused this (${response.status}).`);
  return body;
}

function tell(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Silence) {
    say("The server does not answer: it may have been stopped. Start `eigenstep explore` again; this page keeps your settings.");
    wake();
  } else if (error instanceof Refusal) {
    say(error.message);
  } else {
    say(`The page itself failed (${error.message}); please report it.`);
    throw error;
  }
}

let waking = false;
async function wake() {
  if (waking) return;
  waking = true;
  for (;;) {
    await new Promise((done) => setTimeout(done, 1500));
    try {
      await ask("/api/options");
      break;
    } catch { /* still asleep */ }
  }
  waking = false;
  if (options === null) await begin();
  else update();
}

function say(words) {
  const message = $("message-words");
  $("message").hidden = !words;
  message.replaceChildren();
  const sentence = words.charAt(0).toUpperCase() + words.slice(1);
  sentence.split("`").forEach((part, k) => {
    if (k % 2) {
      const code = document.createElement("code");
      code.textContent = part;
      message.append(code);
    } else {
      message.append(part);
    }
  });
  for (const name of [...FIELDS, "folder", "size"]) $(name).removeAttribute("aria-invalid");
  const field = words.match(/^`(\w+)`/)?.[1];
  if (field && (FIELDS.includes(field) || field === "folder" || field === "size")) {
    $(field).setAttribute("aria-invalid", "true");
    const around = $(field).closest("details");
    if (around) around.open = true;
  }
}

// ---------------------------------------------------------------- the address

function query({ withMoved = true, withCompare = true } = {}) {
  const asked = new URLSearchParams();
  for (const name of FIELDS) {
    const value = $(name).value.trim();
    if (value && value !== DEFAULTS[name]) asked.set(name, value);
  }
  if (withCompare && compare.join() !== WELL_KNOWN.join()) asked.set("compare", compare.join() || "none");
  if (withMoved && moved) asked.set("sigmas", moved.join());
  return asked;
}

function remember() {
  const asked = query();
  if (format !== "diffusers") asked.set("format", format);
  history.replaceState(null, "", `${location.pathname}?${asked.toString().replaceAll("%2C", ",")}`);
}

function recall() {
  const asked = new URLSearchParams(location.search);
  for (const name of FIELDS) {
    const value = asked.get(name);
    const field = $(name);
    if (value === null) {
      field.value = name === "spectrum" ? options.first : DEFAULTS[name] ?? "";
      continue;
    }
    if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) field.append(new Option(value, value));
    field.value = value;
  }
  const named = asked.get("compare");
  compare = named === null ? WELL_KNOWN.slice() : named === "none" ? [] : named.split(",");
  moved = asked.get("sigmas")?.split(",").map(Number) ?? null;
  format = FORMATS[asked.get("format")] ? asked.get("format") : "diffusers";
  if (["path", "sigma_min", "sigma_max", "start_level", "start", "noise_floor", "final", "eigenvalues"].some((name) => asked.has(name))) $("more").open = true;
}

// ---------------------------------------------------------------- updates

let running = false;
let again = false;
let searching = 0;
let pause = 60;

/** Ask and draw; while an answer is under way, only the last change counts. */
async function update() {
  pause = 60;
  $("result").setAttribute("aria-busy", "true");
  remember();
  await refresh();
}

async function refresh() {
  if (running) {
    again = true;
    return;
  }
  running = true;
  clearTimeout(searching);
  do {
    again = false;
    const asked = query();
    try {
      answer = await ask(`/api/view?${asked}`);
      say("");
      draw();
    } catch (error) {
      if (!again) tell(error);
    }
  } while (again);
  running = false;
  if (answer && $("message").hidden) {
    if (answer.optimum === null) {
      searching = setTimeout(refresh, pause);
      pause = Math.min(1000, 1.5 * pause);
    } else {
      $("result").setAttribute("aria-busy", "false");
    }
    if (line.held === null) {
      snippet();
      lookAtNetwork();
      lookAtInterval();
      if (answer.optimum !== null) column();
    }
  } else {
    $("result").setAttribute("aria-busy", "false");
  }
}

function draw() {
  const { ours, optimum, hand, spectrum, state } = answer;
  const objective = $("objective").value;
  $("result").classList.toggle("waiting", optimum === null);
  $("steps-shown").textContent = state.steps;
  $("calls").textContent = state.nfe === state.steps ? "" : `; with this solver ${state.nfe} network calls`;
  $("sigma_max").placeholder = shown(state.sigma_max, 5);
  $("sigma_min").placeholder = shown(state.sigma_min, 4);
  $("start_level").placeholder = `${shown(state.sigma_max, 5)}: the highest`;
  $("objective-hint").textContent = OBJECTIVES[objective][2];
  $("eigenvalues-reason").textContent = spectrum.reason;
  $("data-line").textContent = aboutData(spectrum);
  $("snap").disabled = moved === null;
  drawVerdict(ours, optimum, hand, objective);
  drawGrid();
  drawHand(ours, optimum, hand, objective);
  drawFigures();
  drawLevels();
}

function aboutData(spectrum) {
  const shape = spectrum.item_shape?.length > 1 ? `${spectrum.item_shape.join(" × ")}, ` : "";
  const samples = spectrum.n_samples === null ? "" : `, from ${spectrum.n_samples.toLocaleString("en")} items`;
  return `${$("spectrum").value}: ${shape}${spectrum.dim.toLocaleString("en")} dimensions of which about ${shown(spectrum.effective_rank, 3)} carry most${samples}`;
}

function figure(title, value, words, kind) {
  const box = document.createElement("div");
  box.className = kind;
  const number = document.createElement("b");
  number.textContent = shown(value, 4);
  number.dataset.value = value;
  box.append(title, number, words);
  return box;
}

function drawVerdict(ours, optimum, hand, objective) {
  const share = ours.share === null || objective !== "w2" ? "" : `${shown(100 * ours.share, 3)} % of the variance`;
  const times = (ratio) => (ratio === null ? "" : `${shown(ratio, 4)} × the optimum`);
  const boxes = [];
  if (ours.origin === "guess") boxes.push(figure("first guess", ours.value, "searching the optimum…", "guess"));
  if (ours.origin === "moved") boxes.push(figure("your levels", ours.value, times(ours.ratio), "moved"));
  if (optimum) boxes.push(figure("optimum", optimum.value, ours.origin === "moved" ? "" : share, "ours"));
  const best = hand[0];
  if (best) boxes.push(figure(`best by hand: ${best.name}`, best.value, times(best.ratio), "hand"));
  $("verdict").replaceChildren(...boxes);
  if (optimum && !optimum.converged) $("verdict").title = optimum.message;
  else $("verdict").removeAttribute("title");
}

function styleOf(name) {
  return compare.indexOf(name);
}

function comparedRows() {
  return answer.hand.filter((row) => compare.includes(row.name)).sort((a, b) => styleOf(a.name) - styleOf(b.name));
}

function oursName() {
  return { optimum: "optimum", guess: "first guess", moved: "your levels" }[answer.ours.origin];
}

function drawGrid() {
  const { ours, optimum, state } = answer;
  const rows = comparedRows().map((row) => ({ name: row.name, style: styleOf(row.name), sigmas: row.sigmas }));
  // While a level moves, the hand knows better than an answer that is already old.
  const sigmas = moved?.length === ours.sigmas.length ? moved : ours.sigmas;
  const positive = [sigmas, ...rows.map((row) => row.sigmas)].flat().filter((sigma) => sigma > 0);
  const low = state.sigma_min > 0 ? state.sigma_min : Math.min(...positive) / 2;
  line.draw({
    name: oursName(), sigmas, rows, floor: state.sigma_min, range: [Math.min(low, ...positive), Math.max(state.sigma_max, ...positive)],
    optimum: moved && optimum ? optimum.sigmas : null, best: optimum ? optimum.sigmas : null,
    words: `error ${shown(ours.value, 4)}${ours.ratio === null ? "" : `, ${shown(ours.ratio, 4)} times the optimum`}`,
  });
}

const handRows = new Map();

function handRow(name) {
  if (handRows.has(name)) return handRows.get(name);
  const row = document.createElement("tr");
  const law = options.laws[name];
  const cells = [document.createElement("td"), document.createElement("td"), document.createElement("td")];
  cells[1].className = cells[2].className = "num";
  if (law) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.name = name;
    box.addEventListener("change", () => {
      if (box.checked && compare.length >= MOST_COMPARED) {
        box.checked = false;
        say(`Six grids are as many as colours can tell apart: untick one before you tick ${name}.`);
        return;
      }
      compare = box.checked ? [...compare, name] : compare.filter((other) => other !== name);
      update();
    });
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    const words = document.createElement("span");
    // A long name may break after its underscores.
    name.split(/(?<=_)/).forEach((part, k) => words.append(...(k ? [document.createElement("wbr"), part] : [part])));
    label.append(box, swatch, words);
    label.title = [law.source, law.note].filter(Boolean).join("; ");
    cells[0].append(label);
  } else {
    row.className = "mine";
    cells[0].textContent = name;
  }
  row.append(...cells);
  handRows.set(name, row);
  return row;
}

function drawHand(ours, optimum, hand, objective) {
  $("error-name").textContent = OBJECTIVES[objective][1];
  const rows = [];
  if (optimum) rows.push({ name: "optimum", value: optimum.value, ratio: 1 });
  if (ours.origin !== "optimum") rows.push({ name: oursName(), value: ours.value, ratio: ours.ratio });
  rows.push(...hand);
  const size = (value) => (value === null ? Infinity : value);
  rows.sort((a, b) => size(a.value) - size(b.value));
  const elements = rows.map(({ name, value, ratio }) => {
    const row = handRow(name);
    row.children[1].textContent = shown(value, 4);
    row.children[1].dataset.value = value;
    row.children[2].textContent = ratio === null ? "" : shown(ratio, 3);
    const box = row.querySelector("input");
    if (box) {
      const style = styleOf(name);
      box.checked = style >= 0;
      row.querySelector(".swatch").className = style >= 0 ? `swatch b-${style}` : "swatch";
    }
    return row;
  });
  const body = $("hand").tBodies[0];
  const same = body.children.length === elements.length && elements.every((row, k) => row === body.children[k]);
  if (!same) body.replaceChildren(...elements);
  const missing = answer.missing.length ? ` No grid of so many steps over this range: ${answer.missing.join(", ")}.` : "";
  $("hand-sub").textContent = `Tick up to six to draw them in every figure.${missing}`;
}

function drawFigures() {
  const { retained, each_step: each } = answer;
  const rows = comparedRows();
  const lam = retained.eigenvalues;
  const kept = [...rows.map((row) => ({ name: row.name, style: styleOf(row.name) })), { name: oursName(), style: "ours" }]
    .filter((one) => retained.ratios[one.style === "ours" ? "ours" : one.name])
    .map((one) => ({ ...one, points: retained.ratios[one.style === "ours" ? "ours" : one.name].map((ratio, k) => [lam[k], ratio]) }));
  const top = Math.min(2, Math.max(1.05, ...kept.flatMap((one) => one.points.map(([, ratio]) => ratio * 1.04))));
  curves($("retained-figure"), {
    label: "Retained variance of each eigenvalue, for our grid and the ticked ones",
    x: { domain: [lam[0], Math.min(lam[lam.length - 1], lam[0] * 0.999)], log: true, title: "eigenvalue λ: coarse at the left, fine at the right" },
    y: { domain: [0, top], line: 1, title: "variance kept" },
    series: kept,
  });

  drawEigenvalues();

  const n = each.errors.length;
  const worst = Math.max(...each.errors.filter((error) => error !== null)) || 1;
  const styles = { coarse: 0, middle: 1, fine: 5 };
  curves($("each-figure"), {
    label: "Local error and swept angles of each step",
    x: { domain: [0.5, n + 0.5], title: "step, from noise to data", ticks: stepTicks(1, n, $("each-figure").clientWidth) },
    y: { domain: [0, 90], ticks: [0, 30, 60, 90], title: "angle swept, degrees" },
    bars: each.errors.map((error, k) => ({ from: k + 0.55, to: k + 1.45, part: error / worst, title: `step ${k + 1}: local error ${shown(error, 4)}` })),
    series: each.directions.map((one) => ({
      name: `${one.name}, λ = ${shown(one.eigenvalue, 2)}`, style: styles[one.name], dots: n < 25, points: one.degrees.map((angle, k) => [k + 1, angle]),
    })),
  });
  drawColumns();
}

const intervals = new Map();

function drawEigenvalues() {
  const { eigenvalues } = answer;
  const interval = intervals.get($("spectrum").value);
  const several = Object.keys(eigenvalues).length > 1;
  const all = Object.values(eigenvalues).flat();
  curves($("eigen-figure"), {
    label: "Eigenvalues of the data against their rank",
    x: { domain: [1, Math.max(2, ...all.map(([rank]) => rank))], log: true, title: "rank of the eigenvalue" },
    y: { domain: padded(all.map(([, value]) => value)), log: true, title: "eigenvalue λ" },
    bands: interval?.points ? [{ style: "ours", points: interval.points }] : [],
    series: [
      { name: several ? "sample" : "", style: several ? "grey" : "ours", points: eigenvalues.measured },
      ...(several ? [{ name: "population", style: "ours", points: eigenvalues.population }] : []),
    ],
  });
  const shaded = interval?.points ? " Shaded: the 95 % interval of the population’s, where the samples resolve them." : "";
  $("eigen-sub").textContent = `Each is the variance of the data in one direction, in squared units${answer.spectrum.units ? ` of ${answer.spectrum.units}` : ""}.${shaded}`;
}

/** How sure the eigenvalues are takes longer to tell than what they are: asked for once for each spectrum. */
async function lookAtInterval() {
  const key = $("spectrum").value;
  if (intervals.has(key)) return;
  intervals.set(key, null);
  try {
    intervals.set(key, await ask(`/api/interval?spectrum=${encodeURIComponent(key)}`));
    if (answer && $("spectrum").value === key) drawEigenvalues();
  } catch (error) {
    intervals.delete(key);
    tell(error);
  }
}

function padded(values) {
  const positive = values.filter((value) => value > 0);
  return [Math.min(...positive) / 1.5, Math.max(...positive) * 1.5];
}

function stepTicks(first, last, width) {
  const stride = Math.max(1, Math.ceil((last - first + 1) / Math.max(4, Math.floor(width / 34))));
  const ticks = [];
  for (let n = first; n <= last; n += stride) ticks.push(n);
  return ticks;
}

function drawLevels() {
  const { ours, each_step: each } = answer;
  const times = ours.timesteps !== null;
  const names = ["step", "σ", ...(times ? ["t"] : []), "log-SNR", ...each.directions.map((one) => `${one.name} angle, °`), "local error"];
  const head = document.createElement("thead");
  const cells = names.map((name) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = "num";
    cell.textContent = name;
    return cell;
  });
  const top = document.createElement("tr");
  top.append(...cells);
  head.append(top);
  const body = document.createElement("tbody");
  ours.sigmas.forEach((sigma, k) => {
    const last = k === ours.sigmas.length - 1;
    const row = document.createElement("tr");
    const values = [
      last ? "end" : k + 1, shown(sigma, 6), ...(times ? [last ? "" : shown(ours.timesteps[k], 6)] : []), ours.log_snr[k] === null ? "∞" : shown(ours.log_snr[k], 4),
      ...each.directions.map((one) => (last ? "" : shown(one.degrees[k], 3))), last ? "" : shown(each.errors[k], 3),
    ];
    for (const value of values) {
      const cell = document.createElement("td");
      cell.className = "num";
      cell.textContent = value;
      row.append(cell);
    }
    row.children[1].dataset.value = sigma;
    body.append(row);
  });
  $("levels").replaceChildren(head, body);
}

// ---------------------------------------------------------------- error against steps, a column at a time

let columnRun = 0;

function wantedSteps() {
  const n = answer.state.steps;
  const wanted = [];
  for (let k = Math.min(3, n); k <= Math.min(40, Math.max(20, n + 2)); k += 1) wanted.push(k);
  return wanted;
}

async function column() {
  const asked = query({ withMoved: false, withCompare: false });
  asked.delete("steps");
  const key = asked.toString();
  if (columns.key !== key) columns = { key, found: new Map() };
  const run = ++columnRun;
  await new Promise((done) => setTimeout(done, 250));
  for (const n of wantedSteps()) {
    if (columns.found.has(n)) continue;
    if (run !== columnRun || running) return;
    asked.set("n", n);
    try {
      const found = await ask(`/api/steps?${asked}`);
      if (columns.key !== key) return;
      columns.found.set(n, found);
      drawColumns();
    } catch (error) {
      if (error instanceof Silence) tell(error);
      return;
    }
  }
}

function drawColumns() {
  const wanted = wantedSteps();
  const found = wanted.map((n) => columns.found.get(n)).filter(Boolean);
  const rows = comparedRows();
  const series = rows.map((row) => ({ name: row.name, style: styleOf(row.name), points: found.map((one) => [one.steps, one.hand[row.name] ?? null]) }));
  series.push({ name: "optimum", style: "ours", dots: true, points: found.map((one) => [one.steps, one.optimum]), mark: answer.state.steps });
  const values = series.flatMap((one) => one.points.map(([, value]) => value)).filter((value) => value > 0);
  if (!values.length) return;
  const [first, last] = [wanted[0], wanted[wanted.length - 1]];
  curves($("steps-figure"), {
    label: `${OBJECTIVES[$("objective").value][0]} against the number of steps, for the optimum and the ticked grids`,
    x: { domain: [first - 0.4, last + 0.4], title: "steps", ticks: stepTicks(first, last, $("steps-figure").clientWidth) },
    y: { domain: padded(values), log: true, title: OBJECTIVES[$("objective").value][1] },
    series,
  });
  $("steps-figure").dataset.columns = found.length;
}

// ---------------------------------------------------------------- levels by hand

const line = new GridLine($("grid-figure"), {
  moved(sigmas) {
    moved = sigmas;
    $("snap").disabled = false;
    update();
  },
  stopped(k) {
    note(k === null ? "" : `Level ${k + 1} goes no further: a level stops 1 % short of its neighbours, and at the lowest σ.`);
  },
  settled() {
    update();
  },
  snapped(k) {
    if (!moved || !answer?.optimum) return;
    const sigmas = moved.slice();
    const best = answer.optimum.sigmas;
    sigmas[k] = best[k];
    const descending = sigmas.every((sigma, i) => i === 0 || sigma < sigmas[i - 1]);
    if (!descending) {
      note(`Level ${k + 1} cannot go back past a neighbour that was moved: put the neighbour back first, or snap all back.`);
      return;
    }
    moved = sigmas.every((sigma, i) => sigma === best[i]) ? null : sigmas;
    note("");
    update();
  },
});

const NOTE = $("line-note").textContent;
function note(words) {
  if ($("line-note").textContent !== (words || NOTE)) $("line-note").textContent = words || NOTE;
  $("line-note").classList.toggle("strong", Boolean(words));
}

$("snap").addEventListener("click", () => {
  moved = null;
  note("");
  update();
});

// ---------------------------------------------------------------- controls

$("controls").addEventListener("submit", (event) => event.preventDefault());
for (const name of FIELDS) {
  $(name).addEventListener(name === "steps" ? "input" : "change", () => {
    if (RESHAPING.has(name)) moved = null;
    if (name === "path") for (const end of ["sigma_min", "sigma_max", "start_level"]) $(end).value = "";
    if (name === "steps") $("steps-shown").textContent = $("steps").value;
    update();
  });
}
$("message-close").addEventListener("click", () => say(""));
$("defaults").addEventListener("click", () => {
  for (const name of FIELDS) if (name !== "spectrum") $(name).value = DEFAULTS[name] ?? "";
  moved = null;
  compare = WELL_KNOWN.slice();
  update();
});

// ---------------------------------------------------------------- take it away

let snippetRun = 0;
async function snippet() {
  const run = ++snippetRun;
  const asked = query({ withCompare: false });
  asked.set("format", format);
  try {
    const text = await ask(`/api/copy?${asked}`);
    if (run === snippetRun) {
      $("snippet").textContent = text;
      $("snippet").dataset.format = format;
      $("copy").disabled = false;
    }
  } catch (error) {
    if (run !== snippetRun) return;
    if (error instanceof Refusal) {
      $("snippet").textContent = error.message;
      $("snippet").dataset.format = "";
      $("copy").disabled = true;
    } else {
      tell(error);
    }
  }
  const { start_level: level, sigma_max: highest } = answer?.state ?? {};
  // Plain noise at a lower level is another distribution: whoever takes these levels away must know.
  $("format-hint").textContent = level < highest * (1 - 1e-9)
    ? `These levels begin at σ = ${shown(level, 4)}, after a warm start (eigenstep.warm_start): a program that begins with plain noise wants Start level empty.`
    : FORMAT_HINTS[format] ?? options.formats[format];
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("snippet"));
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => { button.textContent = before; }, 1600);
}
$("copy").addEventListener("click", () => copy($("snippet").textContent, $("copy")));
$("share").addEventListener("click", () => copy(location.href, $("share")));

function offerFormats() {
  $("formats").replaceChildren(...Object.keys(options.formats).map((name) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "format";
    radio.value = name;
    radio.checked = name === format;
    radio.addEventListener("change", () => {
      format = name;
      remember();
      snippet();
    });
    label.append(radio, FORMATS[name] || name);
    return label;
  }));
}

// ---------------------------------------------------------------- the network

let network = null;
let networkRun = 0;
let followed = null;
let sheetOf = null;

/** What the server knows of the network, and of its samples on the grid as it stands. */
async function lookAtNetwork() {
  if (options.network === null) return;
  const run = ++networkRun;
  try {
    const found = await ask(`/api/network?${query({ withCompare: false })}`);
    if (run !== networkRun) return;
    network = found;
  } catch (error) {
    tell(error);
    return;
  }
  drawNetwork();
  if (network.job && followed === null) followNetwork(network.job);
}

function drawNetwork() {
  const { gauge, compared, measured } = network;
  $("network").hidden = false;
  $("network-title").textContent = `The network: ${network.name}`;
  $("network-line").textContent = `On ${network.data}: items of ${network.item_shape.join(" × ")}, levels from ${shown(network.sigma_min, 3)} to ${shown(network.sigma_max, 4)}`;
  $("network-measure").hidden = measured;
  $("network-compare").hidden = !measured;
  const idle = followed === null;
  $("network-measure").disabled = !idle;
  $("network-compare").disabled = !idle || compared !== null || answer?.optimum === null;
  $("gauge").hidden = gauge === null;
  if (gauge) drawGauge(gauge, compared);
  if (compared) sheetOf = compared;
  $("samples").hidden = sheetOf === null;
  $("sheet").classList.toggle("stale", compared === null);
  if (sheetOf) drawSamples(sheetOf, compared === null);
  if (idle) {
    const items = network.items ? `its error on ${network.items.toLocaleString("en")} items of the data at every level of noise, and ` : "";
    networkNote(measured ? (compared ? "" : "Sample the grid above, the network’s own plan and the best usual grid, all from the same noise.")
      : `This measures ${items}where its own runs from ${network.judges} noises converge: ${network.calls.toLocaleString("en")} network calls. The page stays usable meanwhile.`);
  }
}

function networkNote(words) {
  $("network-note").textContent = words;
  $("network-note").hidden = !words;
}

function drawGauge(gauge, compared) {
  const least = Math.min(...gauge.ratio);
  const best = gauge.sigmas[gauge.ratio.indexOf(least)];
  $("gauge-line").textContent = `Its error on ${gauge.items.toLocaleString("en")} items over that of the best linear filter, the Gaussian’s bound. ${least < 1 ? `Below 1 it sees more than the covariance: ${shown(least, 2)} at σ = ${shown(best, 2)}.` : "It is nowhere below 1, where it would see more than the covariance."} Shaded: two standard errors.`;
  const planned = compared?.rows.find((row) => row.role === "planned" && row.warm);
  const marks = [];
  if (gauge.start_level !== null) marks.push({ x: gauge.start_level, words: `start level ${shown(gauge.start_level, 3)}` });
  if (planned && Math.abs(planned.start_level / gauge.start_level - 1) < 0.01) marks[0].words += ": its plan starts here";
  else if (planned) marks.push({ x: planned.start_level, words: `its plan starts at ${shown(planned.start_level, 3)}` });
  curves($("gauge-figure"), {
    label: "Error of the network over the Gaussian bound, against the noise level, with the start level",
    x: { domain: [gauge.sigmas[0], gauge.sigmas[gauge.sigmas.length - 1]], log: true, title: "noise level σ: noise at the left, data at the right" },
    y: { domain: padded([...gauge.low, ...gauge.high, 1]), log: true, line: 1, title: "error / Gaussian bound" },
    bands: [{ style: "ours", points: gauge.sigmas.map((sigma, k) => [sigma, gauge.low[k], gauge.high[k]]) }],
    series: [{ name: "", style: "ours", points: gauge.sigmas.map((sigma, k) => [sigma, gauge.ratio[k]]) }],
    marks,
  });
  const button = $("gauge-start");
  button.hidden = gauge.start_level === null || !network.warm;
  button.textContent = gauge.start_level === null ? "" : `Start at σ = ${shown(gauge.start_level, 3)}`;
}

const ROLES = {
  current: ["the grid above", "before: the grid you had"], planned: ["planned for this network"], usual: ["best usual grid"], converged: ["where they all lead"],
};
const ROLE_ORDER = Object.keys(ROLES);

function drawSamples(compared, stale) {
  $("samples-line").textContent = `${compared.nfe} network calls of ${SOLVERS[compared.solver] || compared.solver} each; RMSE from the converged samples over ${compared.noises} noises${compared.rows[0].images.length ? `, of which ${compared.rows[0].images.length} are shown` : ""}.`;
  $("samples-reason").textContent = `${compared.reason}${compared.rows[0].images.length ? "" : " Items of this shape are no pictures, so none are shown."}`;
  const usual = compared.rows.find((row) => row.role === "usual");
  const rows = compared.rows.slice().sort((a, b) => ROLE_ORDER.indexOf(a.role) - ROLE_ORDER.indexOf(b.role));
  $("sheet").replaceChildren(...rows.map((row) => {
    const strip = document.createElement("div");
    strip.className = `strip ${row.role}`;
    strip.dataset.role = row.role;
    const about = document.createElement("div");
    about.className = "about";
    const name = document.createElement("b");
    name.textContent = ROLES[row.role][stale && row.role === "current" ? 1 : 0];
    const number = document.createElement("span");
    number.className = "rmse";
    number.dataset.value = row.rmse;
    number.textContent = row.role === "converged" ? "converged" : `RMSE ${shown(row.rmse, 3)}`;
    about.append(name, number);
    if (row.role === "usual") about.append(`, ${row.name}`);
    else if (row.ratio !== null && row.role !== "converged") {
      const change = Math.round(100 * (row.ratio - 1));
      about.append(change === 0 ? ", as the usual one" : `, ${Math.abs(change)} % ${change < 0 ? "less" : "more"} than ${usual.name}`);
    }
    if (row.warm) about.append(`; starts at σ = ${shown(row.start_level, 3)}`);
    if (row.role === "planned") {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.id = "take-plan";
      button.textContent = "Take its levels";
      button.addEventListener("click", () => takeLevels(row));
      about.append(document.createElement("br"), button);
    }
    const items = document.createElement("div");
    items.className = "items";
    items.append(...row.images.map((address, k) => {
      const image = document.createElement("img");
      image.src = address;
      image.alt = `${ROLES[row.role][0]}, sample ${k + 1}`;
      return image;
    }));
    strip.append(about, items);
    return strip;
  }));
}

/** The plan becomes the grid above, its start level included. */
function takeLevels(row) {
  for (const name of ["path", "sigma_min", "sigma_max"]) $(name).value = "";
  $("final").value = "zero";
  $("steps").value = row.sigmas.length - 1;
  $("start_level").value = row.sigmas[0] < network.sigma_max * (1 - 1e-9) ? row.sigmas[0] : "";
  moved = row.sigmas.slice();
  $("result").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  update();
}

function remaining(done, total, pace) {
  if (!total || !(pace > 0)) return "";
  const seconds = (total - done) / pace;
  return seconds > 120 ? `, ${Math.ceil(seconds / 60)} min left` : `, ${Math.ceil(seconds)} s left`;
}

/** The bar of a job of the network, until it ends; the page stays usable meanwhile. */
async function followNetwork(identity) {
  followed = identity;
  drawNetwork();
  $("network-progress").hidden = false;
  $("network-stop").disabled = false;
  let ended = "";
  try {
    for (;;) {
      const { done, total, per_second: pace, key, error } = await ask(`/api/jobs/${identity}`);
      if (error) throw new Refusal(error);
      if (key) break;
      const left = remaining(done, total, pace);
      $("network-progress-text").textContent = `${total ? "Measuring the network" : "Comparing grids on the network"}: ${done.toLocaleString("en")}${total ? ` of ${total.toLocaleString("en")}` : ""} calls${left}`;
      if (total) {
        $("network-bar").max = total;
        $("network-bar").value = done;
      } else {
        $("network-bar").removeAttribute("value");
      }
      await new Promise((wait) => setTimeout(wait, 250));
    }
  } catch (error) {
    if (error instanceof Refusal) ended = error.message;
    else tell(error);
  } finally {
    followed = null;
    $("network-progress").hidden = true;
  }
  await lookAtNetwork();
  if (ended.startsWith("Stopped")) networkNote(ended);
  else if (ended) say(ended);
}

async function beginNetwork(work) {
  try {
    const { job: identity } = await ask(`/api/network/${work}?${query({ withCompare: false })}`, { method: "POST" });
    if (followed === null) await followNetwork(identity);
  } catch (error) {
    tell(error);
  }
}

$("network-measure").addEventListener("click", () => beginNetwork("measure"));
$("network-compare").addEventListener("click", () => beginNetwork("compare"));
$("network-stop").addEventListener("click", () => {
  $("network-stop").disabled = true;
  if (followed) ask(`/api/jobs/${followed}/stop`, { method: "POST" }).catch(tell);
});
$("gauge-start").addEventListener("click", () => {
  $("start_level").value = Number(network.gauge.start_level.toPrecision(6));
  $("more").open = true;
  moved = null;
  update();
});

// ---------------------------------------------------------------- data

let job = null;

function busy(words, done = null, total = null) {
  $("progress").hidden = !words;
  $("progress-text").textContent = words;
  const bar = $("progress-bar");
  if (done !== null && total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
}

async function take(key) {
  options = await ask("/api/options");
  offerSpectra();
  $("spectrum").value = key;
  moved = null;
  update();
}

async function openSpectrum(file) {
  if (file.size > 256 * 2 ** 20) throw new Refusal(`${file.name} is larger than 256 MiB; that is too much for this page.`);
  busy(`Opening ${file.name}`);
  const { key } = await ask(`/api/spectra?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  await take(key);
}

async function follow(identity) {
  job = identity;
  for (;;) {
    const { name, done, total, per_second: pace, key, error } = await ask(`/api/jobs/${identity}`);
    if (error) throw new Refusal(error);
    if (key) {
      await take(key);
      return;
    }
    const left = remaining(done, total, pace);
    busy(`Measuring ${name}: ${done.toLocaleString("en")}${total ? ` of ${total.toLocaleString("en")}` : ""}${left}`, done, total);
    await new Promise((wait) => setTimeout(wait, 200));
  }
}

async function openImages(files) {
  const images = files.filter(({ file }) => /\.(png|jpe?g|webp|bmp|gif|tiff?|ppm|pgm)$/i.test(file.name));
  if (!images.length) throw new Refusal("There is no image in this folder: png, jpg, webp, bmp, gif, tif, ppm and pgm are read.");
  const bytes = images.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes > 2 * 2 ** 30) throw new Refusal("These images come to more than 2 GiB; write the folder's path under “Measure a folder” instead, which copies nothing.");
  const { drop } = await ask("/api/drops", { method: "POST" });
  let sent = 0;
  job = null;
  stopped = false;
  for (const { file } of images) {
    if (stopped) throw new Refusal("Stopped; nothing was kept.");
    await ask(`/api/drops/${drop}/files?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    sent += 1;
    busy(`Reading ${sent} of ${images.length} images`, sent, images.length);
  }
  const name = images[0].path.split("/").filter(Boolean)[0] || "dropped";
  const { job: identity } = await ask(`/api/drops/${drop}/measure`, { method: "POST", body: JSON.stringify({ name, size: $("size").value }) });
  await follow(identity);
}

let stopped = false;
async function working(task) {
  try {
    await task();
    say("");
  } catch (error) {
    tell(error);
  } finally {
    job = null;
    busy("");
  }
}

$("progress-stop").addEventListener("click", () => {
  stopped = true;
  if (job) ask(`/api/jobs/${job}/stop`, { method: "POST" }).catch(tell);
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) working(() => openSpectrum(file));
  $("file").value = "";
});
$("images").addEventListener("change", () => {
  const files = [...$("images").files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  if (files.length) working(() => openImages(files));
  $("images").value = "";
});
$("measure-now").addEventListener("click", () => working(async () => {
  const { job: identity } = await ask("/api/folders", { method: "POST", body: JSON.stringify({ folder: $("folder").value, size: $("size").value }) });
  await follow(identity);
}));

async function walk(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    found.push({ file, path: `${path}${file.name}` });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!batch.length) return;
    for (const child of batch) await walk(child, `${path}${entry.name}/`, found);
  }
}

const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("own").open = true;
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  // Both are emptied as soon as this function returns.
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const found = entries.length ? [] : [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
  if (!entries.length && !found.length) return;
  working(async () => {
    for (const entry of entries) await walk(entry, "", found);
    if (found.length === 1 && /\.(json|npz)$/i.test(found[0].file.name)) await openSpectrum(found[0].file);
    else await openImages(found);
  });
});

// ---------------------------------------------------------------- the beginning

function offer(select, entries) {
  const value = select.value;
  select.replaceChildren(...entries.map(([name, words]) => new Option(words, name)));
  if (entries.some(([name]) => name === value)) select.value = value;
}

function offerSpectra() {
  offer($("spectrum"), options.spectra.map((name) => [name, options.zoo.includes(name) ? `${name} (zoo)` : name]));
}

async function begin() {
  options = await ask("/api/options");
  $("version").textContent = options.version;
  offerSpectra();
  offer($("solver"), Object.keys(options.solvers).map((name) => [name, SOLVERS[name] || name]));
  offer($("objective"), options.objectives.map((name) => [name, OBJECTIVES[name]?.[0] || name]));
  const [low, high] = options.range;
  const none = options.network === null ? "none: EDM’s range" : "the network’s own";
  offer($("path"), [["", `${none}, ${shown(low, 3)} to ${shown(high, 4)}`], ...Object.entries(options.paths).map(([name, [low, high]]) => [name, `${name}: ${shown(low, 3)} to ${shown(high, 4)}`])]);
  recall();
  offerFormats();
  if (matchMedia("(min-width: 1400px)").matches) $("more").open = true;
  await update();
}

addEventListener("popstate", () => {
  recall();
  update();
});
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width || !answer) return;
  width = innerWidth;
  drawGrid();
  drawFigures();
  if (network) drawNetwork();
});
begin().catch(tell);
