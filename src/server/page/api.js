// api.js - what the page asks the server for. The key is kept in this tab's session and sent as a bearer token.

const KEY = "kvasir.key";
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// status: of HTTP; 0: the server cannot be reached.
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (reply.ok) return reply;
  let message = `The server answered ${reply.status}.`;
  try {
    message = (await reply.json()).error.message;
  } catch {
    // no JSON: the status has to do
  }
  if (reply.status === 401) message = "This server wants an API key: enter it under Settings.";
  throw new ApiError(message, reply.status);
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

// The events of a stream, as objects, until [DONE]. An error in the stream is thrown.
export async function* stream(path, body, signal) {
  const reply = await ask(path, {
    method: "POST", signal, body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    headers: { "Content-Type": "application/json" },
  });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", done = false; !done;) {
    const piece = await reader.read();
    done = piece.done;
    const events = (rest + (piece.value ?? "")).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // a comment that keeps the connection alive
      const value = JSON.parse(data);
      if (value.error) throw new ApiError(value.error.message, value.error.code ?? 500);
      yield value;
    }
  }
  throw new ApiError("The connection ended before the answer did.", 0);
}
