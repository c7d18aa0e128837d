// chat.js - conversations on the screen: questions, answers as they are written, what each of them cost.
//
// A message has one element for as long as it lives. Answers may be written in several conversations at once; what is not shown is
// not drawn.
import * as api from "./api.js";
import { render } from "./markdown.js";
import { SAMPLING, conversations, dropConversation, newConversation, saveConversations, settings } from "./store.js";

const at = (id) => document.getElementById(id);
const log = at("log"), list = at("messages"), question = at("question");
const running = new Map(); // conversation to its AbortController
const elements = new WeakMap(); // message to its element
let shown = null; // the conversation on the screen
let model = null;
let chats = true; // the model has a chat template; one that has none continues a text
let onChange = () => {};

export const setModel = (name) => (model = name);
export const isAnswering = () => running.size > 0;
export const whenChanged = (callback) => (onChange = callback); // an answer begins or ends

function make(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function button(text, action, label) {
  const node = make("button", "", text);
  node.type = "button";
  node.addEventListener("click", action);
  if (label) node.setAttribute("aria-label", label);
  return node;
}

// ---- figures under an answer ------------------------------------------------------------------------------------------

const count = (number) => number.toLocaleString("en");
export const seconds = (s) => (s < 0.9995 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);
export const speed = (rate) => (rate && rate < 10 ? rate.toFixed(1) : count(Math.round(rate)));

function usage(message) {
  const node = make("span", "usage");
  const { usage: told, state, finish } = message;
  const add = (text, title = "") => {
    const part = make("span", "", text);
    part.title = title;
    node.append(part);
    return part;
  };
  if (state === "stopped") add("stopped");
  if (finish === "length") add("ended by its limit", "The most tokens, or the context, were reached");
  if (told) {
    const cached = told.prompt_tokens_details?.cached_tokens ?? 0, share = make("span", "share"), bar = make("i");
    bar.style.width = `${(100 * cached) / Math.max(1, told.prompt_tokens)}%`;
    share.append(bar);
    add(`${count(told.prompt_tokens)} prompt tokens, ${count(cached)} from cache`, "Tokens of the prompt, and how many of them the KV cache held").prepend(share);
    add(`${count(told.completion_tokens)} tokens`);
  }
  if (message.tokens_per_s) add(`${speed(message.tokens_per_s)} tok/s`);
  if (message.ttft_s !== undefined) add(`first token ${seconds(message.ttft_s)}`);
  return node;
}

// ---- messages to elements -----------------------------------------------------------------------------------------------

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not a secure context: the old way
    const area = make("textarea");
    area.value = text;
    from.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    from.focus();
  }
  const before = from.textContent;
  from.textContent = "Copied";
  setTimeout(() => (from.textContent = before), 1200);
}

function drawQuestion(message, node) {
  const said = make("div", "said", message.content), tools = make("div", "tools");
  said.dir = "auto";
  tools.append(button("Edit", () => edit(message), "Edit this question and ask again"));
  node.replaceChildren(make("h2", "unseen", "You"), said, tools);
}

function drawWaiting() {
  const waiting = make("div", "waiting");
  waiting.setAttribute("aria-label", "Waiting for the first token");
  waiting.setAttribute("role", "img");
  waiting.append(make("i"), make("i"), make("i"));
  return waiting;
}

// What a model thinks before it answers is folded away: [thought or null, answer].
function split(content) {
  const begin = content.match(/^\s*<think>/), end = content.indexOf("</think>");
  if (!begin) return [null, content];
  return end < 0 ? [content.slice(begin[0].length), ""] : [content.slice(begin[0].length, end), content.slice(end + "</think>".length)];
}

function drawThought(node, thought) {
  let frame = node.querySelector(".thought");
  if (!thought?.trim()) return frame?.remove();
  if (!frame) {
    frame = make("details", "thought");
    frame.append(make("summary", "", "Thoughts"), make("div", "text"));
    node.querySelector("h2").after(frame);
  }
  render(frame.lastChild, thought);
}

function drawAnswer(message, node) {
  let text = node.querySelector(":scope > .text");
  if (!text) {
    text = make("div", "text");
    text.dir = "auto";
    node.replaceChildren(make("h2", "unseen", "Answer"), text);
  }
  const [thought, answered] = split(message.content);
  drawThought(node, thought);
  node.setAttribute("aria-busy", String(message.state === "waiting" || message.state === "streaming"));
  while (text.nextSibling) text.nextSibling.remove();
  if (message.state === "waiting") node.append(drawWaiting());
  else render(text, answered);
  if (message.error) {
    const error = make("p", "error", message.error);
    error.setAttribute("role", "alert");
    node.append(error);
  }
  if (message.state === "waiting" || message.state === "streaming") return;
  const tools = make("div", "tools");
  const copier = button("Copy", () => copy(answered.trim(), copier), "Copy this answer");
  tools.append(copier, button("Regenerate", () => regenerate(message), "Answer this question again"), usage(message));
  node.append(tools);
}

function elementOf(message) {
  let node = elements.get(message);
  if (!node) {
    node = make("article", `message ${message.role}`);
    elements.set(message, node);
    draw(message);
  }
  return node;
}

function draw(message) {
  const node = elements.get(message);
  if (message.role === "user") drawQuestion(message, node);
  else drawAnswer(message, node);
}

// ---- keeping up with a stream ---------------------------------------------------------------------------------------------

let following = true; // the end is shown, and stays so as the text grows
let top = 0;
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 60;

function follow(wanted) {
  following = wanted;
  if (following) log.scrollTop = log.scrollHeight;
  at("latest").hidden = following;
}

const dirty = new Set();
let painting = false;

function paint() {
  painting = false;
  const began = performance.now();
  for (const message of dirty) if (elements.get(message)?.isConnected) draw(message);
  dirty.clear();
  follow(following);
  return performance.now() - began;
}

// A long text takes longer to draw: it is drawn less often, so that the page stays quick.
let pause = 0;
function schedule(message) {
  dirty.add(message);
  if (painting) return;
  painting = true;
  setTimeout(() => requestAnimationFrame(() => (pause = Math.min(1000, 4 * paint()))), pause);
}

// ---- asking -----------------------------------------------------------------------------------------------------------------

// A model may write what JSON's readers refuse.
const legal = (text) => text.toWellFormed().replaceAll("\0", "\ufffd");

function requestOf(conversation) {
  const messages = conversation.messages.filter((one) => one.state !== "waiting").map(({ role, content }) => ({ role, content: legal(content) }));
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const body = chats ? { messages } : { prompt: messages.map((one) => one.content).join("\n\n") };
  if (model) body.model = model;
  for (const name of SAMPLING) if (settings[name] !== undefined) body[name] = settings[name];
  return body;
}

async function read(conversation, message, signal) {
  const began = performance.now();
  let first = 0, last = 0;
  for await (const event of api.stream(chats ? "v1/chat/completions" : "v1/completions", requestOf(conversation), signal)) {
    const choice = event.choices[0], text = choice?.delta?.content ?? choice?.text;
    if (text) {
      last = performance.now();
      first ||= last;
      message.ttft_s = (first - began) / 1000;
      message.state = "streaming";
      message.content += text;
      schedule(message);
    }
    if (choice?.finish_reason) message.finish = choice.finish_reason;
    if (event.usage) message.usage = event.usage;
  }
  message.state = "done";
  const tokens = message.usage?.completion_tokens ?? 0;
  if (tokens > 1 && last > first) message.tokens_per_s = (tokens - 1) / ((last - first) / 1000);
}

async function answer(conversation) {
  const message = { role: "assistant", content: "", state: "waiting" }, control = new AbortController();
  conversation.messages.push(message);
  running.set(conversation, control);
  if (shown === conversation) list.append(elementOf(message));
  if (shown === conversation) follow(true);
  refresh();
  at("announce").textContent = "Answering";
  try {
    await read(conversation, message, control.signal).catch((error) => {
      if (!chats || !/no chat template/.test(error.message)) throw error;
      chats = false;
      at("welcome").querySelector(".hello").textContent = question.placeholder = "Begin a text: this model continues it";
      return read(conversation, message, control.signal);
    });
  } catch (error) {
    message.state = error.name === "AbortError" ? "stopped" : "failed";
    if (message.state === "failed") message.error = error.message;
  }
  running.delete(conversation);
  if (elements.has(message)) dirty.add(message), paint();
  if (shown === conversation) at("announce").textContent = message.error ?? `Answer: ${message.content.slice(0, 2000)}`;
  saveConversations();
  refresh();
}

export function ask(text) {
  const said = text.trim();
  if (!said || running.has(shown)) return false;
  const message = { role: "user", content: said };
  if (!shown.messages.length) shown.title = said.replace(/\s+/g, " ").slice(0, 60);
  shown.messages.push(message);
  list.append(elementOf(message));
  answer(shown);
  return true;
}

export const stop = () => running.get(shown)?.abort();

// What follows a message is dropped, in the conversation and on the screen.
function cut(index) {
  for (const message of shown.messages.splice(index)) elements.get(message)?.remove();
}

function regenerate(message) {
  if (running.has(shown)) return;
  cut(shown.messages.indexOf(message));
  answer(shown);
}

function edit(message) {
  if (running.has(shown)) return;
  cut(shown.messages.indexOf(message));
  question.value = message.content;
  question.dispatchEvent(new Event("input"));
  question.focus();
  refresh();
}

// ---- conversations -------------------------------------------------------------------------------------------------------------

function row(conversation) {
  const item = make("li", conversation === shown ? "now" : "");
  const pick = button(conversation.title, () => show(conversation));
  pick.className = `pick${running.has(conversation) ? " busy" : ""}`;
  pick.title = conversation.title;
  if (conversation === shown) pick.setAttribute("aria-current", "true");
  const drop = button("×", () => remove(conversation), `Delete ${conversation.title}`);
  drop.className = "drop";
  item.append(pick, drop);
  return item;
}

function remove(conversation) {
  running.get(conversation)?.abort();
  dropConversation(conversation);
  saveConversations();
  show(conversation === shown ? (conversations[0] ?? newConversation()) : shown);
  question.focus();
}

function refresh() {
  const busy = running.has(shown);
  at("send").hidden = busy;
  at("stop").hidden = !busy;
  at("welcome").hidden = shown.messages.length > 0;
  at("chat-list").replaceChildren(...conversations.map(row));
  onChange();
}

export function show(conversation) {
  shown = conversation;
  list.replaceChildren(...conversation.messages.map(elementOf));
  for (const message of conversation.messages) draw(message);
  follow(true);
  refresh();
}

// Only who scrolls up stops following; a text or a window that changes its size does not.
log.addEventListener("scroll", () => {
  following = isAtEnd() || (following && log.scrollTop >= top);
  top = log.scrollTop;
  at("latest").hidden = following;
}, { passive: true });
new ResizeObserver(() => follow(following)).observe(log);
at("latest").addEventListener("click", () => follow(true));
log.addEventListener("click", (event) => {
  const from = event.target.closest("button.copy");
  if (from) copy(from.closest(".code").querySelector("code").textContent, from);
});
