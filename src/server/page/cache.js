// cache.js - the KV cache beside the chat: asks /kv about once a second while it can be seen, and draws every block.
//
// The server tells what is held and what is cached. Whose a cached block was, and whether it was used again since it was first
// seen, is remembered here, by block and key.
import { get } from "./api.js";
import { seconds, speed } from "./chat.js";
import { bars, curve } from "./chart.js";
import * as cells from "./cells.js";

const at = (id) => document.getElementById(id);
const PAUSE_MS = 1000, BUSY_PAUSE_MS = 300, RETRY_MS = 5000;
const FLASH_MS = 1800; // how long a block that is used again stands out
const SAMPLES = 60;

let timer = 0, asking = false, isBusy = () => false;
let seen = new Map(); // "group:index:tier" to {key, owner, held, age, reused, flash}
let last = null; // {time_s, output}: of the snapshot before
let alone = 0; // the owner, where one request runs: new blocks that nobody holds any more were its
const rates = [];

const isVisible = () => !document.hidden && at("cache").offsetParent !== null;
export const whileBusy = (callback) => (isBusy = callback);

// ---- figures ---------------------------------------------------------------------------------------------------------

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];
function size(bytes) {
  let unit = 0;
  for (; bytes >= 1024 && unit < UNITS.length - 1; unit++) bytes /= 1024;
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}
const count = (number) => number.toLocaleString("en");
const many = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

function showBudget({ stats, block_size, blocks_in_use, blocks }) {
  const { bytes_held: used, bytes_cached: cached, bytes_budget: budget, bytes_swapped: swapped, bytes_offloaded: offloaded } = stats;
  const drawn = blocks.length < blocks_in_use ? `, ${count(blocks.length)} drawn` : "";
  at("cache-summary").textContent = `${many(blocks_in_use, "block")} of ${block_size} tokens${drawn}`;
  [used, cached].forEach((bytes, i) => {
    const part = at("budget").children[i];
    part.style.width = `${(100 * bytes) / budget}%`;
    part.classList.toggle("some", bytes > 0);
  });
  at("budget-used").textContent = `${size(used)} in use, ${size(cached)} kept${swapped ? `, ${size(swapped)} swapped` : ""}${offloaded ? `, ${size(offloaded)} on disk` : ""}`;
  at("budget-all").textContent = `of ${size(budget)}`;
}

function showTiles({ stats, time_s, finished }) {
  if (last && time_s > last.time_s) {
    rates.push((stats.output_tokens - last.output) / (time_s - last.time_s));
    if (rates.length > SAMPLES) rates.shift();
  }
  if (!last || time_s > last.time_s) last = { time_s, output: stats.output_tokens };
  const asked = stats.queried_tokens, latest = finished.slice(-20);
  at("hit-value").textContent = asked ? `${Math.round((100 * stats.hit_tokens) / asked)} %` : "–";
  bars(at("hit-chart"), latest.map((one) => one.cached_tokens / Math.max(1, one.prompt_tokens)), 1);
  at("rate-value").textContent = rates.length ? speed(rates[rates.length - 1]) : "–";
  curve(at("rate-chart"), rates, SAMPLES);
  at("ttft-value").textContent = latest.length ? seconds(latest[latest.length - 1].ttft_s) : "–";
  bars(at("ttft-chart"), latest.map((one) => one.ttft_s), Math.max(...latest.map((one) => one.ttft_s), 1e-6));
}

// What happened last: a request took blocks over, or an answer ended.
let told = 0; // the number of the answer
function showNote({ finished }) {
  const one = finished[finished.length - 1], taken = [...seen.values()].filter((block) => block.held && block.again), note = at("note");
  let text = "";
  if (one && one.number !== told) {
    const { cached_tokens: cached, prompt_tokens: all } = one;
    text = cached ? `Last prompt: ${count(cached)} of ${many(all, "token")} were in the cache, ${count(all - cached)} computed.` : `Last prompt: none of its ${many(all, "token")} were in the cache.`;
    told = one.number;
  } else if (taken.length) {
    text = `A new request goes on from ${many(taken.length, "block")} that were there already.`;
  }
  if (text) note.textContent = text;
  note.hidden = !note.textContent;
}

function showOwners({ requests, blocks }) {
  const held = new Map();
  for (const [, , state, , , , owner] of blocks) if (!(state & cells.CACHED)) held.set(owner, (held.get(owner) ?? 0) + 1);
  const rows = requests.slice(0, 6).map(({ id, owner }) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = `var(--cell-${cells.hue(owner)})`;
    item.append(swatch, `Request ${id}: ${many(held.get(owner) ?? 0, "block")}`);
    return item;
  });
  if (requests.length > 6) rows.push(Object.assign(document.createElement("li"), { textContent: `and ${requests.length - 6} more` }));
  at("owners").replaceChildren(...rows);
}

// ---- blocks ------------------------------------------------------------------------------------------------------------

// A block of the reply, with what is known of its past.
function remember(row, now) {
  const [group, index, state, references, tokens, position, owner, age, key] = row;
  const name = `${group}:${index}:${state & (cells.SWAPPED | cells.OFFLOADED)}`, held = !(state & cells.CACHED);
  const past = seen.get(name);
  const same = past && key !== null && past.key === key;
  const again = same && (held ? !past.held || (past.owner !== owner && references > 1) : !past.held && age < past.age);
  const block = {
    group, index, state, references, tokens, position, age, key, held, again,
    owner: held ? owner : past && (same || past.key === null) ? past.owner : alone,
    reused: Boolean(state & cells.PROTECTED) || again || Boolean(same && past.reused),
    flash: again ? now + FLASH_MS : same ? past.flash : 0,
  };
  return [name, block];
}

function show(reply) {
  const now = performance.now();
  const runs = reply.requests.length === 1 ? reply.requests[0].owner : 0;
  alone ||= runs;
  seen = new Map(reply.blocks.map((row) => remember(row, now)));
  alone = runs;
  showBudget(reply);
  showTiles(reply);
  showNote(reply);
  showOwners(reply);
  cells.show(reply, [...seen.values()]);
}

// ---- asking --------------------------------------------------------------------------------------------------------------

function plan(ms) {
  clearTimeout(timer);
  timer = isVisible() ? setTimeout(poll, ms) : 0;
}

async function poll() {
  if (asking || !isVisible()) return;
  asking = true;
  let pause = RETRY_MS;
  try {
    const reply = await get("kv");
    show(reply);
    pause = isBusy() || reply.stats.running ? BUSY_PAUSE_MS : PAUSE_MS;
  } catch (error) {
    at("cache-summary").textContent = error.message;
    last = null;
  }
  asking = false;
  plan(pause);
}

export const wake = () => plan(0);
export const recolour = () => cells.recolour();
document.addEventListener("visibilitychange", wake);
addEventListener("resize", wake);
