"use strict";

// Everything that comes from the model or from documents reaches the page as text nodes, never as markup.

const TEXTS = {
  pt: {
    skip: "Ir para a pergunta", sessions: "Conversas", new: "Nova conversa", menu: "Conversas", persona: "Persona",
    noPersona: "nenhuma", language: "Switch to English", theme: "Claro ou escuro", question: "Pergunta",
    ask: "Pergunte alguma coisa…", send: "Enviar", stop: "Parar", welcome: "Olá! Eu sou a Luna.",
    welcomeDocs: "Pergunte sobre os seus documentos, ou só converse.", welcomePlain: "Uma pequena inteligência que fala português, nesta máquina.",
    examples: ["Quem é você?", "Conte uma piada", "Como faço café?"], copy: "Copiar", copied: "Copiado.", again: "Refazer",
    good: "Boa resposta", bad: "Resposta ruim", thanks: "Obrigada pela opinião.", sources: "Fontes", page: "página", line: "linha",
    busy: "Luna está respondendo…", ready: "", stopped: "Interrompida.", offline: "O servidor não respondeu.",
    remove: "Apagar conversa", keyTitle: "Este servidor pede uma chave", key: "Chave", ok: "Continuar",
    correctTitle: "O que seria melhor?", correctLabel: "Escreva a resposta que você esperava, se quiser.", skipIt: "Só marcar", sendIt: "Enviar",
    you: "Você", luna: "Luna", tokens: "tokens", untitled: "Conversa",
    think: "Pensar antes de responder", thinking: "Luna está pensando…", thought: "Pensamento",
    onlyThought: "O pensamento não chegou ao fim, e não sobrou lugar para a resposta.",
  },
  en: {
    skip: "Go to the question", sessions: "Conversations", new: "New conversation", menu: "Conversations", persona: "Persona",
    noPersona: "none", language: "Mudar para português", theme: "Light or dark", question: "Question",
    ask: "Ask something…", send: "Send", stop: "Stop", welcome: "Hello! I am Luna.",
    welcomeDocs: "Ask about your documents, or just talk. I speak Portuguese.", welcomePlain: "A small intelligence that speaks Portuguese, on this machine.",
    examples: ["Quem é você?", "Conte uma piada", "Como faço café?"], copy: "Copy", copied: "Copied.", again: "Again",
    good: "Good answer", bad: "Bad answer", thanks: "Thank you.", sources: "Sources", page: "page", line: "line",
    busy: "Luna is answering…", ready: "", stopped: "Stopped.", offline: "The server did not answer.",
    remove: "Delete conversation", keyTitle: "This server asks for a key", key: "Key", ok: "Go on",
    correctTitle: "What would be better?", correctLabel: "Write the answer that you expected, if you like.", skipIt: "Just mark it", sendIt: "Send",
    you: "You", luna: "Luna", tokens: "tokens", untitled: "Conversation",
    think: "Think before answering", thinking: "Luna is thinking…", thought: "Thought",
    onlyThought: "The thought came to no end, and no room was left for an answer.",
  },
};

const $ = (id) => document.getElementById(id);
const kept = (name, fallback) => { try { return JSON.parse(localStorage.getItem(name)) ?? fallback; } catch { return fallback; } };
const keep = (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* full or switched off */ } };

let info = { model: "luna", personas: [], documents: [], language: "pt_BR", can_think: false };
let language = kept("luna.language", null) ?? "pt"; // until the server has said its own
let sessions = kept("luna.sessions", []);
let current = null;
let running = null; // the AbortController of the answer that is coming
const t = (name) => TEXTS[language][name];

// --- elements ---------------------------------------------------------------------------------------------------

function make(tag, { text, cls, label, ...rest } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (cls) element.className = cls;
  if (label) { element.setAttribute("aria-label", label); element.title = label; }
  for (const [name, value] of Object.entries(rest)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A little Markdown: paragraphs, headings, lists, code blocks, bold, italics, code, and citations as links to sources.
function render(target, text, prefix) {
  target.replaceChildren();
  const blocks = text.split(/(```[\s\S]*?(?:```|$))/);
  for (const block of blocks) {
    if (block.startsWith("```")) {
      const body = block.replace(/^```[^\n]*\n?/, "").replace(/```$/, "");
      target.append(make("pre", {}, make("code", { text: body })));
      continue;
    }
    for (const part of block.split(/\n{2,}/)) {
      if (!part.trim()) continue;
      const lines = part.split("\n");
      const heading = /^(#{1,6})\s+(.*)$/.exec(part);
      if (heading && lines.length === 1) target.append(inline(make("h3"), heading[2], prefix));
      else if (lines.every((line) => /^\s*[-*]\s+/.test(line) || !line.trim())) {
        target.append(make("ul", {}, ...lines.filter((line) => line.trim()).map((line) => inline(make("li"), line.replace(/^\s*[-*]\s+/, ""), prefix))));
      } else if (lines.every((line) => /^\s*\d+[.)]\s+/.test(line) || !line.trim())) {
        target.append(make("ol", {}, ...lines.filter((line) => line.trim()).map((line) => inline(make("li"), line.replace(/^\s*\d+[.)]\s+/, ""), prefix))));
      } else {
        const paragraph = make("p");
        lines.forEach((line, index) => { if (index) paragraph.append(make("br")); inline(paragraph, line, prefix); });
        target.append(paragraph);
      }
    }
  }
}

function inline(target, text, prefix) {
  const pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[(\d{1,3})\]/g;
  let last = 0;
  for (const found of text.matchAll(pattern)) {
    target.append(text.slice(last, found.index));
    if (found[1]) target.append(make("code", { text: found[1] }));
    else if (found[2]) target.append(make("strong", { text: found[2] }));
    else if (found[3]) target.append(make("em", { text: found[3] }));
    else if (prefix && $(`${prefix}-${found[4]}`)) {
      const number = found[4];
      target.append(make("a", { text: `[${number}]`, cls: "cite", href: `#${prefix}-${number}`, label: `${t("sources")} ${number}`, onclick: (event) => { event.preventDefault(); showSource(prefix, number); } }));
    } else target.append(found[0]);
    last = found.index + found[0].length;
  }
  target.append(text.slice(last));
  return target;
}

// --- what is said -----------------------------------------------------------------------------------------------

function showQuestion(text) {
  $("log").append(make("div", { cls: "mine" }, make("p", {}, make("span", { cls: "hidden", text: `${t("you")}: ` }), text)));
}

function showAnswer(message) {
  const prefix = `s${Math.random().toString(36).slice(2)}`;
  const text = make("div", { cls: "text" });
  const article = make("article", { cls: "answer", "aria-label": t("luna") }, text);
  $("log").append(article);
  const summary = make("summary"), thought = make("p");
  const folded = make("details", { cls: "thought" }, summary, thought);
  return {
    article,
    think(content, ended) {
      if (!folded.parentNode) article.prepend(folded);
      folded.classList.toggle("running", !ended);
      summary.textContent = t(ended ? "thought" : "thinking");
      thought.textContent = content;
      scroll();
    },
    update(content) { render(text, content, prefix); scroll(); },
    busy(on) { article.classList.toggle("busy", on); article.setAttribute("aria-busy", String(on)); },
    end() { if (message.thinking) this.think(message.thinking, true); showSources(article, message, prefix); render(text, message.content, prefix); showButtons(article, message); scroll(); },
    fail(reason) { article.append(make("p", { cls: "error", role: "alert", text: reason })); },
  };
}

function showSources(article, message, prefix) {
  const passages = message.luna?.passages ?? [];
  if (!passages.length) return;
  const list = passages.map((passage) => {
    const place = passage.page ? `${t("page")} ${passage.page}` : passage.line ? `${t("line")} ${passage.line}` : "";
    const name = passage.title && passage.title !== passage.source ? `${passage.title} (${passage.source})` : passage.source;
    const body = make("p");
    let at = 0;
    const chars = [...passage.text]; // offsets count characters as the server does
    const quotes = (message.luna.citations ?? []).filter((c) => c.number === passage.number).sort((a, b) => a.start - b.start);
    for (const quote of quotes) {
      const start = quote.start - passage.start, end = quote.end - passage.start;
      if (start < at || end > chars.length) continue;
      body.append(chars.slice(at, start).join(""), make("mark", { text: chars.slice(start, end).join("") }));
      at = end;
    }
    body.append(chars.slice(at).join(""));
    return make("section", { cls: "source", id: `${prefix}-${passage.number}` },
      make("b", { text: `[${passage.number}] ${name}` }), make("span", { cls: "quiet", text: [passage.heading, place].filter(Boolean).join(" · ") }), body);
  });
  article.append(make("details", {}, make("summary", { text: `${t("sources")} (${passages.length})` }), ...list));
}

function showSource(prefix, number) {
  const source = $(`${prefix}-${number}`);
  source.closest("details").open = true;
  document.querySelectorAll(".source.shown").forEach((other) => other.classList.remove("shown"));
  source.classList.add("shown");
  source.scrollIntoView({ block: "nearest" });
}

function showButtons(article, message) {
  const footer = make("footer");
  footer.append(
    make("button", { text: t("copy"), type: "button", onclick: async () => { await navigator.clipboard.writeText(message.content); say(t("copied")); } }),
    make("button", { text: "↻", label: t("again"), type: "button", onclick: () => again(message) }));
  for (const [rating, sign] of [["good", "👍"], ["bad", "👎"]]) {
    const button = make("button", { text: sign, label: t(rating), type: "button", "aria-pressed": String(message.rating === rating), onclick: () => rate(message, rating, footer) });
    button.dataset.rating = rating;
    footer.append(button);
  }
  const timings = message.timings;
  if (timings?.predicted_n) footer.append(make("span", { cls: "quiet", text: `${timings.predicted_n} ${t("tokens")} · ${Math.round(timings.predicted_per_second)}/s` }));
  article.append(footer);
}

const say = (text) => { $("status").textContent = text; };
const scroll = () => { const log = $("log"); if (log.scrollHeight - log.scrollTop - log.clientHeight < 240) log.scrollTop = log.scrollHeight; };

// --- the server -------------------------------------------------------------------------------------------------

async function call(path, { body, signal } = {}) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("luna.key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.status === 401) {
    await askKey();
    return call(path, { body, signal });
  }
  if (!response.ok) throw new Error((await response.json().catch(() => null))?.error?.message ?? t("offline"));
  return response;
}

function askKey() {
  return new Promise((done) => {
    const dialog = $("key-dialog");
    dialog.addEventListener("close", () => { sessionStorage.setItem("luna.key", $("key").value); done(); }, { once: true });
    dialog.showModal();
  });
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function answer() {
  const message = { role: "assistant", content: "" };
  const shown = showAnswer(message);
  const persona = $("persona").value;
  running = new AbortController();
  switchButtons(true);
  say(t("busy"));
  shown.busy(true);
  try {
    const body = {
      model: info.model, stream: true,
      messages: current.messages.map(({ role, content }) => ({ role, content })),
      luna: { persona: persona || (info.personas.length ? "off" : null), session: current.id },
    };
    if (info.can_think && $("think").ariaPressed === "true") body.reasoning_effort = "medium";
    const response = await call("v1/chat/completions", { body, signal: running.signal });
    for await (const event of events(response)) {
      message.id = event.id;
      const delta = event.choices[0]?.delta;
      if (delta?.reasoning_content) {
        message.thinking = (message.thinking ?? "") + delta.reasoning_content;
        shown.think(message.thinking, false);
        say(t("thinking"));
      }
      if (delta?.content) {
        if (message.thinking && !message.content) { shown.think(message.thinking, true); say(t("busy")); }
        message.content += delta.content;
        shown.update(message.content);
      }
      if (event.timings) message.timings = event.timings;
      if (event.luna) message.luna = event.luna;
    }
    if (message.thinking && !message.content) shown.fail(t("onlyThought"));
    say(t("ready"));
  } catch (error) {
    if (error.name === "AbortError") say(t("stopped"));
    else { shown.fail(error.message || t("offline")); say(""); }
  } finally {
    running = null;
    if (message.thinking) shown.think(message.thinking, true);
    shown.busy(false);
    switchButtons(false);
    if (message.content) { current.messages.push(message); save(); shown.end(); }
    $("question").focus();
  }
}

async function ask(text) {
  if (running || !text.trim()) return;
  if (!current.messages.length) { $("log").replaceChildren(); current.title = text.trim().slice(0, 60); sessions.unshift(current); }
  current.messages.push({ role: "user", content: text.trim() });
  save();
  showQuestion(text.trim());
  $("log").scrollTop = $("log").scrollHeight;
  await answer();
}

async function again(message) {
  const place = current.messages.indexOf(message);
  if (running || place < 0) return;
  current.messages.length = place;
  show();
  await answer();
}

async function rate(message, rating, footer) {
  let correction = "";
  if (rating === "bad") {
    const dialog = $("correct-dialog");
    $("correction").value = "";
    correction = await new Promise((done) => {
      dialog.addEventListener("close", () => done(dialog.returnValue === "ok" ? $("correction").value : ""), { once: true });
      dialog.showModal();
    });
  }
  try {
    await call("luna/feedback", { body: { id: message.id, rating, correction } });
    message.rating = rating;
    footer.querySelectorAll("[data-rating]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.rating === rating)));
    save();
    say(t("thanks"));
  } catch (error) { say(error.message); }
}

// --- conversations ----------------------------------------------------------------------------------------------

function save() {
  sessions = sessions.slice(0, 100);
  keep("luna.sessions", sessions);
  listSessions();
}

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function begin() {
  current = { id: newId(), title: "", messages: [] };
  show();
  listSessions();
  $("question").focus();
}

function listSessions() {
  $("session-list").replaceChildren(...sessions.map((session) => {
    const item = make("li", { "aria-current": String(session === current) },
      make("button", { text: session.title || t("untitled"), type: "button", onclick: () => { if (!running) { current = session; show(); listSessions(); openMenu(false); } } }),
      make("button", { text: "×", label: `${t("remove")}: ${session.title}`, type: "button", onclick: () => { sessions = sessions.filter((other) => other !== session); save(); if (session === current) begin(); } }));
    return item;
  }));
}

function show() {
  $("log").replaceChildren();
  if (!current.messages.length) {
    const examples = t("examples").map((text) => make("button", { text, type: "button", onclick: () => ask(text) }));
    $("log").append(make("div", { cls: "welcome" }, make("b", { text: t("welcome") }), info.documents.length ? t("welcomeDocs") : t("welcomePlain"), make("div", { cls: "row" }, ...examples)));
    return;
  }
  for (const message of current.messages) {
    if (message.role === "user") showQuestion(message.content);
    else showAnswer(message).end();
  }
  $("log").scrollTop = $("log").scrollHeight;
}

// --- controls ---------------------------------------------------------------------------------------------------

function switchButtons(on) { $("send").hidden = on; $("stop").hidden = !on; }
function openMenu(open) { $("sessions").classList.toggle("open", open); $("menu").setAttribute("aria-expanded", String(open)); }

function translate() {
  document.documentElement.lang = language === "pt" ? "pt-BR" : "en";
  document.querySelectorAll("[data-t]").forEach((element) => { element.textContent = t(element.dataset.t); });
  document.querySelectorAll("[data-l]").forEach((element) => { element.setAttribute("aria-label", t(element.dataset.l)); element.title = t(element.dataset.l); });
  $("language").textContent = language === "pt" ? "EN" : "PT";
  $("question").placeholder = t("ask");
  const chosen = $("persona").value || kept("luna.persona", info.persona ?? "");
  $("persona").replaceChildren(make("option", { text: t("noPersona"), value: "" }), ...info.personas.map((name) => make("option", { text: name, value: name })));
  $("persona").value = info.personas.includes(chosen) ? chosen : "";
  $("persona").hidden = document.querySelector("header label").hidden = !info.personas.length;
  $("documents").hidden = !info.documents.length;
  $("documents").textContent = info.documents.join(", ");
  $("model").textContent = info.model;
  $("think").hidden = !info.can_think;
  $("think").ariaPressed = String(kept("luna.think", false));
}

function grow() { const box = $("question"); box.style.height = "auto"; box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.4)}px`; }

$("form").addEventListener("submit", (event) => { event.preventDefault(); if (running) return; const text = $("question").value; $("question").value = ""; grow(); ask(text); });
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); } });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { running?.abort(); openMenu(false); } });
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => { if (!running) { begin(); openMenu(false); } });
$("menu").addEventListener("click", () => openMenu(!$("sessions").classList.contains("open")));
$("persona").addEventListener("change", () => keep("luna.persona", $("persona").value));
$("think").addEventListener("click", () => { keep("luna.think", !kept("luna.think", false)); translate(); });
$("language").addEventListener("click", () => { language = language === "pt" ? "en" : "pt"; keep("luna.language", language); translate(); show(); listSessions(); });
$("theme").addEventListener("click", () => { const dark = document.documentElement.dataset.theme !== "dark"; document.documentElement.dataset.theme = dark ? "dark" : "light"; keep("luna.theme", dark ? "dark" : "light"); });

document.documentElement.dataset.theme = kept("luna.theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
translate();
begin();
call("luna/info").then((response) => response.json()).then((found) => {
  info = found;
  language = kept("luna.language", info.language.startsWith("pt") ? "pt" : "en");
  translate();
  listSessions();
  if (!current.messages.length) show();
}).catch(() => say(t("offline")));
