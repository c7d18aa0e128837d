// store.js - settings and conversations, and what of them this browser keeps.
//
// A conversation is {title, messages}; a message {role, content} and, of an answer, {state, error, usage, ttft_s, tokens_per_s,
// finish}; state: "waiting", "streaming", "done", "stopped", "failed".

const SETTINGS = "kvasir.settings", CONVERSATIONS = "kvasir.conversations";
const KEPT_MAX = 4e6; // characters

function load(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(name, value) {
  try {
    const text = JSON.stringify(value);
    if (text.length <= KEPT_MAX) localStorage.setItem(name, text);
  } catch {
    // no storage here: they live as long as the page
  }
}

export const DEFAULTS = { temperature: 0.7, top_p: 0.9, max_tokens: 2048 }; // what suits a chat with a small model
export const settings = load(SETTINGS, { ...DEFAULTS }); // system, keep, theme, and by the API's names what an answer is sampled with
export const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
export const saveSettings = () => save(SETTINGS, settings);

const begin = () => ({ title: "New conversation", messages: [] });
const kept = settings.keep ? load(CONVERSATIONS, []) : [];
export const conversations = Array.isArray(kept) ? kept.map((one) => ({ ...begin(), ...one })) : [];
for (const message of conversations.flatMap((one) => one.messages)) if (["waiting", "streaming"].includes(message.state)) message.state = "stopped";

export function newConversation() {
  const empty = conversations.find((one) => !one.messages.length);
  if (!empty) conversations.unshift(begin());
  return empty ?? conversations[0];
}

export function dropConversation(conversation) {
  conversations.splice(conversations.indexOf(conversation), 1);
}

export function saveConversations() {
  if (!settings.keep) localStorage.removeItem(CONVERSATIONS);
  else save(CONVERSATIONS, conversations.map(({ title, messages }) => ({ title, messages })));
}
