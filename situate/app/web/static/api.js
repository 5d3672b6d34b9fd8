// Requests to the application.

const KEY = "situate-key";

export const key = () => sessionStorage.getItem(KEY);
export const setKey = (text) => sessionStorage.setItem(KEY, text);

function headers() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

async function failure(status, text) {
  let message = `the server answered ${status}`;
  try {
    message = JSON.parse(text).error ?? message;
  } catch { /* no JSON: a proxy's own page, say */ }
  return Object.assign(new Error(message), { status });
}

async function request(method, path, body, signal) {
  const options = { method, signal, headers: headers() };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`/api${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response.status, await response.text());
  return response;
}

/** The JSON (or blob) that a request is answered with. */
export async function api(method, path, body, kind = "json") {
  const response = await request(method, path, body);
  return response.status === 204 ? null : response[kind]();
}

/** The server-sent events that a request is answered with. */
export async function* events(method, path, body, signal) {
  const response = await request(method, path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (held + value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = block.match(/^event: (\w+)\ndata: (.*)$/) ?? [];
      if (name) yield { name, data: JSON.parse(data) };
    }
  }
}

/** Sends a file, and tells how much of it has been sent (0 to 1). */
export function send(path, file, progress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", `/api${path}`);
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.upload.onprogress = (event) => progress(event.lengthComputable ? event.loaded / event.total : 0);
    sending.onerror = () => reject(new Error("The server cannot be reached, or refused the file."));
    sending.onload = async () => {
      if (sending.status < 300) resolve(JSON.parse(sending.responseText));
      else reject(await failure(sending.status, sending.responseText));
    };
    sending.send(file);
  });
}
