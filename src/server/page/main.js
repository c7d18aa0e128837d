// main.js - puts the page together: keys, settings, theme, what a narrow screen shows.
import * as api from "./api.js";
import * as cache from "./cache.js";
import * as chat from "./chat.js";
import { DEFAULTS, SAMPLING, conversations, newConversation, saveConversations, saveSettings, settings } from "./store.js";

const at = (id) => document.getElementById(id);
const question = at("question"), dialog = at("settings");

// ---- the model's name ---------------------------------------------------------------------------------------------------

async function meetModel() {
  try {
    const model = (await api.get("v1/models")).data[0];
    chat.setModel(model.id);
    at("model").textContent = model.id;
    document.title = `${model.id} - Kvasir`;
  } catch (error) {
    at("model").textContent = error.status === 401 ? "API key wanted" : "not reached";
    if (error.status === 401 && !dialog.open) openSettings("key");
  }
}

// ---- composer ---------------------------------------------------------------------------------------------------------------

function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight + 2}px`;
  question.style.overflowY = question.scrollHeight > question.clientHeight ? "auto" : "hidden";
}

function send() {
  if (!chat.ask(question.value)) return;
  question.value = "";
  fit();
}

question.addEventListener("input", fit);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", () => {
  chat.stop();
  question.focus();
});
at("starters").addEventListener("click", (event) => {
  if (event.target.closest("button")) chat.ask(event.target.textContent);
});

// ---- conversations and views ----------------------------------------------------------------------------------------------

function openChats(open) {
  at("chats").classList.toggle("open", open);
  at("open-chats").setAttribute("aria-expanded", String(open));
}

function view(name) {
  document.body.dataset.view = name;
  for (const one of ["chat", "cache"]) at(`view-${one}`).setAttribute("aria-pressed", String(one === name));
  cache.wake();
}

at("open-chats").addEventListener("click", () => openChats(!at("chats").classList.contains("open")));
at("chat-list").addEventListener("click", (event) => event.target.closest(".pick") && openChats(false));
at("new-chat").addEventListener("click", () => {
  chat.show(newConversation());
  openChats(false);
  question.focus();
});
for (const one of ["chat", "cache"]) at(`view-${one}`).addEventListener("click", () => view(one));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || dialog.open || event.isComposing) return;
  if (at("chats").classList.contains("open")) {
    openChats(false);
    at("open-chats").focus();
  } else {
    chat.stop();
  }
});

// ---- theme ----------------------------------------------------------------------------------------------------------------------

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (settings.theme ? settings.theme === "dark" : darkSystem.matches);

function applyTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  at("theme").setAttribute("aria-label", isDark() ? "Change to light" : "Change to dark");
  cache.recolour();
}

at("theme").addEventListener("click", () => {
  settings.theme = isDark() ? "light" : "dark";
  saveSettings();
  applyTheme();
});
darkSystem.addEventListener("change", applyTheme);

// ---- settings -------------------------------------------------------------------------------------------------------------------

function openSettings(focus = "system") {
  at("system").value = settings.system ?? "";
  for (const name of SAMPLING) at(name).value = settings[name] ?? "";
  at("key").value = api.key.get();
  at("keep").checked = Boolean(settings.keep);
  dialog.showModal();
  at(focus).focus();
}

function takeSettings() {
  settings.system = at("system").value.trim() || undefined;
  for (const name of SAMPLING) settings[name] = at(name).value === "" ? undefined : Number(at(name).value);
  settings.keep = at("keep").checked;
  const changed = at("key").value !== api.key.get();
  api.key.set(at("key").value);
  saveSettings();
  saveConversations();
  if (changed) meetModel(), cache.wake();
}

at("open-settings").addEventListener("click", () => openSettings());
at("close-settings").addEventListener("click", () => dialog.close());
at("reset").addEventListener("click", () => {
  for (const name of ["system", ...SAMPLING]) at(name).value = DEFAULTS[name] ?? "";
});
at("settings-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeSettings();
  dialog.close();
});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it

// ---- begin --------------------------------------------------------------------------------------------------------------------------

chat.whenChanged(cache.wake);
cache.whileBusy(chat.isAnswering);
applyTheme();
view("chat");
chat.show(conversations[0] ?? newConversation());
meetModel();
if (matchMedia("(hover: hover)").matches) question.focus(); // on a phone the keyboard would cover the page
