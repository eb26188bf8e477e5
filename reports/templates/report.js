"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const study = JSON.parse($("study").textContent);
  const { candidates, cases, cells, prompts, metrics } = study;
  const rankAt = metrics.findIndex((m) => m[0] === study.rankBy);
  const ssimAt = metrics.findIndex((m) => m[0] === "ssim");
  const sign = study.better === "lower" ? 1 : -1;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // ---- small helpers -------------------------------------------------------------------------
  const hidden = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g;
  const visible = (text) => String(text).replace(hidden, (c) =>
    "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
  const clip = (text, most) => (text.length > most ? text.slice(0, most) + "…" : text);
  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  const bdi = (text) => make("bdi", { textContent: visible(text) });
  const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const prompt = (k) => prompts[cases[k].prompt];
  const seedText = (k) => (cases[k].seed === null ? "" : "seed " + cases[k].seed);
  const cellOf = (c, k) => (c < 0 ? null : cells[c][k] || null);
  const pictureOf = (c, k) => study.pictures[c < 0 ? cases[k].control : (cellOf(c, k) || [0])[0]];
  const controlOf = (c, k) => study.pictures[(cellOf(c, k) && cellOf(c, k)[4]) || cases[k].control];
  const valuesOf = (c, k) => (c < 0 ? cases[k].values : (cellOf(c, k) || [0, 0, 0, []])[3]);
  const quality = (c, k) => { const v = valuesOf(c, k)[rankAt]; return v === undefined ? null : v; };
  function rankInRow(c, k) {
    const own = quality(c, k);
    if (own === null) return [0, 0];
    let place = 1, of = 0;
    for (let i = 0; i < candidates.length; i++) {
      const other = quality(i, k);
      if (other === null) continue;
      of++;
      if (sign * other < sign * own) place++;
    }
    return [place, of];
  }
  const firsts = new Map();
  function firstOf(k) {
    if (!firsts.has(k)) {
      let best = -1;
      for (let i = 0; i < candidates.length; i++) {
        const q = quality(i, k);
        if (q !== null && (best < 0 || sign * q < sign * quality(best, k))) best = i;
      }
      firsts.set(k, best);
    }
    return firsts.get(k);
  }

  // ---- theme ---------------------------------------------------------------------------------
  const themes = ["", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme || "") + 1) % 3];
    if (next) root.dataset.theme = next; else delete root.dataset.theme;
    $("theme").setAttribute("aria-label", "Colours: " + (next || "as the system"));
    $("theme").title = next || "as the system";
  });

  // ---- curves and tables ---------------------------------------------------------------------
  for (const box of document.querySelectorAll("[data-percase]")) {
    box.addEventListener("change", () => box.closest("figure").classList.toggle("show-cases", box.checked));
  }
  for (const head of document.querySelectorAll("#ranks th[data-sort]")) {
    const button = make("button", { type: "button", textContent: head.textContent });
    if (!head.textContent.trim() || head.querySelector(".hidden")) continue;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const at = head.cellIndex;
      const key = (row) => {
        const cell = row.cells[at];
        const value = parseFloat(cell.dataset.value || cell.textContent);
        return Number.isNaN(value) ? Infinity : up ? value : -value;
      };
      const body = $("ranks").tBodies[0];
      body.append(...[...body.rows].sort((a, b) => key(a) - key(b) || 0));
    });
  }

  // ---- the grid ------------------------------------------------------------------------------
  // Only the cells in view exist; rows are positioned by hand, headers and the control are sticky.
  const grid = $("grid");
  const sizes = [["XS", 88], ["S", 128], ["M", 184], ["L", 272], ["XL", 400], ["XXL", 560]];
  const narrow = matchMedia("(max-width: 640px)");
  const state = {
    layout: "cases", page: 0, sort: "natural", filter: "all", find: "", zoom: narrow.matches ? 1 : 2,
    pin: !narrow.matches, hidden: new Set(), focus: [0, -1],
  };
  const unique = (list) => [...new Set(list)];
  const places = unique(candidates.map((c) => c.place));
  const strengths = unique(candidates.map((c) => c.strength));
  const seeds = unique(cases.map((c) => c.seed));
  const layouts = [["cases", "Cases × settings"], ["settings", "Settings × cases"]];
  if (seeds.length > 1 && prompts.length > 1) layouts.push(["seeds", "Seeds × settings, one prompt"]);
  if (places.length > 1 && strengths.length > 1) {
    layouts.push(["plane", "Strengths × checkpoints, one case"], ["planeT", "Checkpoints × strengths, one case"]);
  }
  $("layout").append(...layouts.map(([value, textContent]) => make("option", { value, textContent })));

  function chosenSettings() {
    let list = candidates.map((_, i) => i);
    if (state.filter === "contenders") list = list.filter((i) => candidates[i].contender);
    if (state.filter === "clean") list = list.filter((i) => candidates[i].safe === true);
    if (state.filter === "flagged") list = list.filter((i) => cells[i].some((x) => x && x[1] !== "ok"));
    list = list.filter((i) => !state.hidden.has(i));
    const last = (value) => (value === null ? Infinity : value);
    if (state.sort === "rank") list.sort((a, b) => last(candidates[a].rank) - last(candidates[b].rank));
    if (state.sort === "effect") list.sort((a, b) => last(candidates[a].effect) - last(candidates[b].effect));
    return list;
  }
  function chosenCases() {
    const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    return cases.map((_, k) => k).filter((k) => {
      const text = (prompt(k) + " " + seedText(k) + " " + cases[k].name).toLowerCase();
      return words.every((w) => text.includes(w));
    });
  }

  // A table is { rows, cols: [{kind, ...}], at(row, col) -> [candidate, case], control(row) -> case or -1 }.
  let table, nav;
  function arrange() {
    const settings = chosenSettings(), list = chosenCases();
    const setting = (c) => ({ setting: c }), one = (k) => ({ case: k });
    nav = { settings, cases: list };
    const pager = $("page"), label = $("page-label");
    let options = [];
    if (state.layout === "seeds") options = unique(list.map((k) => cases[k].prompt)).map((p) => [p, prompts[p]]);
    if (state.layout.startsWith("plane")) options = list.map((k) => [k, prompt(k) + " " + seedText(k)]);
    label.hidden = options.length === 0;
    if (options.length) {
      if (!options.some((o) => o[0] === state.page)) state.page = options[0][0];
      $("page-word").textContent = state.layout === "seeds" ? "Prompt" : "Case";
      pager.replaceChildren(...options.map(([value, text]) =>
        make("option", { value, textContent: clip(visible(text), 60), selected: value === state.page })));
    }
    if (state.layout === "settings") {
      table = { rows: [{ control: true }, ...settings.map(setting)], cols: list.map(one), pinned: false,
        at: (r, c) => [r.control ? -1 : r.setting, c.case] };
    } else if (state.layout.startsWith("plane")) {
      const by = new Map(settings.map((i) => [candidates[i].place + "|" + candidates[i].strength, i]));
      const ps = places.filter((p) => settings.some((i) => candidates[i].place === p)).map((place) => ({ place }));
      const ss = strengths.filter((s) => settings.some((i) => candidates[i].strength === s)).map((strength) => ({ strength }));
      const k = state.page;
      const find = (a, b) => { const i = by.get((a.place ?? b.place) + "|" + (a.strength ?? b.strength)); return [i === undefined ? -2 : i, k]; };
      const across = state.layout === "plane";
      table = { rows: options.length ? (across ? ss : ps) : [], cols: across ? ps : ss, pinned: true, at: find, control: () => k };
    } else {
      const rows = state.layout === "seeds" ? list.filter((k) => cases[k].prompt === state.page) : list;
      table = { rows: rows.map(one), cols: settings.map(setting), pinned: true,
        at: (r, c) => [c.setting, r.case], control: (r) => r.case };
    }
    const gone = state.hidden.size;
    $("unhide").hidden = !gone;
    $("unhide").textContent = "Show " + gone + " hidden";
    $("shown").textContent = settings.length + " of " + candidates.length + " settings, " + list.length + " of " + cases.length + " cases";
    drawn.clear();
    build();
  }

  const drawn = new Map();
  let canvas, header, geometry;
  function build() {
    const [word, edge] = sizes[state.zoom];
    $("size").textContent = word;
    const width = study.ratio >= 1 ? edge : Math.round(edge * study.ratio);
    const height = Math.round(width / study.ratio);
    const head = narrow.matches ? 104 : 190;
    const pinned = table.pinned ? width + 6 : 0;
    geometry = { width: width + 6, height: height + 28, head, pinned, left: head + pinned, top: 50, frame: height };
    canvas = make("div", { className: "canvas" });
    canvas.classList.toggle("loose", !state.pin);
    const total = geometry.left + table.cols.length * geometry.width;
    canvas.style.width = total + "px";
    canvas.style.height = geometry.top + table.rows.length * geometry.height + "px";
    header = make("div", { className: "row head", role: "row" });
    header.setAttribute("aria-rowindex", 1);
    header.style.width = total + "px";
    header.style.height = geometry.top + "px";
    canvas.append(header);
    const keep = [grid.scrollLeft, grid.scrollTop];
    grid.replaceChildren(canvas);
    if (!table.rows.length || !table.cols.length) {
      canvas.append(make("p", { className: "empty", textContent: "Nothing matches. Widen the filter above." }));
      canvas.style.height = "8rem"; canvas.style.width = "auto"; grid.style.height = "8rem";
      header.remove();
      grid.setAttribute("role", "group");
      return;
    }
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-rowcount", table.rows.length + 1);
    grid.setAttribute("aria-colcount", table.cols.length + 1 + (table.pinned ? 1 : 0));
    grid.style.height = geometry.top + table.rows.length * geometry.height + 20 + "px";
    state.focus = [Math.min(state.focus[0], table.rows.length - 1), Math.max(firstCol(), Math.min(state.focus[1], lastCol()))];
    [grid.scrollLeft, grid.scrollTop] = keep;
    drawn.clear();
    draw();
  }
  const lastCol = () => table.cols.length - 1;
  const firstCol = () => (table.pinned ? -1 : 0);

  function caption(target, item) {
    const text = make("span", { className: "text" });
    target.append(text);
    if (item.control) text.textContent = "control";
    else if (item.setting !== undefined) {
      const c = candidates[item.setting];
      text.append(bdi(c.heading));
      if (c.best) target.classList.add("best");
      const mark = c.best ? "best" : c.breaks ? "breaks" : c.contender ? "contender" : "";
      if (mark) target.append(make("span", { className: "mark", textContent: mark }));
      target.title = visible(c.heading) + (c.notes ? ": " + visible(c.notes) : "");
    } else if (item.case !== undefined) {
      text.append(bdi(clip(prompt(item.case), 120)));
      if (seedText(item.case)) text.append(" " + seedText(item.case));
      target.title = visible(clip(prompt(item.case), 400));
    } else if (item.place !== undefined) text.append(bdi(candidates.find((c) => c.place === item.place).where));
    else text.append(bdi(item.strength === null ? "–" : item.strength));
  }
  function hideButton(setting) {
    const button = make("button", { type: "button", className: "hide", textContent: "✕", tabIndex: -1 });
    button.setAttribute("aria-label", "Hide " + visible(candidates[setting].heading));
    button.addEventListener("click", () => { state.hidden.add(setting); arrange(); });
    return button;
  }
  function headCell(at, item) {
    const cell = make("div", { className: "colhead", role: "columnheader" });
    cell.style.left = geometry.left + at * geometry.width + "px";
    cell.style.width = geometry.width + "px";
    cell.setAttribute("aria-colindex", at + 2 + (table.pinned ? 1 : 0));
    caption(cell, item);
    if (item.setting !== undefined) cell.append(hideButton(item.setting));
    return cell;
  }
  function pictureCell(r, at) {
    const row = table.rows[r];
    const [c, k] = at < 0 ? [-1, table.control(row)] : table.at(row, table.cols[at]);
    const box = make("div", { className: "cell" + (at < 0 ? " pinned" : ""), role: "gridcell" });
    box.style.width = geometry.width + "px";
    box.style.left = (at < 0 ? geometry.head : geometry.left + at * geometry.width) + "px";
    box.setAttribute("aria-colindex", at + 2 + (table.pinned ? 1 : 0));
    box.dataset.at = r + "," + at;
    const cell = cellOf(c, k), source = c === -2 ? "" : pictureOf(c, k);
    const button = make("button", { type: "button", tabIndex: state.focus[0] === r && state.focus[1] === at ? 0 : -1 });
    const frame = make("span", { className: "frame" });
    frame.style.height = geometry.frame + "px";
    const name = c === -1 ? "control" : c < 0 ? "" : candidates[c].heading;
    const what = visible(name) + ", " + clip(visible(prompt(k)), 160) + (seedText(k) ? ", " + seedText(k) : "");
    if (source) {
      const image = make("img", { alt: what, decoding: "async", draggable: false });
      image.addEventListener("error", () => frame.replaceChildren(make("span", { className: "why", textContent: "picture not found" })));
      image.src = source;
      frame.append(image);
    } else {
      const why = c === -2 || (c >= 0 && !cell) ? "not in the study" : cell ? cell[2] || "no picture" : cases[k].reason || "no control";
      frame.append(make("span", { className: "why" + (cell ? "" : " none"), textContent: clip(visible(why), 160) }));
    }
    const q = c === -2 ? null : quality(c, k), s = c === -2 ? null : valuesOf(c, k)[ssimAt];
    const cap = make("span", { className: "cap" });
    if (c === -1) cap.append("control");
    if (q !== null) {
      cap.append(make("span", { className: "hidden", textContent: metrics[rankAt][1] + " " }), make("b", { textContent: number(q, 1) }));
    }
    if (c >= 0 && s !== null && s !== undefined && geometry.width > 100) cap.append("SSIM " + number(s, 2));
    if (c >= 0 && firstOf(k) === c) { box.classList.add("first"); cap.title = "first of its row"; }
    if (cell && cell[1] !== "ok") { box.classList.add("flagged"); button.title = visible(cell[2] || cell[1]); }
    button.append(frame, cap);
    if (!source) frame.append(make("span", { className: "hidden", textContent: what }));
    if (c === -2) button.disabled = true;
    else button.addEventListener("click", () => { moveFocus(r, at, false); openViewer(c, k, button); });
    button.addEventListener("focus", () => { state.focus = [r, at]; });
    box.append(button);
    return box;
  }
  function rowElement(r) {
    const item = table.rows[r];
    const row = make("div", { className: "row", role: "row" });
    row.setAttribute("aria-rowindex", r + 2);
    row.style.width = geometry.left + table.cols.length * geometry.width + "px";
    row.style.height = geometry.height + "px";
    row.style.top = geometry.top + r * geometry.height + "px";
    const head = make("div", { className: "rowhead", role: "rowheader" });
    head.style.width = geometry.head + "px";
    const text = make("div", { className: "clamp" });
    head.append(text);
    if (item.case !== undefined) {
      text.append(bdi(clip(prompt(item.case), 220)));
      if (seedText(item.case)) head.append(make("small", { textContent: seedText(item.case) }));
      head.title = visible(clip(prompt(item.case), 400));
    } else {
      caption(text, item);
      if (text.classList.contains("best")) head.classList.add("best");
      if (item.setting !== undefined) head.append(hideButton(item.setting));
    }
    row.append(head);
    if (table.pinned) row.append(pictureCell(r, -1));
    return row;
  }
  let span = [0, -1];
  function draw() {
    if (!table.rows.length || !table.cols.length) return;
    const g = geometry, last = table.rows.length - 1;
    const high = grid.clientHeight || innerHeight;
    const r0 = Math.max(0, Math.floor((grid.scrollTop - g.top) / g.height) - 2);
    const r1 = Math.min(last, Math.floor((grid.scrollTop + high) / g.height) + 2);
    const c0 = Math.max(0, Math.floor((grid.scrollLeft - g.left) / g.width) - 1);
    const c1 = Math.min(lastCol(), Math.floor((grid.scrollLeft + grid.clientWidth) / g.width) + 1);
    const fill = (entry, makeCell) => {
      for (const [at, element] of entry.cells) {
        if ((at < c0 || at > c1) && !element.contains(document.activeElement)) { element.remove(); entry.cells.delete(at); }
      }
      for (let at = c0; at <= c1; at++) {
        if (!entry.cells.has(at)) { const element = makeCell(at); entry.cells.set(at, element); entry.row.append(element); }
      }
    };
    if (!drawn.has("head")) {
      const corner = make("div", { className: "rowhead", role: "columnheader" });
      corner.style.width = g.head + "px";
      corner.append(make("span", { className: "hidden", textContent: "Case or setting" }));
      header.append(corner);
      if (table.pinned) {
        const control = make("div", { className: "colhead pinned", role: "columnheader" });
        control.style.left = g.head + "px";
        control.style.width = g.pinned + "px";
        caption(control, { control: true });
        header.append(control);
      }
      drawn.set("head", { row: header, cells: new Map() });
    }
    fill(drawn.get("head"), (at) => headCell(at, table.cols[at]));
    for (const [r, entry] of drawn) {
      if (r !== "head" && (r < r0 || r > r1) && !entry.row.contains(document.activeElement)) { entry.row.remove(); drawn.delete(r); }
    }
    for (let r = r0; r <= r1; r++) {
      if (!drawn.has(r)) {
        const entry = { row: rowElement(r), cells: new Map() };
        drawn.set(r, entry);
        canvas.append(entry.row);
      }
      fill(drawn.get(r), (at) => pictureCell(r, at));
    }
    span = [r0, r1];
  }
  let waiting = false;
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  grid.addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  narrow.addEventListener("change", () => build());

  function moveFocus(r, at, focus = true) {
    r = Math.max(0, Math.min(table.rows.length - 1, r));
    at = Math.max(firstCol(), Math.min(lastCol(), at));
    const before = grid.querySelector('.cell button[tabindex="0"]');
    state.focus = [r, at];
    const g = geometry, top = g.top + r * g.height;
    if (top - g.top < grid.scrollTop) grid.scrollTop = top - g.top;
    else if (top + g.height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + g.height - grid.clientHeight;
    if (at >= 0) {
      const x = g.left + at * g.width, edge = state.pin ? g.left : g.head;
      if (x - edge < grid.scrollLeft) grid.scrollLeft = x - edge;
      else if (x + g.width > grid.scrollLeft + grid.clientWidth) grid.scrollLeft = x + g.width - grid.clientWidth;
    }
    draw();
    const button = grid.querySelector('.cell[data-at="' + r + "," + at + '"] button');
    if (before && before !== button) before.tabIndex = -1;
    if (button) { button.tabIndex = 0; if (focus) button.focus({ preventScroll: true }); }
  }
  grid.addEventListener("keydown", (event) => {
    if (!event.target.closest(".cell") || event.ctrlKey || event.metaKey || event.altKey) return;
    const [r, at] = state.focus;
    const page = Math.max(1, Math.floor(grid.clientHeight / geometry.height) - 1);
    const moves = {
      ArrowUp: [r - 1, at], ArrowDown: [r + 1, at], ArrowLeft: [r, at - 1], ArrowRight: [r, at + 1],
      Home: [r, firstCol()], End: [r, lastCol()], PageUp: [r - page, at], PageDown: [r + page, at],
    };
    if (event.key in moves) { event.preventDefault(); moveFocus(...moves[event.key]); }
    else if (event.key === "+" || event.key === "=") zoom(1);
    else if (event.key === "-") zoom(-1);
  });
  function zoom(step) {
    const hadFocus = grid.contains(document.activeElement);
    state.zoom = Math.max(0, Math.min(sizes.length - 1, state.zoom + step));
    $("smaller").disabled = state.zoom === 0;
    $("larger").disabled = state.zoom === sizes.length - 1;
    build();
    if (hadFocus) moveFocus(...state.focus);
  }
  $("smaller").addEventListener("click", () => zoom(-1));
  $("larger").addEventListener("click", () => zoom(1));
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["layout", "sort", "filter"]) {
    $(name).addEventListener("change", () => { state[name] = $(name).value; grid.scrollTo(0, 0); arrange(); });
  }
  $("page").addEventListener("change", () => { state.page = Number($("page").value); arrange(); });
  $("find").addEventListener("input", () => { state.find = $("find").value; arrange(); });
  $("pin").checked = state.pin;
  $("pin").addEventListener("change", () => { state.pin = $("pin").checked; build(); });
  $("unhide").addEventListener("click", () => { state.hidden.clear(); arrange(); });

  // ---- the viewer ----------------------------------------------------------------------------
  const viewer = $("viewer"), stage = $("stage"), layers = $("layers");
  const view = { c: -1, k: 0, mode: "slider", split: 50, scale: 1, x: 0, y: 0, opener: null, timer: 0 };
  const modes = ["slider", "side", "flicker", "difference", "ssim"];
  const show = (image, source, alt) => {
    if (image.getAttribute("src") !== source) { if (source) image.src = source; else image.removeAttribute("src"); }
    image.alt = alt;
  };
  function openViewer(c, k, opener) {
    view.opener = opener || document.activeElement;
    if (!nav.settings.length) nav.settings = candidates.map((_, i) => i);
    if (!nav.cases.includes(k)) nav.cases = cases.map((_, i) => i);
    view.c = c < 0 ? nav.settings[0] : c;
    view.k = k;
    if (!viewer.open) viewer.showModal();
    resetZoom();
    refresh();
  }
  function refresh() {
    const { c, k } = view, cell = cellOf(c, k), name = visible(candidates[c].heading);
    $("viewer-title").replaceChildren(bdi(candidates[c].heading));
    $("viewer-title").append(candidates[c].rank ? " · rank " + candidates[c].rank + " of " + candidates.filter((x) => x.rank).length : " · not ranked");
    $("stage-tag").textContent = name;
    $("viewer-prompt").replaceChildren(bdi(prompt(k)), document.createTextNode(seedText(k) ? "\n" + seedText(k) : ""));
    show($("stage-control"), controlOf(c, k), "Control: " + clip(visible(prompt(k)), 160));
    show($("stage-candidate"), pictureOf(c, k), name + ": " + clip(visible(prompt(k)), 160));
    const own = valuesOf(c, k), base = valuesOf(-1, k);
    const rows = metrics.map(([, title], i) => [title, own[i], base[i], i]).filter((r) => r[1] !== undefined || r[2] !== undefined);
    const digits = (v) => (v === null || v === undefined ? "–" : Math.abs(v) >= 10 ? v.toFixed(2) : v.toFixed(3));
    const body = make("tbody");
    for (const [title, a, b] of rows) {
      body.append(make("tr", null, make("th", { scope: "row", textContent: visible(title) }), make("td", { textContent: digits(a) }), make("td", { textContent: digits(b) })));
    }
    const [place, of] = rankInRow(c, k);
    const head = make("thead", null, make("tr", null, make("th", { scope: "col", textContent: "score" }), make("th", { scope: "col", textContent: "here" }), make("th", { scope: "col", textContent: "control" })));
    $("viewer-scores").replaceChildren(make("table", null, head, body));
    if (of) $("viewer-scores").append(make("p", { className: "muted", textContent: "Number " + place + " of " + of + " by " + visible(metrics[rankAt][1]) + " for this case." }));
    const why = cell ? cell[2] : "not in the study";
    $("viewer-reason").hidden = !why;
    $("viewer-reason").textContent = visible(why || "");
    $("viewer-repro").textContent = reproduce(c, k);
    $("viewer-copied").textContent = "";
    const link = $("viewer-open"), source = pictureOf(c, k);
    link.hidden = !source || source.startsWith("data:");
    if (!link.hidden) link.href = source; else link.removeAttribute("href");
    setMode(view.mode);
  }
  function reproduce(c, k) {
    const who = candidates[c], settings = study.settings, negative = cases[k].negative;
    const tag = who.lora ? " <lora:" + who.lora + ":" + (who.strength ?? "1.0") + ">" : "";
    const parts = settings.map(([key, value]) => key + ": " + value);
    if (cases[k].seed !== null) parts.push("Seed: " + cases[k].seed);
    if (who.checkpoint) parts.push("LoRA: " + who.checkpoint);
    if (who.strength !== null) parts.push("Strength: " + who.strength);
    return prompt(k) + tag + "\n" + (negative ? "Negative prompt: " + negative + "\n" : "") + parts.join(", ");
  }
  function setMode(mode) {
    view.mode = mode;
    stage.dataset.mode = mode;
    stage.classList.remove("swap");
    clearInterval(view.timer);
    for (const button of document.querySelectorAll(".modes button")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    $("divider-label").hidden = mode !== "slider";
    $("gain-label").hidden = mode !== "difference";
    $("stage-map").hidden = true;
    layers.style.visibility = "";
    const candidate = layers.querySelector(".candidate");
    candidate.style.clipPath = mode === "slider" ? "inset(0 0 0 " + view.split + "%)" : "";
    layers.style.filter = mode === "difference" ? "brightness(" + $("gain").value + ")" : "";
    stage.querySelector(".divider").style.left = view.split + "%";
    let note = "";
    if (mode === "flicker") {
      if (calm) note = "Press space to swap.";
      else view.timer = setInterval(() => swap(), 700);
    }
    if (mode === "ssim") note = drawMap();
    $("stage-note").hidden = !note;
    $("stage-note").textContent = note;
    place();
    tags();
  }
  function tags() {
    const swapped = stage.classList.contains("swap"), left = stage.querySelector(".tag.left"), right = $("stage-tag");
    left.hidden = view.mode === "flicker" && !swapped;
    right.hidden = view.mode === "flicker" && swapped;
  }
  function swap() { stage.classList.toggle("swap"); tags(); }

  // SSIM of Wang et al. (2004) on luma, as the scores are, at screen size; bright = changed. Pages
  // opened from disk may not read the pixels of pictures beside them, so there the softened
  // difference stands in.
  function luma(image, width, height) {
    const sheet = make("canvas", { width, height });
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    const data = context.getImageData(0, 0, width, height).data, out = new Float32Array(width * height);
    for (let i = 0; i < out.length; i++) out[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
    return out;
  }
  function blur(field, width, height) {
    const kernel = [];
    for (let i = -5; i <= 5; i++) kernel.push(Math.exp(-i * i / 4.5));
    const sum = kernel.reduce((a, b) => a + b);
    const across = new Float32Array(field.length), out = new Float32Array(field.length);
    const pass = (from, to, step, count, stride, lines) => {
      for (let line = 0; line < lines; line++) {
        for (let i = 0; i < count; i++) {
          let total = 0;
          for (let d = -5; d <= 5; d++) total += kernel[d + 5] * from[line * stride + Math.max(0, Math.min(count - 1, i + d)) * step];
          to[line * stride + i * step] = total / sum;
        }
      }
    };
    pass(field, across, 1, width, width, height);
    pass(across, out, width, height, 1, width);
    return out;
  }
  function drawMap() {
    const a = $("stage-control"), b = $("stage-candidate"), map = $("stage-map");
    if (!a.getAttribute("src") || !b.getAttribute("src")) return "There is no picture to compare.";
    if (!(a.complete && b.complete && a.naturalWidth && b.naturalWidth)) {
      const again = () => { if (view.mode === "ssim" && viewer.open) setMode("ssim"); };
      for (const image of [a, b]) if (!image.complete) image.addEventListener("load", again, { once: true });
      return a.complete && b.complete ? "A picture could not be read." : "Loading…";
    }
    const fit = Math.min(1, 512 / Math.max(b.naturalWidth, b.naturalHeight));
    const width = Math.max(1, Math.round(b.naturalWidth * fit)), height = Math.max(1, Math.round(b.naturalHeight * fit));
    try {
      const x = luma(a, width, height), y = luma(b, width, height);
      const mix = (f) => { const out = new Float32Array(x.length); for (let i = 0; i < out.length; i++) out[i] = f(i); return blur(out, width, height); };
      const mx = blur(x, width, height), my = blur(y, width, height);
      const xx = mix((i) => x[i] * x[i]), yy = mix((i) => y[i] * y[i]), xy = mix((i) => x[i] * y[i]);
      map.width = width; map.height = height;
      const context = map.getContext("2d"), pixels = context.createImageData(width, height);
      for (let i = 0; i < x.length; i++) {
        const top = (2 * mx[i] * my[i] + 6.5025) * (2 * (xy[i] - mx[i] * my[i]) + 58.5225);
        const low = (mx[i] * mx[i] + my[i] * my[i] + 6.5025) * (xx[i] - mx[i] * mx[i] + yy[i] - my[i] * my[i] + 58.5225);
        const moved = Math.max(0, Math.min(1, 1 - top / low));
        pixels.data.set([255 * Math.min(1, 1.5 * moved), 255 * Math.pow(moved, 1.3) * 0.9, 255 * (0.16 + 0.35 * moved), 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      map.hidden = false;
      layers.style.visibility = "hidden";
      return "Bright: structure changed (SSIM 0). Dark: unchanged (SSIM 1).";
    } catch (error) {
      if (error.name !== "SecurityError") throw error;
      stage.dataset.mode = "difference";
      layers.style.filter = "grayscale(1) blur(3px) brightness(5)";
      return "Softened difference: browsers do not let a page opened from disk read its pictures. The single-file report shows the SSIM map.";
    }
  }

  function place() {
    const move = "translate(" + view.x + "px," + view.y + "px) scale(" + view.scale + ")";
    for (const image of stage.querySelectorAll("img, canvas")) {
      image.style.transform = move;
      image.classList.toggle("crisp", view.scale >= 4);
    }
  }
  function resetZoom() { view.scale = 1; view.x = 0; view.y = 0; place(); }
  const paneWidth = () => stage.clientWidth / (view.mode === "side" ? 2 : 1);
  function zoomAt(factor, px, py) {
    const box = stage.getBoundingClientRect(), pane = paneWidth();
    const x = px === undefined ? pane / 2 : (px - box.left) % pane, y = py === undefined ? box.height / 2 : py - box.top;
    const next = Math.max(1, Math.min(24, view.scale * factor)), ratio = next / view.scale;
    view.x = x - (x - view.x) * ratio;
    view.y = y - (y - view.y) * ratio;
    view.scale = next;
    hold();
  }
  function hold() {
    view.x = Math.min(0, Math.max(paneWidth() * (1 - view.scale), view.x));
    view.y = Math.min(0, Math.max(stage.clientHeight * (1 - view.scale), view.y));
    place();
  }
  function setSplit(percent) {
    view.split = Math.max(0, Math.min(100, percent));
    $("divider").value = view.split;
    stage.querySelector(".divider").style.left = view.split + "%";
    if (view.mode === "slider") layers.querySelector(".candidate").style.clipPath = "inset(0 0 0 " + view.split + "%)";
  }
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoomAt(Math.exp(-event.deltaY * 0.0016), event.clientX, event.clientY); }, { passive: false });
  stage.addEventListener("dblclick", (event) => (view.scale > 1 ? resetZoom() : zoomAt(4, event.clientX, event.clientY)));
  const fingers = new Map();
  let grip = null;
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const box = stage.getBoundingClientRect(), at = 100 * (event.clientX - box.left) / box.width;
    grip = view.mode === "slider" && (view.scale === 1 || Math.abs(at - view.split) < 3) ? "divider" : "pan";
    if (grip === "divider") setSplit(at);
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoomAt(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (grip === "divider") {
      const box = stage.getBoundingClientRect();
      setSplit(100 * (now[0] - box.left) / box.width);
    } else if (view.scale > 1) {
      view.x += now[0] - before[0];
      view.y += now[1] - before[1];
      hold();
    }
    fingers.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => { fingers.delete(event.pointerId); if (!fingers.size) stage.classList.remove("dragging"); });
  }
  $("divider").addEventListener("input", () => setSplit(Number($("divider").value)));
  $("gain").addEventListener("input", () => { layers.style.filter = "brightness(" + $("gain").value + ")"; });
  for (const button of document.querySelectorAll(".modes button")) {
    button.addEventListener("click", () => setMode(button.dataset.mode));
  }
  async function copyText() {
    const text = $("viewer-repro").textContent;
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch (error) { done = false; }
    if (!done) {
      const area = make("textarea", { value: text, className: "hidden" });
      viewer.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    $("viewer-copied").textContent = done ? "Copied." : "Select the text and copy it.";
  }
  $("viewer-copy").addEventListener("click", copyText);
  $("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => {
    clearInterval(view.timer);
    if (view.opener && view.opener.isConnected) view.opener.focus({ preventScroll: true });
    else moveFocus(...state.focus);
  });
  function step(list, current, by) {
    const at = list.indexOf(current);
    return list[at < 0 ? 0 : Math.max(0, Math.min(list.length - 1, at + by))];
  }
  function go(settings, along) {
    view.c = step(nav.settings, view.c, settings);
    view.k = step(nav.cases, view.k, along);
    refresh();
  }
  for (const button of document.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => go(...button.dataset.step.split(",").map(Number)));
  }
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const range = event.target.matches("input[type=range]");
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
    if (event.key in arrows && !range) {
      if (event.target.id === "viewer-repro" && event.key.match(/Up|Down/) && event.target.scrollHeight > event.target.clientHeight) return;
      event.preventDefault();
      const [settings, along] = arrows[event.key];
      if (event.shiftKey && along) { setSplit(view.split + 2 * along); return; }
      go(settings, along);
    } else if (modes[Number(event.key) - 1]) setMode(modes[Number(event.key) - 1]);
    else if (event.key === "+" || event.key === "=") zoomAt(1.5);
    else if (event.key === "-") zoomAt(1 / 1.5);
    else if (event.key === "0") resetZoom();
    else if (event.key === "c" || event.key === "C") copyText();
    else if (event.key === " " && !event.target.matches("button, a, input")) { event.preventDefault(); clearInterval(view.timer); swap(); }
  });
  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => openViewer(Number(button.dataset.candidate), Number(button.dataset.case), button));
  }

  // ---- the blind test ------------------------------------------------------------------------
  const ab = $("ab"), votes = [];
  let duel = null;
  const storage = "lora-votes:" + candidates.length + "x" + cases.length + ":" + study.title.slice(0, 60) +
    ":" + candidates.map((c) => c.heading + c.checkpoint).join("|").slice(0, 2000);
  try {
    for (const v of JSON.parse(localStorage.getItem(storage) || "[]")) {
      if (candidates[v.a] && candidates[v.b] && cases[v.case] && v.a !== v.b && ["a", "b", "tie"].includes(v.choice)) votes.push(v);
    }
  } catch (error) { /* private windows keep nothing; the votes then live as long as the page */ }
  function remember() {
    try { localStorage.setItem(storage, JSON.stringify(votes)); } catch (error) { /* as above */ }
    results();
  }
  function pool() {
    let list = candidates.map((_, i) => i).filter((i) => candidates[i].rank !== null);
    if ($("ab-pool").value === "contenders") {
      const few = list.filter((i) => candidates[i].contender);
      if (few.length > 1) list = few;
    }
    return list;
  }
  // The pair of settings compared least often, ties broken at random; sides are random too.
  function nextDuel() {
    const list = pool(), counts = new Map(), seen = new Map();
    for (const v of votes) {
      const key = Math.min(v.a, v.b) + "," + Math.max(v.a, v.b);
      counts.set(key, (counts.get(key) || 0) + 1);
      seen.set(key + "," + v.case, (seen.get(key + "," + v.case) || 0) + 1);
    }
    let best = null;
    for (let i = 0; i < list.length; i++) {
      for (let j = i + 1; j < list.length; j++) {
        const key = list[i] + "," + list[j];
        const weight = (counts.get(key) || 0) + Math.random() * 0.9;
        if (best && weight >= best.weight) continue;
        const both = cases.map((_, k) => k).filter((k) => pictureOf(list[i], k) && pictureOf(list[j], k));
        if (!both.length) continue;
        const fewest = Math.min(...both.map((k) => seen.get(key + "," + k) || 0));
        const fresh = both.filter((k) => (seen.get(key + "," + k) || 0) === fewest);
        best = { weight, a: list[i], b: list[j], k: fresh[Math.floor(Math.random() * fresh.length)] };
      }
    }
    if (best && Math.random() < 0.5) [best.a, best.b] = [best.b, best.a];
    return best;
  }
  function present() {
    duel = nextDuel();
    if (!duel) { ab.close(); return false; }
    show($("ab-left-picture"), pictureOf(duel.a, duel.k), "Left picture");
    show($("ab-right-picture"), pictureOf(duel.b, duel.k), "Right picture");
    $("ab-prompt").replaceChildren(bdi(clip(prompt(duel.k), 400)));
    $("ab-count").textContent = votes.length + (votes.length === 1 ? " comparison so far" : " comparisons so far");
    $("ab-undo").disabled = !votes.length;
    return true;
  }
  function vote(choice) {
    if (!duel) return;
    votes.push({ a: duel.a, b: duel.b, choice, case: duel.k, at: new Date().toISOString() });
    remember();
    present();
  }
  $("ab-start").addEventListener("click", () => {
    if (present()) { ab.showModal(); $("ab-left").focus(); }
    else $("ab-result").textContent = "At least two settings with pictures are needed.";
  });
  $("ab-left").addEventListener("click", () => vote("a"));
  $("ab-right").addEventListener("click", () => vote("b"));
  $("ab-tie").addEventListener("click", () => vote("tie"));
  $("ab-skip").addEventListener("click", present);
  $("ab-undo").addEventListener("click", () => { votes.pop(); remember(); present(); });
  $("ab-close").addEventListener("click", () => ab.close());
  ab.addEventListener("close", () => { results(); $("ab-start").focus({ preventScroll: true }); });
  ab.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const keys = { ArrowLeft: "a", ArrowRight: "b", ArrowDown: "tie" };
    if (keys[event.key]) { event.preventDefault(); vote(keys[event.key]); }
    else if (event.key === "s" || event.key === "S") present();
    else if ((event.key === "u" || event.key === "U") && votes.length) { votes.pop(); remember(); present(); }
  });
  $("ab-clear").addEventListener("click", () => {
    if (votes.length && confirm("Forget " + votes.length + " comparisons?")) { votes.length = 0; remember(); }
  });
  $("ab-export").addEventListener("click", () => {
    const file = {
      kind: "lora-analysers votes", format: 1, title: study.title,
      settings: candidates.map((c) => ({ heading: c.heading, checkpoint: c.checkpoint, epoch: c.epoch, step: c.step, strength: c.strength })),
      votes: votes.map((v) => ({ a: v.a, b: v.b, choice: v.choice, case: cases[v.case].name, prompt: prompt(v.case), seed: cases[v.case].seed, at: v.at })),
    };
    const url = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    make("a", { href: url, download: "votes.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  });

  // Bradley and Terry (1952) by Hunter's MM iteration (2004); as reports/votes.py, tests compare.
  function bradleyTerry(n, list) {
    const wins = new Array(n).fill(0.5), games = new Map();
    for (const v of list) {
      wins[v.a] += { a: 1, b: 0, tie: 0.5 }[v.choice];
      wins[v.b] += { a: 0, b: 1, tie: 0.5 }[v.choice];
      const key = Math.min(v.a, v.b) + "," + Math.max(v.a, v.b);
      games.set(key, (games.get(key) || 0) + 1);
    }
    const pairs = [...games].map(([key, count]) => [...key.split(",").map(Number), count]);
    let power = new Array(n).fill(1);
    for (let turn = 0; turn < 2000; turn++) {
      const rate = power.map((p) => 1 / (p + 1));
      for (const [a, b, count] of pairs) { const share = count / (power[a] + power[b]); rate[a] += share; rate[b] += share; }
      const next = wins.map((w, i) => w / rate[i]);
      const moved = Math.max(...next.map((p, i) => Math.abs(Math.log(p / power[i]))));
      power = next;
      if (moved < 1e-10) break;
    }
    const information = power.map((p) => p / (p + 1) ** 2);
    for (const [a, b, count] of pairs) { const share = count * power[a] * power[b] / (power[a] + power[b]) ** 2; information[a] += share; information[b] += share; }
    const logs = power.map(Math.log), centre = logs.reduce((x, y) => x + y, 0) / n;
    return logs.map((x, i) => [x - centre, 1.96 / Math.sqrt(information[i])]);
  }
  function kendall(x, y) {
    let agree = 0, tx = 0, ty = 0, pairs = 0;
    for (let i = 0; i < x.length; i++) {
      for (let j = 0; j < i; j++) {
        pairs++;
        tx += x[i] === x[j];
        ty += y[i] === y[j];
        agree += Math.sign((x[i] - x[j]) * (y[i] - y[j]));
      }
    }
    const room = (pairs - tx) * (pairs - ty);
    return room ? agree / Math.sqrt(room) : NaN;
  }
  function results() {
    const out = $("ab-result");
    $("ab-export").disabled = $("ab-clear").disabled = !votes.length;
    if (!votes.length) { out.replaceChildren(); return; }
    const fitted = bradleyTerry(candidates.length, votes);
    const tally = candidates.map(() => [0, 0, 0]);
    for (const v of votes) {
      const a = { a: 0, b: 1, tie: 2 }[v.choice];
      tally[v.a][a]++;
      tally[v.b][a === 2 ? 2 : 1 - a]++;
    }
    const used = candidates.map((_, i) => i).filter((i) => tally[i].some(Boolean)).sort((i, j) => fitted[j][0] - fitted[i][0]);
    const both = used.filter((i) => candidates[i].mean !== null);
    const tau = kendall(both.map((i) => fitted[i][0]), both.map((i) => -sign * candidates[i].mean));
    const name = visible(metrics[rankAt] ? metrics[rankAt][1] : study.rankBy);
    const cell = (textContent) => make("td", { textContent });
    const body = make("tbody", null, ...used.map((i) => make("tr", null,
      make("th", { scope: "row" }, bdi(candidates[i].heading)), ...tally[i].map((x) => cell(x)),
      cell(fitted[i][0].toFixed(2) + " ± " + fitted[i][1].toFixed(2)), cell(number(candidates[i].mean, 2)), cell(candidates[i].rank ?? "–"))));
    const head = make("tr", null, ...["setting", "won", "lost", "tied", "people's score", name, "rank"].map((textContent) => make("th", { scope: "col", textContent })));
    const words = Number.isNaN(tau) ? "" : " People and " + name + " agree with Kendall's tau " + tau.toFixed(2) + " (1: the same order, 0: unrelated, −1: reversed).";
    out.replaceChildren(
      make("p", { textContent: votes.length + (votes.length === 1 ? " comparison." : " comparisons.") + words }),
      make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Results of the blind test" }, make("table", { id: "ab-table" }, make("thead", null, head), body)));
  }

  arrange();
  zoom(0);
  results();
  document.documentElement.dataset.ready = "yes";
})();
