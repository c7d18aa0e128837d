// cells.js - the blocks as a grid of cells, one canvas for each group of layers, one for what is swapped out, and one for what is on disk.
//
// A cell's place is its block's, so that it stays where it is while it changes hands. Colour: the request that holds the block, or
// held it last; paleness: age; height: how full it is; a corner: shared; a dot: used again; stripes: not in memory; a bar: pinned.

export const SWAPPED = 1, CACHED = 2, PINNED = 4, MOVING = 8, PROTECTED = 16, OFFLOADED = 32; // bits of a block's state (kvasir.h)
const HUES = 8, SIZES = [22, 18, 16, 14, 12, 10, 8, 7, 6, 5, 4], HEIGHT_MAX = 300;
const PLACES_MAX = 12000; // in one grid: of a larger group only blocks in use have a cell

const at = (id) => document.getElementById(id);
const grids = new Map(); // name to {frame, title, note, canvas, blocks, columns, size, cursor}
let colours = null, context = null; // context: of the last reply

export const hue = (owner) => (owner - 1) % HUES;

// ---- colours --------------------------------------------------------------------------------------------------------------

function readColours() {
  const probe = document.createElement("i");
  document.body.append(probe);
  const read = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  colours = { free: read("--cell-free"), mark: read("--cell-mark"), text: read("--text"), accent: read("--accent"), unknown: read("--cell-unknown"), hues: [] };
  for (let i = 0; i < HUES; i++) colours.hues.push(read(`--cell-${i}`));
  probe.remove();
}

export function recolour() {
  colours = null;
  drawLegend();
  for (const grid of grids.values()) draw(grid);
}

// ---- one cell ---------------------------------------------------------------------------------------------------------------

function drawCell(pen, x, y, size, block, blockSize, now) {
  const side = size - (size > 6 ? 2 : 1), round = size > 9 ? 2 : 0;
  const box = (left, top, width, height) => {
    pen.beginPath();
    pen.roundRect(left, top, width, height, round);
    pen.fill();
  };
  pen.fillStyle = colours.free;
  box(x, y, side, side);
  if (!block) return;
  const high = Math.max(1, Math.round(side * Math.min(1, block.tokens / blockSize)));
  pen.fillStyle = block.owner ? colours.hues[hue(block.owner)] : colours.unknown;
  pen.globalAlpha = block.held ? 1 : 0.2 + 0.4 / (1 + block.age / 64);
  box(x, y + side - high, side, high);
  pen.globalAlpha = 1;
  if (block.state & (SWAPPED | MOVING | OFFLOADED)) {
    pen.fillStyle = colours.mark;
    for (let i = 1; i < side; i += 3) pen.fillRect(x, y + i, side, 1);
  }
  if (block.references > 1) {
    pen.fillStyle = block.held ? colours.mark : colours.text;
    pen.beginPath();
    pen.moveTo(x + side, y);
    pen.lineTo(x + side, y + side / 2);
    pen.lineTo(x + side / 2, y);
    pen.fill();
  }
  if (block.reused && size > 5) {
    pen.fillStyle = block.held ? colours.mark : colours.text;
    pen.beginPath();
    pen.arc(x + side / 2, y + side / 2 + 0.5, Math.max(1, side / 7), 0, 7);
    pen.fill();
  }
  if (block.state & PINNED) {
    pen.fillStyle = colours.text;
    pen.fillRect(x, y + side - 2, side, 2);
  }
  if (block.flash > now) {
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 2;
    pen.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
  }
}

function penOf(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}

function drawLegend() {
  if (!colours) readColours();
  const plain = { owner: 1, held: true, tokens: 1, references: 1, state: 0, age: 0 };
  const samples = {
    held: plain, cached: { ...plain, held: false }, shared: { ...plain, references: 2 }, reused: { ...plain, reused: true },
    swapped: { ...plain, state: SWAPPED }, pinned: { ...plain, state: PINNED }, free: null,
  };
  for (const canvas of document.querySelectorAll("canvas[data-sample]"))
    drawCell(penOf(canvas, 14, 14), 0.5, 0.5, 15, samples[canvas.dataset.sample], 1, 0);
}

// ---- a grid --------------------------------------------------------------------------------------------------------------------

function layOut(grid, cells) {
  const width = grid.canvas.clientWidth || 320;
  grid.size = SIZES.find((size) => Math.ceil(cells / Math.floor(width / size)) * size <= HEIGHT_MAX) ?? SIZES[SIZES.length - 1];
  grid.columns = Math.max(1, Math.floor(width / grid.size));
  grid.rows = Math.max(1, Math.ceil(cells / grid.columns));
  return width;
}

function draw(grid) {
  if (!context) return;
  if (!colours) readColours();
  const now = performance.now(), last = grid.blocks.length - 1;
  const width = layOut(grid, Math.max(grid.blocks.length, 1)), height = grid.rows * grid.size + 2;
  grid.canvas.style.height = `${height}px`;
  const pen = penOf(grid.canvas, width, height);
  for (let i = 0; i < grid.rows * grid.columns; i++)
    drawCell(pen, 1 + (i % grid.columns) * grid.size, 1 + Math.floor(i / grid.columns) * grid.size, grid.size, i <= last ? grid.blocks[i] : null, context.block_size, now);
  if (grid.cursor === null) return;
  pen.strokeStyle = colours.text;
  pen.lineWidth = 2;
  pen.strokeRect((grid.cursor % grid.columns) * grid.size, Math.floor(grid.cursor / grid.columns) * grid.size, grid.size, grid.size);
}

// ---- what is under the pointer ------------------------------------------------------------------------------------------------------

function describe(grid, index) {
  const block = grid.blocks[index];
  if (!block) return `Block ${index}: free.`;
  const end = block.position + Math.max(1, block.tokens) - 1;
  const parts = [block.tokens ? `tokens ${block.position} to ${end} of its sequence` : "reserved, no tokens yet"];
  const request = context.requests.find((one) => one.owner === block.owner);
  if (block.held && block.references > 1) parts.push(`shared by ${block.references}`);
  else if (block.held) parts.push(request ? `held by request ${request.id}` : "held");
  else parts.push(`kept for the next prompt that begins so, let go ${block.age} block${block.age === 1 ? "" : "s"} ago`);
  if (block.reused) parts.push("used again since it was computed");
  if (block.state & PINNED) parts.push("pinned by name");
  if (block.state & MOVING) parts.push("moving between tiers");
  else if (block.state & SWAPPED) parts.push("swapped out");
  else if (block.state & OFFLOADED) parts.push("on disk, read back in parts");
  if (block.key) parts.push(`key ${block.key.slice(0, 8)}`);
  return `Block ${block.index}: ${parts.join("; ")}.`;
}

function point(grid, index) {
  grid.cursor = index;
  draw(grid);
  tell(grid);
}

// Only what has changed is said, as it may be read out.
function tell(grid) {
  const text = grid.cursor === null ? "" : describe(grid, grid.cursor);
  if (text && at("detail").textContent !== text) at("detail").textContent = text;
}

function onPointer(grid, event) {
  const column = Math.floor(event.offsetX / grid.size), line = Math.floor(event.offsetY / grid.size), index = line * grid.columns + column;
  if (column < grid.columns && line < grid.rows && index !== grid.cursor) point(grid, index);
}

function onKey(grid, event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = (grid.cursor ?? -1) + steps[event.key];
  point(grid, Math.max(0, Math.min(grid.blocks.length - 1, next)));
}

// ---- all grids -----------------------------------------------------------------------------------------------------------------------

function makeGrid(name) {
  const grid = { frame: document.createElement("section"), title: document.createElement("h3"), canvas: document.createElement("canvas"), blocks: [], cursor: null };
  grid.frame.className = "grid";
  grid.frame.append(grid.title, grid.canvas);
  grid.canvas.tabIndex = 0;
  grid.canvas.setAttribute("role", "img");
  grid.canvas.setAttribute("aria-describedby", "detail");
  grid.canvas.addEventListener("pointermove", (event) => onPointer(grid, event));
  grid.canvas.addEventListener("pointerdown", (event) => onPointer(grid, event));
  grid.canvas.addEventListener("pointerleave", () => point(grid, null));
  grid.canvas.addEventListener("keydown", (event) => onKey(grid, event));
  grid.canvas.addEventListener("blur", () => point(grid, null));
  grids.set(name, grid);
  at("grids").append(grid.frame);
  return grid;
}

const KINDS = { full: "Full attention", sliding: "Sliding window", sinks: "Sinks and window", shared: "Shared layers", none: "No attention", index: "Index for retrieval" };
function titleOf(group) {
  return `${KINDS[group.kind]}${group.window ? ` of ${group.window} tokens` : ""}`;
}

function showGrid(name, title, blocks) {
  const grid = grids.get(name) ?? makeGrid(name), held = blocks.filter((block) => block?.held).length;
  const shared = blocks.filter((block) => block?.references > 1).length, reused = blocks.filter((block) => block?.reused).length;
  grid.blocks = blocks;
  const note = document.createElement("span");
  note.textContent = `${held} in use, ${shared} shared, ${reused} used again`;
  grid.title.replaceChildren(title, note);
  grid.canvas.setAttribute("aria-label", `${title}: ${blocks.filter(Boolean).length} blocks, ${note.textContent}`);
  Object.assign(grid.canvas.dataset, { held, shared, reused, blocks: blocks.filter(Boolean).length });
  draw(grid);
  tell(grid);
}

export function show(reply, blocks) {
  context = reply;
  reply.groups.forEach((group, g) => {
    const own = blocks.filter((block) => block.group === g && !(block.state & (SWAPPED | OFFLOADED))), placed = [];
    if (own.some((block) => block.index >= PLACES_MAX)) placed.push(...own);
    else for (const block of own) placed[block.index] = block;
    showGrid(`group ${g}`, titleOf(group), Array.from(placed));
  });
  const swapped = blocks.filter((block) => block.state & SWAPPED);
  if (swapped.length || grids.has("swap")) showGrid("swap", "Swapped out", swapped);
  const offloaded = blocks.filter((block) => block.state & OFFLOADED);
  if (offloaded.length || grids.has("disk")) showGrid("disk", "On disk, of answers that run", offloaded);
}

recolour();
