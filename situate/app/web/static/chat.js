// The page of the chat application. Whatever comes from documents, questions, file names or the model becomes text
// nodes: nothing is ever parsed as HTML, and the page's policy (Trusted Types) forbids it.

import { answerNodes, headings } from "./answer.js";
import { h, announce, ask, problem, place } from "./page.js";
import { api, events, key, send, setKey } from "./api.js";

const $ = (id) => document.getElementById(id);
const state = { about: null, collection: "documents", conversation: null, stopping: null, documents: new Map() };
const inCollection = (path) => `/collections/${encodeURIComponent(state.collection)}${path}`;

// ---------------------------------------------------------------------------------------------- documents

function documentState(doc) {
  const count = (number, word) => `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
  if (doc.state === "ready") {
    return [doc.pages && count(doc.pages, "page"), doc.chunks && count(doc.chunks, "passage")].filter(Boolean).join(", ");
  }
  if (doc.state === "failed") return doc.detail;
  if (doc.state === "uploading") return `uploading, ${Math.round(100 * doc.done)} %`;
  if (doc.state !== "indexing") return doc.state;
  return `indexing ${count(doc.characters, "character")}${doc.done ? `, ${Math.round(100 * doc.done)} %` : ""}`;
}

function showDocuments() {
  const items = [...state.documents.values()].map((doc) =>
    h("li", { class: doc.state, "data-id": doc.id },
      h("div", {},
        h("span", { class: "name", title: doc.id }, doc.id.split("/").pop()),
        h("span", { class: "state" }, documentState(doc)),
        ["uploading", "waiting", "reading", "indexing"].includes(doc.state)
          ? h("progress", { max: 1, value: doc.done ?? null, "aria-label": `Progress of ${doc.id}` }) : null),
      h("button", { class: "quiet", type: "button", "aria-label": `Delete ${doc.id}`, onclick: () => remove(doc) }, "\u2715")));
  $("documents").replaceChildren(...(items.length ? items : [h("li", { class: "faint" }, h("span", {}, "None yet"))]));
}

async function loadDocuments() {
  const uploading = [...state.documents.values()].filter((doc) => doc.state === "uploading");
  const documents = await api("GET", inCollection("/documents"));
  state.documents = new Map([...documents, ...uploading].map((doc) => [doc.id, doc]));
  showDocuments();
  if (documents.some((doc) => ["waiting", "reading", "indexing"].includes(doc.state))) follow();
}

let following = false;

async function follow() {
  if (following) return;
  following = true;
  const { collection } = state;
  try {
    for await (const { data } of events("GET", inCollection("/documents/events"))) {
      if (state.collection !== collection) break;
      state.documents.set(data.id, data);
      showDocuments();
      if (data.state === "ready") announce(`${data.id} is ready`);
      if (data.state === "failed") announce(`${data.id} failed: ${data.detail}`);
    }
  } catch (error) {
    problem(error);
  } finally {
    following = false;
  }
  await loadDocuments();
}

async function upload(files) {
  await started;
  for (const file of files) {
    const doc = { id: file.name, state: "uploading", done: 0 };
    state.documents.set(doc.id, doc);
    showDocuments();
    try {
      if (file.size > state.about.file_bytes) {
        throw new Error(`larger than ${Math.round(state.about.file_bytes / 2 ** 20)} MB`);
      }
      const path = inCollection(`/documents?name=${encodeURIComponent(file.name)}`);
      const record = await send(path, file, (done) => { doc.done = done; showDocuments(); });
      state.documents.delete(doc.id);
      state.documents.set(record.id, record);
      follow();
    } catch (error) {
      state.documents.set(doc.id, { ...doc, state: "failed", detail: error.message });
      announce(`${file.name} failed: ${error.message}`);
    }
    showDocuments();
  }
}

async function remove(doc) {
  if (!(await ask(`Delete ${doc.id}?`, { yes: "Delete" }))) return;
  if (doc.bytes !== undefined) await api("DELETE", inCollection(`/documents?id=${encodeURIComponent(doc.id)}`));
  state.documents.delete(doc.id);
  showDocuments();
  announce(`${doc.id} was deleted`);
  $("files").focus();
}

// ---------------------------------------------------------------------------------------------- conversations

async function loadConversations() {
  const conversations = await api("GET", inCollection("/conversations"));
  $("conversations").replaceChildren(...conversations.map(({ id, title }) =>
    h("li", { "aria-current": id === state.conversation ? "true" : null },
      h("button", { class: "quiet", type: "button", onclick: () => open(id) }, h("span", { class: "name" }, title)),
      h("button", { class: "quiet", type: "button", "aria-label": `Delete the conversation ${title}`, onclick: () => forget(id, title) }, "\u2715"))));
}

async function open(id) {
  const messages = await api("GET", inCollection(`/conversations/${id}`));
  begin(id);
  for (const message of messages) {
    if (message.speaker === "user") showQuestion(message.text);
    else new Answer().finish(message);
  }
  await loadConversations();
}

async function forget(id, title) {
  if (!(await ask(`Delete the conversation \u201c${title}\u201d?`, { yes: "Delete" }))) return;
  await api("DELETE", inCollection(`/conversations/${id}`));
  if (id === state.conversation) begin(null);
  await loadConversations();
}

function begin(conversation) {
  state.stopping?.abort();
  state.conversation = conversation;
  closeSource();
  const welcome = h("li", { class: "welcome" },
    h("p", {}, "Ask a question about your documents."), h("p", { class: "faint" }, "Every answer names its sources."));
  $("messages").replaceChildren(...(conversation ? [] : [welcome]));
}

// ---------------------------------------------------------------------------------------------- questions and answers

function showMessage(item) {
  document.querySelector(".welcome")?.remove();
  $("messages").append(item);
  item.scrollIntoView({ block: "end" });
}

function showQuestion(text) {
  showMessage(h("li", { class: "user" }, h("span", { class: "sr" }, "You: "), h("div", {}, text)));
}

class Answer {
  constructor() {
    this.text = "";
    this.passages = [];
    this.notices = [];
    this.drawing = 0;
    this.drawn = 0;
    this.citations = new Map();
    this.body = h("div", { class: "text" });
    this.hint = h("p", { class: "faint" });
    this.foot = h("div", {});
    this.item = h("li", { class: "assistant", "aria-busy": "true" }, h("span", { class: "sr" }, "Answer: "), this.hint, this.body, this.foot);
    showMessage(this.item);
  }

  take(name, data) {
    if (name === "search") {
      if (data.queries.length) this.hint.textContent = `Searched for: ${data.queries.join("; ")}`;
    } else if (name === "passages") this.passages = data.passages;
    else if (name === "text") this.text += data.text;
    else if (name === "replace") this.text = data.text;
    else if (name === "notice") this.notices.push(data.text);
    else if (name === "error") this.notices.push(data.error);
    else if (name === "done") { this.finish({ ...data, text: this.text }); return; }
    this.drawing ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = 0;
    const list = $("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    this.drawn = 0;
    this.body.replaceChildren(...answerNodes(this.text, (number) => this.citation(number)));
    focused?.focus({ preventScroll: true });
    this.foot.replaceChildren(...this.notices.map((text) => h("p", { class: "notice" }, text)));
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  finish({ text, passages = [], cited = [], notice = null }) {
    this.text = text;
    this.passages = passages;
    if (notice) this.notices = [notice];
    this.draw();
    this.item.removeAttribute("aria-busy");
    const source = (passage) => h("li", {},
      h("button", { type: "button", onclick: (event) => openSource(passage, event.currentTarget) },
        h("span", { class: "number" }, String(passage.number)), h("span", {}, place(passage)),
        passage.pages.length ? h("span", { class: "faint" }, `p. ${passage.pages.join("\u2013")}`) : null));
    const named = passages.filter((passage) => cited.includes(passage.number));
    const others = passages.filter((passage) => !cited.includes(passage.number));
    if (named.length) this.foot.append(h("ol", { class: "sources", "aria-label": "Sources" }, ...named.map(source)));
    if (others.length) {
      this.foot.append(h("details", {}, h("summary", {}, "Other passages that were found"), h("ol", { class: "sources" }, ...others.map(source))));
    }
    this.item.scrollIntoView({ block: "nearest" });
  }

  /** The same button each time that the answer is drawn: it may have the focus, or have opened its source. */
  citation(number) {
    const find = () => this.passages.find((one) => one.number === number);
    const passage = find();
    if (!passage) return null;
    const key = `${this.drawn++}:${number}`;
    if (!this.citations.has(key)) {
      this.citations.set(key, h("button", {
        type: "button", class: "cite", "aria-expanded": "false", "aria-controls": "source",
        "aria-label": `Source ${number}: ${place(passage)}`, title: place(passage),
        onclick: (event) => openSource(find() ?? passage, event.currentTarget),
      }, String(number)));
    }
    return this.citations.get(key);
  }
}

async function submit(question) {
  const answering = new AbortController();
  state.stopping = answering;
  $("stop").hidden = false;
  $("send").disabled = true;
  showQuestion(question);
  const answer = new Answer();
  const { conversation } = state;
  try {
    for await (const { name, data } of events("POST", inCollection("/ask"), { question, conversation }, answering.signal)) {
      answer.take(name, data);
      if (name === "done" && state.stopping === answering) state.conversation = data.conversation;
    }
  } catch (error) {
    if (error.name !== "AbortError") answer.take("error", { error: error.message });
  }
  // Stopped, or broken off: what has come is shown with what was found.
  if (answer.item.hasAttribute("aria-busy")) answer.finish({ text: answer.text, passages: answer.passages });
  if (state.stopping === answering) {
    state.stopping = null;
    $("stop").hidden = true;
    $("send").disabled = false;
  }
  await loadConversations();
}

// ---------------------------------------------------------------------------------------------- sources

let opener = null;

async function openSource(passage, button) {
  closeSource(false);
  opener = button;
  button.setAttribute("aria-expanded", "true");
  const marks = passage.marks.map(([a, b]) => `${passage.start + a}-${passage.start + b}`).join(",");
  const query = new URLSearchParams({ id: passage.document, start: passage.start, end: passage.end, marks });
  try {
    const view = await api("GET", inCollection(`/view?${query}`));
    $("source-title").textContent = view.title;
    const pages = passage.pages.length ? `page ${passage.pages.join("\u2013")}` : "";
    $("source-place").textContent = [passage.headings.join(" \u203a "), pages].filter(Boolean).join(", ");
    $("source-text").replaceChildren(
      view.cut[0] ? "\u2026\n" : "",
      ...view.parts.map((part) => part.marked ? h("mark", {}, ...headings(part.text))
        : h("span", { class: part.passage ? "passage" : null }, ...headings(part.text))),
      view.cut[1] ? "\n\u2026" : "");
    $("source").hidden = false;
    $("source-title").focus({ preventScroll: true });
    ($("source-text").querySelector("mark") ?? $("source-text").querySelector(".passage"))?.scrollIntoView({ block: "center" });
    if (view.pdf && passage.page) await showPage(passage, query);
  } catch (error) {
    problem(error);
  }
}

async function showPage(passage, query) {
  query.set("page", passage.page);
  const image = $("source-page");
  const url = URL.createObjectURL(await api("GET", inCollection(`/page?${query}`), undefined, "blob"));
  image.onload = () => URL.revokeObjectURL(url);
  image.src = url;
  image.alt = `Page ${passage.page} of ${passage.title}; its text follows`;
  image.hidden = false;
  $("source").scrollTop = 0;
}

function closeSource(focus = true) {
  $("source").hidden = true;
  $("source-page").hidden = true;
  $("source-page").removeAttribute("src");
  opener?.setAttribute("aria-expanded", "false");
  if (focus) opener?.focus();
  opener = null;
}

// ---------------------------------------------------------------------------------------------- collections, start

async function loadCollections() {
  const names = await api("GET", "/collections");
  if (!names.includes(state.collection)) [state.collection] = names;
  $("collection").replaceChildren(...names.map((name) => h("option", { value: name, selected: name === state.collection ? "" : null }, name)));
  $("drop-collection").hidden = state.collection === "documents";
}

async function choose(collection) {
  state.collection = collection;
  state.documents = new Map();
  begin(null);
  await loadCollections();
  await Promise.all([loadDocuments(), loadConversations()]);
}

async function start() {
  try {
    state.about = await api("GET", "/about");
  } catch (error) {
    if (error.status !== 401) throw error;
    const given = await ask(key() ? "This key is not known here." : "Your API key", { input: "password", yes: "Open" });
    if (!given) return;
    setKey(given);
    await start();
    return;
  }
  const { title, types, model } = state.about;
  document.title = title;
  $("title").textContent = title;
  $("files").accept = types.join(",");
  $("model").textContent = model ? "" : "Without a language model: answers are quotations.";
  await choose(state.collection);
  $("question").focus();
}

const guarded = (work) => (...args) => Promise.resolve(work(...args)).catch(problem);

$("files").addEventListener("change", guarded(async () => { await upload([...$("files").files]); $("files").value = ""; }));
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name === "drop") guarded(upload)([...event.dataTransfer.files]);
  });
}
$("form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || state.stopping) return;
  $("question").value = "";
  await submit(question);
}));
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("dialog").open) return;
  if (!$("source").hidden) closeSource();
  else $("library").classList.remove("open");
});
$("stop").addEventListener("click", () => state.stopping?.abort());
$("new").addEventListener("click", guarded(async () => { begin(null); await loadConversations(); $("question").focus(); }));
$("close-source").addEventListener("click", () => closeSource());
$("open-library").addEventListener("click", () => { $("library").classList.add("open"); $("close-library").focus(); });
$("close-library").addEventListener("click", () => { $("library").classList.remove("open"); $("open-library").focus(); });
$("collection").addEventListener("change", guarded(() => choose($("collection").value)));
$("add-collection").addEventListener("click", guarded(async () => {
  const name = await ask("Name of the new collection (small letters, digits, - and _)", { input: "text", yes: "Make" });
  if (!name) return;
  await api("POST", "/collections", { name });
  await choose(name);
}));
$("drop-collection").addEventListener("click", guarded(async () => {
  if (!(await ask(`Delete the collection ${state.collection} with all its documents?`, { yes: "Delete" }))) return;
  await api("DELETE", `/collections/${encodeURIComponent(state.collection)}`);
  await choose("documents");
}));

const started = guarded(start)();
