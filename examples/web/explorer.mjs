/**
 * The page. Its state determines which image belongs on each canvas, and `paint` generates those that are not there yet,
 * the most important first.
 */

import { MAX_SEED, MIN_TRUNCATION, UserError } from "../node/gan.mjs";
import { startEngine } from "./engine.mjs";
import { aim, curl, requestRow, rowOf } from "./request.mjs";

const PAGE = 48; // seeds in the grid
const MAX_STEP = 4; // standard deviations along a direction
const NO_TRUNCATION = 3; // the slider's right end, where a bound would hardly bind
const AT_ONCE = 6; // small images in one run: few, so that the chosen one never waits long

const find = (id) => document.getElementById(id);
const settings = () => ({ label: null, truncation: null, position: 0, steps: directions.map(() => 0) });

let wasm; // a promise of the bytes, which are unpacked once
let openings = 0;
let engine;
let description;
let directions = [];
let places = []; // canvases with the images that belong there
let state = {};
let painting = false;
let flashTimer; // ends the words that a button shows for a moment
let savedUrl; // of the last saved image: some browsers read it only after the click

/** Builds the page; `workerUrl` is the address of the worker's script. */
export function start(workerUrl) {
  wasm = unzip(fromBase64(find("wasm").textContent));
  const open = (name, bytes) => openModel(workerUrl, name, bytes).catch(refuse);
  listen((file) => open(file.name, file.arrayBuffer()));
  const model = find("model").textContent;
  if (model) open("", fromBase64(model));
  else show("welcome");
  document.body.dataset.ready = ""; // from here on a file can be opened
}

// ---------------------------------------------------------------- a model

/** Opens `bytes`, which may be a promise; the file that was chosen last wins. */
async function openModel(workerUrl, name, bytes) {
  const opening = ++openings;
  showMessage("");
  show("opening");
  let fresh;
  try {
    fresh = await startEngine(workerUrl);
    const opened = await fresh.ask("open", { wasm: await wasm, model: new Uint8Array(await bytes) });
    if (opening !== openings) return fresh.close();
    description = opened;
  } catch (error) {
    fresh?.close();
    if (opening !== openings) return;
    show(engine ? "explorer" : "welcome"); // a wrong file leaves the open model as it is
    throw error;
  }
  engine?.close();
  [engine, directions] = [fresh, []];
  state = { first: 0, seed: 0, toSeed: 1, ...settings() };
  describe(name);
  layOut();
  show("explorer");
  changed();
  await searchDirections(fresh);
}

async function searchDirections(searched) {
  if (description.directions.length) {
    showDirections(description.directions.map(inTenths), "The images beside them show where they lead.");
    return;
  }
  Object.assign(find("progress"), { hidden: false, value: 0 });
  find("summary").textContent = "Comparing images of nearby z, to find what moves them most …";
  find("directions").replaceChildren();
  const answer = await searched.ask("directions", null, (progress) => (find("progress").value = progress));
  if (searched !== engine) return; // another model was opened meanwhile
  const share = answer.reduce((sum, direction) => sum + direction.share, 0);
  showDirections(
    answer.map((direction) => ({ low: -MAX_STEP, high: MAX_STEP, ...direction })),
    `${answer.length} of ${description.latentSize} make ${percent(share)} of the change; ` +
      "the images beside them show where they lead.",
  );
}

/** Ends that a slider with steps of a tenth has beside 0. */
const inTenths = ({ low, high, ...direction }) => ({
  ...direction,
  low: Math.ceil(10 * low) / 10 || low, // of a shorter way its own end
  high: Math.floor(10 * high) / 10 || high,
});

function showDirections(known, summary) {
  directions = known;
  state.steps = directions.map(() => 0);
  find("progress").hidden = true;
  find("summary").textContent = summary;
  find("directions").replaceChildren(...directions.map(directionRow));
  showSteps(); // and no more than that: the user may be typing
  paint().catch(refuse);
}

function describe(name) {
  const { recipe, data, height, width, latentSize, classNames } = description;
  const facts = [name, data, recipe, `${width} wide × ${height} high`, `${latentSize} latent numbers`];
  if (classNames.length) facts.push(`${classNames.length} classes`);
  find("about").textContent = facts.filter(Boolean).join(" · ");
  document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
}

// ---------------------------------------------------------------- places for images

/** Fills the grid and lists all places. */
function layOut() {
  find("class-row").hidden = description.classNames.length === 0;
  const names = description.classNames.map((name) => new Option(name, name));
  find("class").replaceChildren(new Option("each seed’s own", ""), ...names);
  const cells = Array.from({ length: PAGE }, () => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.append(document.createElement("canvas"));
    return cell;
  });
  find("grid").replaceChildren(...cells);
  const ends = document.querySelectorAll("#way canvas");
  places = [
    place(find("image"), () => ({ row: rowOf(state), steps: state.steps })),
    ...[0, 1].map((position) =>
      place(ends[position], () => ({ row: rowOf({ ...state, position }), steps: state.steps })),
    ),
    ...cells.map((cell, i) =>
      place(cell.firstChild, () => ({ row: rowOf({ ...state, seed: state.first + i, position: 0 }), steps: [] })),
    ),
  ];
}

/** `target()` -> {row, steps} of the image that belongs on the canvas now; `drawn` is that of the image on it, as JSON. */
const place = (canvas, target) => ({ canvas, target, drawn: "" });

function directionRow(direction, i) {
  const line = document.createElement("div");
  line.className = "way";
  const slider = Object.assign(document.createElement("input"), {
    type: "range",
    min: direction.low,
    max: direction.high,
    step: 0.1,
    value: 0,
  });
  const isAttribute = direction.accuracy !== undefined;
  if (isAttribute) line.dataset.name = direction.name;
  slider.title = isAttribute
    ? `${direction.name}, told with an accuracy of ${percent(direction.accuracy)}`
    : `Direction ${direction.name ?? i + 1}: ${percent(direction.share)} of the change`;
  slider.setAttribute("aria-label", slider.title);
  slider.addEventListener("input", () => changed({ steps: state.steps.with(i, Number(slider.value)) }));
  const ends = [direction.low, direction.high].map((end) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    places.push(place(canvas, () => ({ row: rowOf(state), steps: state.steps.with(i, end) })));
    return canvas;
  });
  line.append(ends[0], slider, ends[1], document.createElement("output"));
  return line;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** Generates and draws the missing images; one call works until none is left, whatever changes meanwhile. */
async function paint() {
  if (painting) return;
  painting = true;
  find("explorer").setAttribute("aria-busy", "true");
  try {
    for (let next = missing(); next.length; next = missing()) {
      const [current, shape] = [engine, description];
      const images = await generate(next.map(({ target }) => target));
      if (current !== engine) continue; // another model was opened meanwhile
      next.forEach(({ place, target }, i) => {
        draw(place.canvas, images[i], shape);
        place.drawn = JSON.stringify(target);
      });
    }
    find("explorer").setAttribute("aria-busy", "false");
  } finally {
    painting = false;
  }
}

/** Images of targets; null if another model is opened meanwhile. */
function generate(targets) {
  const aims = targets.map(({ row, steps }) => aim(row, steps, directions, description));
  return engine.ask("images", { zs: aims.map(({ z }) => z), labels: aims.map(({ label }) => label) });
}

/** The chosen image if it is missing, else the next AT_ONCE of the others. */
function missing() {
  const stale = [];
  for (const place of places) {
    const target = place.target();
    if (JSON.stringify(target) === place.drawn) continue;
    stale.push({ place, target });
    if (place === places[0] || stale.length === AT_ONCE) break;
  }
  return stale;
}

function draw(canvas, image, { height, width, channels }) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = image[i * channels + (channels === 3 ? c : 0)];
    pixels.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width, height }).getContext("2d").putImageData(pixels, 0, 0);
}

// ---------------------------------------------------------------- from the state to the page

/** Applies changes to the state and updates the page. */
function changed(changes = {}) {
  Object.assign(state, changes);
  showMessage("");
  const { first, seed, label, truncation, toSeed, position, steps } = state;
  for (const [id, value] of Object.entries({ first, seed, "to-seed": toSeed, position })) setValue(id, value);
  setValue("class", label ?? "");
  setValue("truncation", truncation ?? NO_TRUNCATION);
  find("truncation-shown").value = truncation === null ? "off" : `±${truncation.toFixed(1)}`;
  find("position-shown").value = position.toFixed(2);
  showSteps();
  const named = classOf(seed);
  find("class-shown").textContent = named && `class ${named}`;
  find("image").setAttribute("aria-label", `The image of seed ${seed}${named && `, class ${named}`}`);
  find("request").textContent = curl(requestRow(rowOf(state), steps, directions, description));
  [...find("grid").children].forEach((cell, i) => {
    cell.setAttribute("aria-label", `Seed ${first + i}${classOf(first + i) && `, class ${classOf(first + i)}`}`);
    cell.title = cell.getAttribute("aria-label");
    cell.setAttribute("aria-pressed", String(first + i === seed));
  });
  rove();
  paint().catch(refuse);
}

function showSteps() {
  find("directions").childNodes.forEach(({ children: [, slider, , shown] }, i) => {
    const step = state.steps[i];
    slider.value = step;
    shown.value = step === 0 ? "0" : `${step > 0 ? "+" : "−"}${Math.abs(step).toFixed(1)}`;
  });
}

function classOf(seed) {
  const { classNames } = description;
  return classNames.length === 0 ? "" : (state.label ?? classNames[seed % classNames.length]);
}

/** Sets a control's value unless it has it, so that typing keeps the place of the cursor. */
function setValue(id, value) {
  find(id).removeAttribute("aria-invalid");
  if (find(id).value !== String(value)) find(id).value = value;
}

/** One stop for the Tab key in the whole grid: the chosen cell, or the first. */
function rove() {
  const cells = [...find("grid").children];
  const stop = cells.find((cell) => cell.getAttribute("aria-pressed") === "true") ?? cells[0];
  for (const cell of cells) cell.tabIndex = cell === stop ? 0 : -1;
}

function show(id) {
  for (const section of ["welcome", "opening", "explorer"]) find(section).hidden = section !== id;
}

function showMessage(sentence) {
  find("message").textContent = sentence;
  find("message").hidden = !sentence;
}

function refuse(error) {
  showMessage(error.message);
  if (!(error instanceof UserError)) throw error; // a bug of the page, which belongs in the console
}

// ---------------------------------------------------------------- from the controls to the state

function listen(openFile) {
  find("file").addEventListener("change", ({ target }) => {
    if (target.files.length) openFile(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
  });

  Object.assign(find("truncation"), { min: MIN_TRUNCATION, max: NO_TRUNCATION, step: 0.1 });
  onSeed("first", MAX_SEED - PAGE + 1, (first) => changed({ first }));
  onSeed("seed", MAX_SEED, (seed) => changed({ seed }));
  onSeed("to-seed", MAX_SEED, (toSeed) => changed({ toSeed }));
  find("previous").addEventListener("click", () => turnPage(-PAGE));
  find("next").addEventListener("click", () => turnPage(PAGE));
  find("class").addEventListener("change", ({ target }) => changed({ label: target.value || null }));
  find("truncation").addEventListener("input", ({ target }) => {
    changed({ truncation: Number(target.value) < NO_TRUNCATION ? Number(target.value) : null });
  });
  find("position").addEventListener("input", ({ target }) => changed({ position: Number(target.value) }));
  find("grid").addEventListener("click", ({ target }) => {
    const cell = target.closest("button");
    if (cell) changed({ seed: state.first + [...find("grid").children].indexOf(cell) });
  });
  find("grid").addEventListener("keydown", moveInGrid);
  find("reset").addEventListener("click", () => changed(settings()));
  find("copy").addEventListener("click", copy);
  find("save").addEventListener("click", () => save().catch(refuse));
}

function onSeed(id, largest, take) {
  find(id).max = largest;
  find(id).addEventListener("input", ({ target }) => {
    const seed = target.value === "" ? NaN : Number(target.value);
    if (Number.isInteger(seed) && seed >= 0 && seed <= largest) return take(seed);
    target.setAttribute("aria-invalid", "true");
    showMessage(`A seed is a whole number from 0 to ${largest}.`);
  });
}

function turnPage(by) {
  changed({ first: Math.min(MAX_SEED - PAGE + 1, Math.max(0, state.first + by)) });
}

function moveInGrid(event) {
  const cells = [...find("grid").children];
  const columns = cells.filter((cell) => cell.offsetTop === cells[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const cell = cells[cells.indexOf(document.activeElement) + by];
  if (!cell) return;
  event.preventDefault();
  cell.focus();
  cell.click();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(find("request").textContent);
    flash(find("copy"), "Copied");
  } catch {
    getSelection().selectAllChildren(find("request")); // where the page may not write to the clipboard, the user can copy the selection
    flash(find("copy"), "Press Ctrl+C");
  }
}

/** Shows other words on a button for a second and a half from now, whenever it did so before. */
function flash(button, words) {
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = words;
  clearTimeout(flashTimer);
  flashTimer = setTimeout(() => (button.textContent = label), 1500);
}

/** Saves the image that was chosen at the click: on the page it may not be drawn yet, or another may be by then. */
async function save() {
  const [shape, name] = [description, `seed-${state.seed}.png`];
  const images = await generate([places[0].target()]);
  if (images === null) return; // another model was opened meanwhile
  const canvas = document.createElement("canvas");
  draw(canvas, images[0], shape);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  URL.revokeObjectURL(savedUrl);
  savedUrl = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: savedUrl, download: name }).click();
}

// ---------------------------------------------------------------- bytes in the page

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
