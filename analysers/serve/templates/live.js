"use strict";

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Asks the program; what it says against it is thrown as {field, sentence}. */
async function ask(address, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    byId("lost").hidden = false;
    throw { field: "", sentence: "The program does not answer." };
  }
  const text = await answer.text();
  if (answer.ok) return answer.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text;
  let told;
  try { told = JSON.parse(text); } catch { told = { field: "", sentence: text.trim() }; }
  throw told;
}

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// ---- the form

function form() {
  const fields = byId("form");
  const planned = byId("planned");
  const DRAFT = "live-draft";

  const values = () => {
    const found = {};
    for (const element of fields.elements) {
      if (!element.name || element.closest("[hidden]") || (element.type === "radio" && !element.checked)) continue;
      found[element.name] = element.type === "checkbox" ? element.checked : element.value;
    }
    return found;
  };

  const fill = (given) => {
    for (const [name, value] of Object.entries(given)) {
      for (const element of fields.querySelectorAll(`[name="${name}"]`)) {
        if (element.type === "radio") element.checked = element.value === value;
        else if (element.type === "checkbox") element.checked = value;
        else element.value = value;
      }
    }
    for (const box of fields.querySelectorAll("[data-by]")) box.hidden = !box.dataset.by.split(" ").includes(byId("renderer").value);
  };

  const complain = (told) => {
    for (const element of fields.querySelectorAll(".error")) element.textContent = "";
    for (const element of fields.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
    if (!told) return;
    const name = { width: "size", height: "size", out: "run" }[told.field] || told.field;
    const place = byId(`${name}-error`) || byId("form-error");
    place.textContent = told.sentence || String(told);
    const element = byId(name);
    if (!element) return;
    for (let up = element; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    element.setAttribute("aria-invalid", "true");
    element.focus();
  };

  const guarded = (work) => async (...given) => {
    try {
      await work(...given);
    } catch (told) {
      planned.hidden = true;
      complain(told);
    }
  };

  const propose = guarded(async (path) => {
    const box = byId("proposals");
    box.replaceChildren();
    if (!path) return;
    complain(null);
    const found = await ask(`/proposals?path=${encodeURIComponent(path)}`);
    box.append(make("p", {}, found.summary));
    if (found.checkpoints.length > 1) box.append(make("p", {}, `${count(found.checkpoints.length, "checkpoint")}: ${found.checkpoints.join(", ")}`));
    if (found.base) box.append(make("p", {}, `Asks for ${found.base}.`));
    for (const one of found.warnings) box.append(make("p", {}, one));
    if (found.prompts.length) {
      const take = () => { byId("prompts").value = found.prompts.join("\n"); changed(); byId("prompts").focus(); };
      box.append(make("p", {}, `Trigger words: ${found.words.join(", ")} `), make("p", {}, make("button", { type: "button", class: "quiet", id: "take", onclick: take }, `Use ${count(found.prompts.length, "prompt")} made from them`)));
    }
  });

  // One list of folders and files, which stands below the field that it fills.
  let target = "loras";
  const close = () => {
    byId("browser").hidden = true;
    byId(`browse-${target}`).setAttribute("aria-expanded", "false");
  };
  const pick = (path) => {
    const field = byId(target), several = field.tagName === "TEXTAREA";
    field.value = several && field.value.trim() ? `${field.value.trimEnd()}\n${path}` : path;
    close();
    byId(target).focus();
    changed();
    if (target === "loras") propose(path);
  };

  const trail = [];
  const browse = guarded(async (path) => {
    const found = await ask(`/folder?path=${encodeURIComponent(path)}&for=${target}`);
    byId("place").textContent = path || "The folders that were named when the program was started:";
    const rows = [];
    if (trail.length) rows.push(make("li", {}, make("button", { type: "button", class: "name", onclick: () => browse(trail.pop()) }, "← back")));
    for (const entry of found) {
      const open = () => {
        if (!entry.folder) return pick(entry.path);
        trail.push(path);
        browse(entry.path);
      };
      rows.push(make("li", {}, make("button", { type: "button", class: "name", onclick: open }, entry.name + (entry.folder ? " /" : "")),
        ...(entry.folder ? [make("button", { type: "button", class: "quiet", onclick: () => pick(entry.path), "aria-label": `Use the folder ${entry.name}` }, "Use")] : [])));
    }
    if (!found.length) rows.push(make("li", { class: "muted" }, "Nothing to choose here."));
    byId("entries").replaceChildren(...rows);
    const first = byId("entries").querySelector("button");
    if (first) first.focus();
  });

  const changed = () => {
    planned.hidden = true;
    sessionStorage.setItem(DRAFT, JSON.stringify(values()));
  };

  const list = (term, items) => items.length ? [make("dt", {}, term), make("dd", {}, make("ul", {}, ...items.map((one) => make("li", {}, one))))] : [];

  const show = (plan) => {
    const all = plan.pictures + plan.controls + plan.probes;
    const probes = plan.probes ? `, and ${plan.probes.toLocaleString("en")} more for the leak test` : "";
    const left = plan.missing === null || plan.missing === all ? "" : plan.missing ? ` ${count(plan.missing, "picture")} are missing.` : " All of them are there already.";
    const time = plan.seconds ? ` About ${duration(plan.seconds)}, from two measured renders.` : plan.missing === null ? " How long it takes is measured when nothing else is under way." : plan.missing ? " How long it takes cannot be told." : "";
    const start = guarded(async () => {
      byId("start").disabled = true;
      try {
        const { run } = await ask("/start", values());
        location.href = `/runs/${encodeURIComponent(run)}/`;
      } finally {
        if (byId("start")) byId("start").disabled = false;
      }
    });
    planned.replaceChildren(
      make("h2", {}, plan.title),
      make("p", { class: "lead" }, `${plan.most ? "At most " : ""}${count(plan.pictures, "picture")} and ${count(plan.controls, "control")}${probes}.${left}${time}`),
      make("p", { class: "actions" }, make("button", { type: "button", class: "primary", id: "start", onclick: start }, "Start")),
      make("dl", {},
        make("dt", {}, "Strengths"), make("dd", {}, plan.strengths.join(", ")),
        ...(plan.checkpoints.length > 1 ? [make("dt", {}, "Checkpoints"), make("dd", {}, plan.checkpoints.join(", "))] : []),
        make("dt", {}, "Rendered with"), make("dd", {}, plan.settings),
        ...list("Prompts", plan.prompts), ...list("Left out", plan.refused), ...list("To know", plan.warnings)));
    planned.hidden = false;
    planned.focus({ preventScroll: true });
    planned.scrollIntoView({ block: "nearest" });
  };

  fields.addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    complain(null);
    planned.replaceChildren(make("p", { class: "muted" }, "Looking at the files and timing two renders …"));
    planned.hidden = false;
    byId("plan").disabled = true;
    try {
      show(await ask("/plan", values()));
    } finally {
      byId("plan").disabled = false;
    }
  }));
  fields.addEventListener("input", changed);
  byId("renderer").addEventListener("change", () => fill({}));
  byId("loras").addEventListener("change", () => propose(byId("loras").value.trim()));
  for (const button of fields.querySelectorAll("[data-browse]")) button.addEventListener("click", () => {
    const opened = byId("browser").hidden || target !== button.dataset.browse;
    close();
    if (!opened) return;
    target = button.dataset.browse;
    button.closest(".field").append(byId("browser"));
    byId("browser").hidden = false;
    button.setAttribute("aria-expanded", "true");
    trail.length = 0;
    browse("");
  });
  byId("browser").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { close(); byId(`browse-${target}`).focus(); }
  });
  byId("demo").addEventListener("click", guarded(async () => {
    fill(await ask(`/demo?kind=${values().kind}`));
    complain(null);
    changed();
    await propose(byId("loras").value);
  }));
  const draft = sessionStorage.getItem(DRAFT);
  fill(draft ? JSON.parse(draft) : {});
  if (draft) propose(byId("loras").value.trim());
}

// ---- a run

const SHOWN = 12;
const STATES = { seen: 1, scored: 2, failed: 3 };
const WORDS = { running: "running", paused: "paused", stopping: "stopping: what is in flight lands first", stopped: "stopped", finished: "finished", failed: "failed" };

function run() {
  const box = byId("run");
  const live = box.dataset.live === "yes";
  let state = "", number = 0, cells = new Uint8Array(0), columns = [], rows = [], seen = 0, scored = 0, failed = 0;
  let dirty = new Set(), newest = [], waiting = false, times = [], source = null, beside = "", acted = false;

  const act = (action) => async () => {
    byId("run-error").textContent = "";
    acted = true;
    try {
      await ask(action, {});
      if (action === "continue") location.reload();
    } catch (told) {
      byId("run-error").textContent = told.sentence || String(told);
    }
  };
  for (const action of ["pause", "resume", "stop", "continue"]) byId(action).addEventListener("click", act(action));

  byId("votes").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const text = await file.text();
    event.target.value = ""; // so that the same file, mended, can be given again
    try {
      byId("voted").textContent = (await ask("votes", text)).sentence;
      answer();
    } catch (told) {
      byId("voted").textContent = told.sentence || String(told);
    }
  });

  let asked = -Infinity, pause = 3000, timer = 0;
  /** The answer by now, at most as often as costs a tenth of the time. */
  const answer = async () => {
    timer = 0;
    const begin = performance.now();
    try {
      const text = await ask("answer");
      if (text) byId("answer").innerHTML = text; // escaped by the program; the policy lets no script in
      if (text) byId("report").hidden = false;
      const lead = box.querySelector("#answer > .lead");
      if (lead && !text && ["failed", "stopped"].includes(state)) lead.textContent = "It ended before there was an answer. What was rendered is kept.";
      if (!live && box.querySelector("[data-unfinished]")) {
        byId("state").textContent = "stopped";
        byId("continue").hidden = !box.dataset.known;
        byId("report").className = "quiet";
      }
    } catch (told) {
      byId("run-error").textContent = told.sentence || String(told);
    }
    asked = performance.now();
    pause = Math.max(3000, 10 * (asked - begin));
  };
  const answerSoon = () => {
    if (!timer) timer = setTimeout(answer, Math.max(0, pause - (performance.now() - asked)));
  };

  // cases from left to right, settings downwards, in bands as wide as the page
  const canvas = byId("map");
  let size = 20, band = 1, colours = [];
  const lay = () => {
    size = cells.length <= 600 ? 20 : cells.length <= 3000 ? 12 : 7;
    band = Math.max(1, Math.min(rows.length, Math.floor(canvas.parentElement.clientWidth / size)));
    canvas.width = band * size;
    canvas.height = (Math.ceil(rows.length / band) * (columns.length + 1) - 1) * size;
    const style = getComputedStyle(document.documentElement);
    colours = ["--rule", "--second", "--accent", "--breaks"].map((name) => style.getPropertyValue(name));
    dirty = new Set(cells.keys());
  };

  const paint = () => {
    waiting = false;
    const drawing = canvas.getContext("2d");
    const gap = size > 8 ? 2 : 1;
    for (const at of dirty) {
      const row = Math.floor(at / columns.length);
      const x = (row % band) * size, y = (Math.floor(row / band) * (columns.length + 1) + at % columns.length) * size;
      drawing.fillStyle = colours[cells[at]];
      drawing.fillRect(x, y, size - gap, size - gap);
    }
    dirty.clear();
    const done = seen + failed;
    canvas.setAttribute("aria-label", `${count(rows.length, "case")} by ${count(columns.length, "setting")}: ${done} of ${cells.length} rendered, ${scored} scored, ${failed} failed`);
    byId("bar").max = cells.length || 1;
    byId("bar").value = done;
    byId("counted").textContent = done ? `${done.toLocaleString("en")} of ${count(cells.length, "picture")}${pace(cells.length - done)}${beside}` : "Loading the model …";
    if (newest.length) {
      const strip = byId("newest");
      for (const one of newest.slice(-SHOWN)) strip.prepend(figure(one));
      while (strip.children.length > SHOWN) strip.lastElementChild.remove();
      newest = [];
    }
  };

  const pace = (left) => {
    if (times.length < 3 || state !== "running") return "";
    const [first, last] = [times[0], times[times.length - 1]];
    if (last - first < 1) return "";
    const speed = (times.length - 1) / (last - first);
    const told = `${speed.toFixed(speed < 1 ? 2 : 1)} pictures/s`;
    return left ? `, ${told}, ${duration(left / speed)} to go` : `, ${told}`;
  };

  const figure = ({ at, image }) => {
    const column = columns[at % columns.length], row = rows[Math.floor(at / columns.length)];
    const address = image.split("/").map(encodeURIComponent).join("/");
    return make("figure", { class: "shot" },
      make("a", { href: address }, make("img", { src: `${address}?small=1`, alt: `${column}: ${row}`, decoding: "async" })),
      make("figcaption", { title: row }, make("b", {}, column), ` ${row}`));
  };

  const fold = {
    map(entry) {
      ({ columns, rows } = entry);
      cells = new Uint8Array(columns.length * rows.length);
      seen = scored = failed = 0;
      lay();
    },
    cell({ at, state: now, image, fresh }) {
      const before = cells[at], after = STATES[now];
      if (before === after) return;
      if (after === 3) { failed++; if (before) seen--; if (before === 2) scored--; }
      else { if (!before) seen++; if (after === 2) scored++; }
      cells[at] = after;
      dirty.add(at);
      if (!before && image) {
        newest.push({ at, image });
        if (newest.length > SHOWN) newest.shift();
      }
      if (fresh !== undefined) { times.push(fresh); if (times.length > 60) times.shift(); }
      if (after === 2) answerSoon();
    },
    beside({ name, done, total }) { beside = `; ${name} ${done} of ${total}`; },
    state(entry) {
      state = entry.state;
      byId("state").textContent = WORDS[state];
      byId("state").className = `state ${state}`;
      byId("pause").hidden = state !== "running";
      byId("resume").hidden = state !== "paused";
      byId("stop").hidden = !["running", "paused"].includes(state);
      byId("continue").hidden = !["stopped", "failed"].includes(state);
      byId("after").hidden = !["finished", "stopped"].includes(state);
      const next = box.querySelector(".actions > :not([hidden])"), held = document.activeElement;
      if (acted && next && (held === document.body || held.hidden)) { // where the pressed button stood
        next.focus({ preventScroll: true });
        acted = false;
      }
      byId("progress").hidden = state === "finished";
      byId("report").className = state === "finished" ? "primary" : "quiet";
      byId("sentence").hidden = !entry.sentence;
      byId("sentence").textContent = entry.sentence;
      if (["finished", "stopped", "failed"].includes(state)) { clearTimeout(timer); answer(); }
      if (state !== "running") times = [];
    },
  };

  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };

  const lost = byId("lost").textContent;
  /** What the program says where it gives no log: that too many pages watch; "" for all else. */
  const refusal = async () => {
    const ended = new AbortController();
    try {
      const answer = await fetch("log", { signal: ended.signal });
      return answer.status === 503 ? await answer.text() : "";
    } catch {
      return "";
    } finally {
      ended.abort();
    }
  };
  const watch = () => {
    source = new EventSource(`log?after=${number}`);
    source.onopen = () => { byId("lost").hidden = true; };
    source.onmessage = (event) => {
      number = Number(event.lastEventId);
      for (const entry of JSON.parse(event.data)) fold[entry.tells](entry);
      redraw();
    };
    source.onerror = async () => {
      const refused = source.readyState === EventSource.CLOSED ? await refusal() : "";
      byId("lost").textContent = refused || lost;
      byId("lost").hidden = false;
      if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) watch(); }, 3000);
    };
  };
  if (live) {
    // A browser opens six connections to a program, so a tab that nobody sees does without.
    document.addEventListener("visibilitychange", () => {
      source?.close();
      if (!document.hidden) watch();
    });
    addEventListener("resize", () => { lay(); redraw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { lay(); redraw(); });
    watch();
  } else if (box.dataset.finished === "yes") {
    answer();
  }
}

({ form, run })[document.body.dataset.page]();
document.documentElement.dataset.ready = "yes";
