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
  const caseName = (k) => [prompt(k), seedText(k)].filter(Boolean).join(" · ") || cases[k].name;
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

  // ---- why, words, print ---------------------------------------------------------------------
  const why = $("why");
  function reveal() {
    const target = location.hash.length > 1 && !location.hash.startsWith("#view") && $(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", () => { if ("#" + location.hash.slice(1) === link.getAttribute("href")) reveal(); });
  }
  const folded = [why, $("more")].filter(Boolean);
  addEventListener("beforeprint", () => {
    for (const box of folded) if (!box.open) { box.open = true; box.dataset.printed = "yes"; }
  });
  addEventListener("afterprint", () => {
    for (const box of folded) if (box.dataset.printed) { box.open = false; delete box.dataset.printed; }
  });

  const tip = $("tip");
  let described = null;
  function explain(term) {
    if (described) described.removeAttribute("aria-describedby");
    described = term;
    tip.hidden = !term;
    if (!term) return;
    (term.closest("dialog") || document.body).append(tip);
    tip.textContent = study.glossary[term.dataset.term];
    term.setAttribute("aria-describedby", "tip");
    const box = term.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(innerWidth - own.width - 8, box.left)) + "px";
    tip.style.top = (box.bottom + own.height + 12 > innerHeight ? box.top - own.height - 6 : box.bottom + 6) + "px";
  }
  const termOf = (event) => (event.target.closest ? event.target.closest(".term") : null);
  for (const name of ["pointerover", "focusin", "click"]) {
    document.addEventListener(name, (event) => { const term = termOf(event); if (term || name === "click") explain(term); });
  }
  for (const name of ["pointerout", "focusout"]) document.addEventListener(name, (event) => { if (termOf(event)) explain(null); });
  addEventListener("scroll", () => explain(null), { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && described) explain(null); });

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
  // Only the cells in view exist. Rows are positioned by hand and scroll with the page, so a wheel
  // is never caught; columns scroll inside, under a head that stays at the top of the window.
  const grid = $("grid"), top = document.querySelector(".top");
  const measure = () => {
    document.documentElement.style.setProperty("--top", top.offsetHeight + "px");
    document.documentElement.style.setProperty("--bar", innerWidth - document.documentElement.clientWidth + "px");
  };
  measure();
  const narrow = matchMedia("(max-width: 640px)");
  // On a phone the control and two settings fit beside each other, and the edge of a third.
  const sizes = [["XS", 88], ["S", narrow.matches ? 106 : 128], ["M", 184], ["L", 272], ["XL", 400], ["XXL", 560]];
  const state = {
    layout: "cases", page: 0, sort: "natural", filter: "all", find: "", zoom: narrow.matches ? 1 : 2, fit: !narrow.matches,
    pin: true, hidden: new Set(), hiddenCases: new Set(), ticked: new Set(), focus: [0, -1], timer: 0,
  };
  const unique = (list) => [...new Set(list)];
  const places = unique(candidates.map((c) => c.place));
  const strengths = unique(candidates.map((c) => c.strength));
  const plane = study.kind === "plane" && places.length > 1 && strengths.length > 1;
  const seeds = unique(cases.map((c) => c.seed));
  const layouts = [["cases", "Cases × settings"], ["settings", "Settings × cases"], ["wall", "One setting, all cases"]];
  if (seeds.length > 1 && prompts.length > 1) layouts.push(["seeds", "Seeds × settings, one prompt"]);
  if (plane) layouts.push(["plane", "Strengths × checkpoints, one case"], ["planeT", "Checkpoints × strengths, one case"]);
  $("layout").append(...layouts.map(([value, textContent]) => make("option", { value, textContent })));
  const scroller = make("div", { className: "scroller", role: "rowgroup" });
  const headbox = make("div", { className: "gridhead", role: "rowgroup" });

  function chosenSettings() {
    let list = candidates.map((_, i) => i);
    if (state.filter === "tied") list = list.filter((i) => candidates[i].tied);
    if (state.filter === "clean") list = list.filter((i) => candidates[i].clean);
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
      if (state.hiddenCases.has(k)) return false;
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
    if (state.layout.startsWith("plane")) options = list.map((k) => [k, caseName(k)]);
    if (state.layout === "wall") options = [[-1, "control"], ...settings.map((c) => [c, candidates[c].heading])];
    label.hidden = options.length === 0;
    if (options.length) {
      if (!options.some((o) => o[0] === state.page)) {
        const recommended = candidates.findIndex((c) => c.recommended);
        state.page = state.layout === "wall" && settings.includes(recommended) ? recommended : options[0][0];
      }
      $("page-word").textContent = { seeds: "Prompt", wall: "Setting" }[state.layout] || "Case";
      pager.replaceChildren(...options.map(([value, text]) =>
        make("option", { value, textContent: clip(visible(text), 60), selected: value === state.page })));
    }
    if (state.layout === "settings") {
      table = { rows: [{ control: true }, ...settings.map(setting)], cols: list.map(one), pinned: false,
        at: (r, c) => [r.control ? -1 : r.setting, c.case] };
    } else if (state.layout === "wall") {
      const width = pictureWidth(0, 0) + 6, across = Math.max(1, Math.floor(room() / width));
      const rows = [];
      for (let i = 0; i < list.length; i += across) rows.push({ wall: list.slice(i, i + across) });
      const cols = rows.length ? rows[0].wall.map((_, i) => ({ index: i })) : [];
      table = { rows, cols, pinned: false, bare: true, at: (r, c) => (c.index in r.wall ? [state.page, r.wall[c.index]] : [-3, 0]) };
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
    // Neighbouring settings of one checkpoint share a heading.
    table.groups = [];
    if (plane && table.cols.length && table.cols[0].setting !== undefined) {
      table.cols.forEach((col, i) => {
        const c = candidates[col.setting], last = table.groups[table.groups.length - 1];
        if (last && last.place === c.place) last.count++;
        else table.groups.push({ place: c.place, text: c.where, start: i, count: 1 });
      });
    }
    const gone = state.hidden.size + state.hiddenCases.size;
    $("unhide").hidden = !gone;
    $("unhide").textContent = "Show " + gone + " hidden";
    $("shown").textContent = settings.length + " of " + candidates.length + " settings, " + list.length + " of " + cases.length + " cases";
    drawn.clear();
    build();
  }

  const drawn = new Map();
  let canvas, track, geometry;
  const room = () => Math.max(160, grid.clientWidth || innerWidth - 32);
  function pictureWidth(head, columns) {
    if (state.fit && columns) return Math.max(64, Math.min(560, Math.floor((room() - head) / columns) - 6));
    const edge = sizes[state.zoom][1];
    return Math.min(room() - head - 6, study.ratio >= 1 ? edge : Math.round(edge * study.ratio));
  }
  function build() {
    const above = narrow.matches && !table.bare ? 34 : 0, head = table.bare || above ? 0 : 190;
    const width = pictureWidth(head, table.bare ? 0 : table.cols.length + (table.pinned ? 1 : 0));
    $("size").textContent = state.fit ? "" : sizes[state.zoom][0];
    $("fit").setAttribute("aria-pressed", state.fit);
    $("smaller").disabled = !state.fit && state.zoom === 0;
    $("larger").disabled = !state.fit && state.zoom === sizes.length - 1;
    const height = Math.round(width / study.ratio);
    const pinned = table.pinned ? width + 6 : 0;
    geometry = { width: width + 6, height: height + 28 + above, above, head, pinned, left: head + pinned, frame: height, group: table.groups.length ? 26 : 0 };
    const total = geometry.left + table.cols.length * geometry.width;
    canvas = make("div", { className: "canvas" });
    canvas.classList.toggle("loose", !state.pin);
    canvas.style.width = total + "px";
    canvas.style.height = table.rows.length * geometry.height + 4 + "px";
    track = make("div", { className: "row track", role: "row" });
    track.setAttribute("aria-rowindex", 1);
    headbox.replaceChildren(track);
    headbox.style.height = geometry.group + 58 + "px";
    headbox.hidden = Boolean(table.bare);
    scroller.replaceChildren(canvas);
    if (!table.rows.length || !table.cols.length) {
      grid.setAttribute("role", "group");
      grid.replaceChildren(make("p", { className: "empty", textContent: "Nothing matches. Widen the filter above." }));
      return;
    }
    const first = !scroller.parentNode, recommended = table.cols.findIndex((col) => col.setting !== undefined && candidates[col.setting].recommended);
    const keep = first && narrow.matches && recommended > 0 ? recommended * geometry.width : scroller.scrollLeft;
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-rowcount", table.rows.length + 1);
    grid.setAttribute("aria-colcount", table.cols.length + 1 + (table.pinned ? 1 : 0));
    if (scroller.parentNode !== grid) grid.replaceChildren(headbox, scroller);
    scroller.scrollLeft = keep;
    state.focus = [Math.min(state.focus[0], table.rows.length - 1), Math.max(firstCol(), Math.min(state.focus[1], lastCol()))];
    drawn.clear();
    draw();
  }
  const lastCol = () => table.cols.length - 1;
  const firstCol = () => (table.pinned ? -1 : 0);

  const marks = [["recommended", "★", "recommended"], ["broken", "✕", "broken"], ["tied", "≈", "tied"]];
  function markOf(c, wide) {
    const found = marks.find(([key]) => c[key]);
    if (!found) return "";
    const word = found[0] === "recommended" && !study.recommended ? "ranked first" : found[2];
    const mark = make("span", { className: "mark " + found[0], title: word, textContent: wide ? word : found[1] });
    if (!wide) mark.append(make("span", { className: "hidden", textContent: " " + word }));
    return mark;
  }
  const edited = (k) => make("img", { className: "edited", src: cases[k].edited, alt: "The picture that is edited" });
  function caption(target, item, wide, grouped) {
    const text = make("span", { className: "text" });
    target.append(text);
    if (item.control) text.textContent = "control";
    else if (item.setting !== undefined) {
      const c = candidates[item.setting];
      const two = plane && c.strength !== null;
      if (two && !grouped) text.append(make("small", null, bdi(c.where)));
      text.append(bdi(two ? c.strength : c.heading));
      if (c.recommended) target.classList.add("best");
      target.title = visible(c.heading) + (c.notes ? ": " + visible(c.notes) : "");
    } else if (item.case !== undefined) {
      text.append(bdi(clip(prompt(item.case), 120)));
      if (seedText(item.case)) target.append(make("small", { textContent: seedText(item.case) }));
      target.title = visible(clip(prompt(item.case), 400));
    } else if (item.place !== undefined) text.append(bdi(candidates.find((c) => c.place === item.place).where));
    else if (item.strength !== undefined) text.append(bdi(item.strength === null ? "–" : item.strength));
  }
  function settingTools(c, wide) {
    const name = visible(candidates[c].heading);
    const tick = make("input", { type: "checkbox", checked: state.ticked.has(c), tabIndex: -1, title: "Compare" });
    tick.setAttribute("aria-label", "Compare " + name);
    tick.addEventListener("change", () => tickSetting(c, tick.checked));
    const hide = make("button", { type: "button", className: "hide", textContent: "✕", tabIndex: -1, title: "Hide" });
    hide.setAttribute("aria-label", "Hide " + name);
    hide.addEventListener("click", () => { state.hidden.add(c); arrange(); });
    return make("span", { className: "bits" }, markOf(candidates[c], wide), make("span", { className: "ends" }, make("label", { className: "tick" }, tick), hide));
  }
  function tickSetting(c, on) {
    if (on) state.ticked.add(c); else state.ticked.delete(c);
    if (state.ticked.size > 4) state.ticked.delete(state.ticked.values().next().value);
    for (const box of grid.querySelectorAll(".tick input")) box.checked = state.ticked.has(Number(box.closest("[data-setting]").dataset.setting));
    const button = $("compare");
    button.hidden = !state.ticked.size;
    button.textContent = state.ticked.size === 1 ? "Compare with the control" : "Compare " + state.ticked.size + " settings";
  }
  $("compare").addEventListener("click", () => {
    const list = [...state.ticked].sort((a, b) => a - b), row = table.rows[Math.max(0, state.focus[0])];
    const k = row && row.case !== undefined ? row.case : nav.cases[0] ?? 0;
    view.mode = "side";
    openViewer(list.length === 1 ? [-1, list[0]] : list, k, $("compare"));
  });
  function headCell(at, item) {
    const cell = make("div", { className: "colhead", role: "columnheader" });
    cell.style.left = geometry.left + at * geometry.width + "px";
    cell.style.width = geometry.width + "px";
    cell.style.top = geometry.group + "px";
    cell.setAttribute("aria-colindex", at + 2 + (table.pinned ? 1 : 0));
    caption(cell, item, false, table.groups.length > 0);
    if (item.setting !== undefined) { cell.dataset.setting = item.setting; cell.append(settingTools(item.setting, geometry.width > 172)); }
    return cell;
  }
  function pictureCell(r, at) {
    const row = table.rows[r];
    const [c, k] = at < 0 ? [-1, table.control(row)] : table.at(row, table.cols[at]);
    const box = make("div", { className: "cell" + (at < 0 ? " pinned" : ""), role: "gridcell" });
    box.style.width = geometry.width + "px";
    box.style.top = at < 0 ? "" : geometry.above + "px";
    box.style.height = geometry.height - geometry.above + "px";
    box.style.left = (at < 0 ? geometry.head : geometry.left + at * geometry.width) + "px";
    box.setAttribute("aria-colindex", at + 2 + (table.pinned ? 1 : 0));
    box.dataset.at = r + "," + at;
    if (c === -3) return box;
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
      if (cell && cell[1] === "failed" && cell[2]) frame.append(make("span", { className: "why over", textContent: clip(visible(cell[2]), 160) }));
    } else {
      const left = c >= 0 && candidates[c].settled ? "settled, not rendered" : "not in the study";
      const reason = c === -2 || (c >= 0 && !cell) ? left : cell ? cell[2] || "no picture" : cases[k].reason || "no control";
      frame.append(make("span", { className: "why" + (cell ? "" : " none"), textContent: clip(visible(reason), 160) }));
    }
    const q = c === -2 ? null : quality(c, k), s = c === -2 ? null : valuesOf(c, k)[ssimAt];
    const cap = make("span", { className: "cap" });
    if (c === -1 && geometry.width > 100) cap.append("control");
    if (table.bare) cap.append(make("span", { className: "what", textContent: clip(visible(prompt(k)), 80) }));
    if (q !== null) {
      cap.append(make("span", { className: "hidden", textContent: metrics[rankAt][1] + " " }), make("b", { textContent: number(q, 1) }));
    }
    if (!table.bare && c >= 0 && s !== null && s !== undefined && geometry.width > 118) cap.append("SSIM " + number(s, 2));
    if (c >= 0 && firstOf(k) === c) { box.classList.add("first"); cap.title = "first of its row"; }
    if (cell && cell[1] !== "ok") { box.classList.add("flagged"); button.title = visible(cell[2] || cell[1]); }
    button.append(frame, cap);
    if (!source) frame.append(make("span", { className: "hidden", textContent: what }));
    if (c === -2) button.disabled = true;
    else button.addEventListener("click", () => { moveFocus(r, at, false); openViewer([-1, c < 0 ? defaultSetting() : c], k, button); });
    button.addEventListener("focus", () => { state.focus = [r, at]; });
    box.append(button);
    return box;
  }
  const defaultSetting = () => {
    const c = candidates.findIndex((x) => x.recommended);
    return nav.settings.includes(c) || !nav.settings.length ? Math.max(0, c) : nav.settings[0];
  };
  function rowElement(r) {
    const item = table.rows[r];
    const row = make("div", { className: "row", role: "row" });
    row.setAttribute("aria-rowindex", r + 2);
    row.style.width = geometry.left + table.cols.length * geometry.width + "px";
    row.style.height = geometry.height + "px";
    row.style.top = r * geometry.height + "px";
    if (table.bare) return row;
    const head = make("div", { className: "rowhead", role: "rowheader" });
    if (geometry.above) {
      head.classList.add("above");
      head.style.height = geometry.above + "px";
    }
    head.style.width = (geometry.above ? room() : geometry.head) + "px";
    const text = make("div", { className: "clamp" });
    head.append(text);
    if (item.case !== undefined) {
      text.append(bdi(clip(prompt(item.case) || cases[item.case].name, 220)));
      if (seedText(item.case)) head.append(make("small", { textContent: seedText(item.case) }));
      if (cases[item.case].edited) head.append(edited(item.case));
      head.title = visible(clip(prompt(item.case), 400));
    } else {
      caption(text, item, true, false);
      if (text.classList.contains("best")) head.classList.add("best");
      if (item.setting !== undefined) { head.dataset.setting = item.setting; head.append(settingTools(item.setting, geometry.above || geometry.head > 120)); }
    }
    row.append(head);
    if (table.pinned) row.append(pictureCell(r, -1));
    return row;
  }
  function draw() {
    if (!table.rows.length || !table.cols.length) return;
    const g = geometry, last = table.rows.length - 1, place = scroller.getBoundingClientRect();
    const r0 = Math.max(0, Math.min(last, Math.floor(-place.top / g.height) - 2));
    const r1 = Math.min(last, Math.max(Math.floor((innerHeight - place.top) / g.height) + 2, 1));
    const c0 = Math.max(0, Math.floor((scroller.scrollLeft - g.left) / g.width) - 1);
    const c1 = Math.min(lastCol(), Math.floor((scroller.scrollLeft + scroller.clientWidth) / g.width) + 1);
    const fill = (entry, makeCell) => {
      for (const [at, element] of entry.cells) {
        if ((at < c0 || at > c1) && !element.contains(document.activeElement)) { element.remove(); entry.cells.delete(at); }
      }
      for (let at = c0; at <= c1; at++) {
        if (!entry.cells.has(at)) { const element = makeCell(at); entry.cells.set(at, element); entry.row.append(element); }
      }
    };
    if (!drawn.has("head")) {
      const corner = make("div", { className: "rowhead corner", role: "columnheader" });
      corner.style.width = g.head + "px";
      corner.append(make("span", { className: "hidden", textContent: "Case or setting" }));
      const fixed = [corner];
      if (table.pinned) {
        const control = make("div", { className: "colhead pinned", role: "columnheader" });
        control.style.left = g.head + "px";
        control.style.width = g.pinned + "px";
        caption(control, { control: true });
        fixed.push(control);
      }
      const groups = table.groups.map((group) => {
        const cell = make("div", { className: "group" }, make("span", null, bdi(group.text)));
        cell.style.left = g.left + group.start * g.width + "px";
        cell.style.width = group.count * g.width + "px";
        return cell;
      });
      track.append(...groups, ...fixed);
      drawn.set("head", { row: track, cells: new Map(), fixed, groups });
    }
    const top = drawn.get("head"), left = scroller.scrollLeft;
    track.style.transform = "translateX(" + -left + "px)";
    top.fixed.forEach((cell, i) => { cell.style.transform = i && !state.pin ? "" : "translateX(" + left + "px)"; });
    const edge = left + g.head + (state.pin ? g.pinned : 0);
    top.groups.forEach((cell, i) => {
      const group = table.groups[i], start = g.left + group.start * g.width;
      cell.firstChild.style.marginLeft = Math.max(0, Math.min(edge - start, group.count * g.width - 90)) + "px";
    });
    fill(top, (at) => headCell(at, table.cols[at]));
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
  }
  let waiting = false;
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  scroller.addEventListener("scroll", later, { passive: true });
  addEventListener("scroll", later, { passive: true });
  let broad = innerWidth;
  addEventListener("resize", () => { measure(); if (innerWidth !== broad) { broad = innerWidth; arrange(); } else later(); });
  why.addEventListener("toggle", later);
  narrow.addEventListener("change", () => build());

  const bar = () => top.offsetHeight + (headbox.hidden ? 0 : headbox.offsetHeight);
  function moveFocus(r, at, focus = true) {
    r = Math.max(0, Math.min(table.rows.length - 1, r));
    at = Math.max(firstCol(), Math.min(lastCol(), at));
    const before = grid.querySelector('.cell button[tabindex="0"]');
    state.focus = [r, at];
    const g = geometry, top = scroller.getBoundingClientRect().top + r * g.height;
    if (focus && top < bar()) scrollBy({ top: top - bar(), behavior: "instant" });
    else if (focus && top + g.height > innerHeight) scrollBy({ top: Math.min(top + g.height - innerHeight + 8, top - bar()), behavior: "instant" });
    if (at >= 0) {
      const x = g.left + at * g.width, edge = state.pin ? g.left : g.head;
      if (x - edge < scroller.scrollLeft) scroller.scrollLeft = x - edge;
      else if (x + g.width > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = x + g.width - scroller.clientWidth;
    }
    draw();
    const button = grid.querySelector('.cell[data-at="' + r + "," + at + '"] button');
    if (before && before !== button) before.tabIndex = -1;
    if (button) { button.tabIndex = 0; if (focus) button.focus({ preventScroll: true }); }
  }
  grid.addEventListener("keydown", (event) => {
    if (!event.target.closest(".cell") || event.ctrlKey || event.metaKey || event.altKey) return;
    const [r, at] = state.focus;
    const page = Math.max(1, Math.floor((innerHeight - bar()) / geometry.height) - 1);
    const moves = {
      ArrowUp: [r - 1, at], ArrowDown: [r + 1, at], ArrowLeft: [r, at - 1], ArrowRight: [r, at + 1],
      Home: [r, firstCol()], End: [r, lastCol()], PageUp: [r - page, at], PageDown: [r + page, at],
    };
    if (event.key in moves) { event.preventDefault(); moveFocus(...moves[event.key]); }
    else if (event.key === "+" || event.key === "=") zoom(1);
    else if (event.key === "-") zoom(-1);
    else if (event.key === "f" || event.key === "F") fit();
    else if (event.key === "t" || event.key === "T") {
      const [c] = at < 0 ? [-1] : table.at(table.rows[r], table.cols[at]);
      if (c >= 0) tickSetting(c, !state.ticked.has(c));
    }
  });
  function zoom(step) {
    const hadFocus = grid.contains(document.activeElement);
    if (state.fit) {
      const width = geometry.width - 6;
      state.zoom = step > 0 ? sizes.findIndex(([, edge]) => edge > width) : sizes.findLastIndex(([, edge]) => edge < width);
      if (state.zoom < 0) state.zoom = step > 0 ? sizes.length - 1 : 0;
    } else state.zoom = Math.max(0, Math.min(sizes.length - 1, state.zoom + step));
    state.fit = false;
    arrange();
    if (hadFocus) moveFocus(...state.focus);
  }
  function fit() { state.fit = !state.fit; arrange(); }
  $("smaller").addEventListener("click", () => zoom(-1));
  $("larger").addEventListener("click", () => zoom(1));
  $("fit").addEventListener("click", fit);
  $("more-tools").addEventListener("click", () => { $("more-tools").setAttribute("aria-expanded", $("tools").classList.toggle("opened")); });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  function setLayout(value) { state.layout = $("layout").value = value; scroller.scrollLeft = 0; arrange(); }
  for (const name of ["sort", "filter"]) {
    $(name).addEventListener("change", () => { state[name] = $(name).value; scroller.scrollLeft = 0; arrange(); });
  }
  $("layout").addEventListener("change", () => { cycle(false); setLayout($("layout").value); });
  $("page").addEventListener("change", () => { state.page = Number($("page").value); arrange(); });
  $("find").addEventListener("input", () => { state.find = $("find").value; arrange(); });
  $("pin").checked = state.pin;
  $("pin").addEventListener("change", () => { state.pin = $("pin").checked; build(); });
  $("unhide").addEventListener("click", () => { state.hidden.clear(); state.hiddenCases.clear(); choices(); arrange(); $("choose").firstElementChild.focus(); });
  function cycle(on) {
    clearInterval(state.timer);
    state.timer = 0;
    $("cycle").setAttribute("aria-pressed", on);
    $("cycle").textContent = on ? "Stop" : "Cycle settings";
    if (!on) return;
    if (state.layout !== "wall") setLayout("wall");
    state.timer = setInterval(() => {
      const list = [-1, ...nav.settings];
      state.page = list[(list.indexOf(state.page) + 1) % list.length];
      arrange();
    }, 1200);
  }
  $("cycle").addEventListener("click", () => cycle(!state.timer));
  function choices() {
    const fill = (box, names, gone) => {
      const all = (on) => { gone.clear(); if (!on) names.forEach((_, i) => gone.add(i)); choices(); arrange(); };
      const button = (word, on) => { const b = make("button", { type: "button", className: "quiet", textContent: word }); b.addEventListener("click", () => all(on)); return b; };
      box.replaceChildren(box.firstElementChild, make("div", { className: "ends" }, button("All", true), button("None", false)), ...names.map((name, i) => {
        const tick = make("input", { type: "checkbox", checked: !gone.has(i) });
        tick.addEventListener("change", () => { if (tick.checked) gone.delete(i); else gone.add(i); arrange(); });
        return make("label", { className: "switch" }, tick, " ", bdi(clip(name, 80)));
      }));
    };
    fill($("choose-settings"), candidates.map((c) => c.heading), state.hidden);
    fill($("choose-cases"), cases.map((_, k) => caseName(k)), state.hiddenCases);
  }
  $("choose").addEventListener("toggle", () => { if ($("choose").open) choices(); });
  $("choose").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { $("choose").open = false; $("choose").firstElementChild.focus(); }
  });
  document.addEventListener("click", (event) => { if (!event.target.isConnected || event.target.closest("#choose")) return; $("choose").open = false; });

  // The view as one PNG. A page opened from disk may not read the pictures beside it, so it is drawn
  // from those inside the page.
  const fileOf = (i) => (study.pictures[i].startsWith("data:") ? study.pictures[i] : study.thumbs[i] || "");
  const indexOf = (c, k) => (c < 0 ? cases[k].control : (cellOf(c, k) || [0])[0]);
  const loaded = (source) => new Promise((done) => {
    if (!source) { done(null); return; }
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = source;
  });
  function wrapped(context, text, width, most) {
    const lines = [""];
    for (const word of visible(text).slice(0, 600).split(/\s+/)) {
      const next = lines[lines.length - 1] ? lines[lines.length - 1] + " " + word : word;
      if (context.measureText(next).width <= width || !lines[lines.length - 1]) lines[lines.length - 1] = next;
      else if (lines.length === most) { lines[most - 1] += "…"; break; }
      else lines.push(word);
    }
    return lines;
  }
  async function savePicture() {
    const columns = table.cols.slice(0, 24), rows = table.rows.slice(0, Math.max(1, Math.floor(400 / Math.max(1, columns.length))));
    const picked = rows.map((row) => [...(table.pinned ? [[-1, table.control(row)]] : []), ...columns.map((col) => table.at(row, col))]);
    const sources = picked.map((line) => line.map(([c, k]) => (c < -1 ? "" : fileOf(indexOf(c, k)))));
    if (!sources.some((line) => line.some(Boolean))) {
      $("shown").textContent = "This page does not hold its pictures: write the report with --single-file to save them.";
      return null;
    }
    const width = 224, height = Math.round(width / study.ratio), gap = 8, left = table.bare ? gap : 220, foot = 54;
    const sheet = make("canvas"), context = sheet.getContext("2d");
    const font = (size, bold) => { context.font = (bold ? "600 " : "") + size + 'px system-ui, sans-serif'; };
    sheet.width = Math.max(left + picked[0].length * (width + gap), 640);
    font(17);
    const shown = { seeds: prompts[state.page], wall: state.page < 0 ? "control" : candidates[state.page]?.heading }[state.layout]
      ?? (state.layout.startsWith("plane") ? caseName(state.page) : "");
    const about = wrapped(context, [shown, study.loras.join(", "), ...study.settings.map(([key, value]) => key + ": " + value)].filter(Boolean).join(" · "), sheet.width - 2 * gap, 3);
    const top = 52 + 24 * about.length + (table.bare ? 0 : 44);
    sheet.height = top + rows.length * (height + gap) + foot;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, sheet.width, sheet.height);
    context.textBaseline = "top";
    context.fillStyle = "#1c1b1a";
    font(26, true);
    context.fillText(visible(study.title || "LoRA study").slice(0, 80), gap, 12);
    font(17);
    context.fillStyle = "#65625e";
    about.forEach((line, i) => context.fillText(line, gap, 46 + 24 * i));
    const heads = [...(table.pinned ? [{ control: true }] : []), ...columns];
    const said = (item) => (item.control ? "control" : item.setting !== undefined ? candidates[item.setting].heading
      : item.case !== undefined ? caseName(item.case) : item.place !== undefined ? candidates.find((c) => c.place === item.place).where
        : item.strength !== undefined ? String(item.strength) : "");
    if (!table.bare) heads.forEach((item, j) => {
      const c = item.setting !== undefined && candidates[item.setting];
      context.fillStyle = c && c.recommended ? "#1f4fa3" : "#1c1b1a";
      font(18, true);
      wrapped(context, (c && c.recommended ? "★ " : "") + said(item), width, 2).forEach((line, i) => context.fillText(line, left + j * (width + gap), top - 44 + 21 * i));
    });
    for (let i = 0; i < rows.length; i++) {
      const y = top + i * (height + gap);
      if (!table.bare) {
        context.fillStyle = "#1c1b1a";
        font(17);
        wrapped(context, said(rows[i]), left - 2 * gap, Math.max(2, Math.floor(height / 23))).forEach((line, n) => context.fillText(line, gap, y + 23 * n));
      }
      const images = await Promise.all(sources[i].map(loaded));
      images.forEach((image, j) => {
        const x = left + j * (width + gap);
        if (!image) { context.fillStyle = "#eee"; context.fillRect(x, y, width, height); return; }
        const scale = Math.min(width / image.width, height / image.height);
        context.drawImage(image, x + (width - image.width * scale) / 2, y + (height - image.height * scale) / 2, image.width * scale, image.height * scale);
      });
    }
    context.fillStyle = "#1c1b1a";
    font(17);
    wrapped(context, study.answer, sheet.width - 2 * gap, 2).forEach((line, i) => context.fillText(line, gap, sheet.height - foot + 6 + 22 * i));
    return sheet;
  }
  function download(href, name) { make("a", { href, download: name }).click(); }
  $("save").addEventListener("click", async () => {
    $("save").disabled = true;
    const sheet = await savePicture();
    $("save").disabled = false;
    if (sheet) sheet.toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      download(url, (study.title || "study").replace(/[^\w.-]+/g, "_").slice(0, 60) + "-pictures.png");
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
  });

  // ---- zoom, one for all pictures of a stage -----------------------------------------------------
  class Zoom {
    constructor(stage, pane, changed) {
      Object.assign(this, { stage, pane, changed, scale: 1, x: 0, y: 0, fingers: new Map(), grip: null, divide: null });
      stage.addEventListener("wheel", (event) => { event.preventDefault(); this.at(Math.exp(-event.deltaY * 0.0016), event.clientX, event.clientY); }, { passive: false });
      stage.addEventListener("pointermove", (event) => this.move(event));
      for (const name of ["pointerup", "pointercancel"]) {
        stage.addEventListener(name, (event) => { this.fingers.delete(event.pointerId); if (!this.fingers.size) stage.classList.remove("dragging"); });
      }
    }
    images() { return this.stage.querySelectorAll("img, canvas"); }
    // How much a picture is enlarged when it fills its pane.
    filled() {
      const image = [...this.stage.querySelectorAll("img")].find((i) => i.naturalWidth && !i.hidden), [width, height] = this.pane();
      return image && width && height ? Math.min(width / image.naturalWidth, height / image.naturalHeight) : 1;
    }
    at(factor, px, py) {
      const box = this.stage.getBoundingClientRect(), [width, height] = this.pane();
      const x = px === undefined ? width / 2 : (px - box.left) % width, y = py === undefined ? height / 2 : (py - box.top) % height;
      const next = Math.max(Math.min(1, 1 / this.filled()), Math.min(24, this.scale * factor)), ratio = next / this.scale;
      this.x = x - (x - this.x) * ratio;
      this.y = y - (y - this.y) * ratio;
      this.scale = next;
      this.hold();
    }
    full() { this.reset(); this.at(1 / (this.filled() * devicePixelRatio)); }
    reset() { this.scale = 1; this.x = 0; this.y = 0; this.place(); }
    hold() {
      const [width, height] = this.pane(), s = this.scale;
      const within = (value, size) => (s <= 1 ? size * (1 - s) / 2 : Math.min(0, Math.max(size * (1 - s), value)));
      this.x = within(this.x, width);
      this.y = within(this.y, height);
      this.place();
    }
    place() {
      const move = "translate(" + this.x + "px," + this.y + "px) scale(" + this.scale + ")";
      const crisp = this.scale * this.filled() >= 3;
      for (const image of this.images()) { image.style.transform = move; image.classList.toggle("crisp", crisp); }
      if (this.changed) this.changed();
    }
    down(event) {
      this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
      this.stage.classList.add("dragging");
    }
    move(event) {
      const before = this.fingers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      if (this.fingers.size === 2) {
        const other = [...this.fingers].find(([id]) => id !== event.pointerId)[1];
        const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.at(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (this.divide) this.divide(event);
      else if (this.scale > 1) {
        this.x += now[0] - before[0];
        this.y += now[1] - before[1];
        this.hold();
      }
      this.fingers.set(event.pointerId, now);
    }
  }

  // ---- the viewer ----------------------------------------------------------------------------
  const viewer = $("viewer"), stage = $("stage"), layers = $("layers");
  const view = { panes: [-1, 0], k: 0, mode: "slider", split: 50, upright: false, flip: 0, across: 2, opener: null, timer: 0, play: 0 };
  const modes = ["slider", "side", "flicker", "difference", "ssim"];
  const paneSize = () => {
    const side = view.mode === "side", down = Math.ceil(view.panes.length / view.across);
    return [stage.clientWidth / (side ? view.across : 1), stage.clientHeight / (side ? down : 1)];
  };
  const zoomer = new Zoom(stage, paneSize, () => { $("zoom-at").textContent = Math.round(100 * zoomer.scale * zoomer.filled() * devicePixelRatio) + " %"; });
  const show = (image, source, alt) => {
    if (image.getAttribute("src") !== source) { if (source) image.src = source; else image.removeAttribute("src"); }
    image.alt = alt;
  };
  const nameOf = (c) => (c < 0 ? "control" : visible(candidates[c].heading));
  const sourceOf = (c, k) => (c < 0 ? controlOf(view.panes.find((x) => x >= 0) ?? -1, k) : pictureOf(c, k));
  const active = () => Math.max(0, view.panes.findLastIndex((c) => c >= 0));
  function openViewer(panes, k, opener) {
    view.opener = opener || document.activeElement;
    if (!nav.settings.length) nav.settings = candidates.map((_, i) => i);
    if (!nav.cases.includes(k)) nav.cases = cases.map((_, i) => i);
    view.panes = panes.filter((c) => c < 0 || candidates[c]).slice(0, 4);
    while (view.panes.length < 2) view.panes.push(defaultSetting());
    if (view.panes.length > 2) view.mode = "side";
    view.k = k;
    if (!viewer.open) viewer.showModal();
    refresh();
    zoomer.reset();
  }
  function buildPanes() {
    const names = ["Left", "Right", "Third", "Fourth"];
    $("panes").replaceChildren(...view.panes.map((c, i) => {
      const select = make("select", { id: "pane" + i }, make("option", { value: -1, textContent: "control" }), ...candidates.map((x, j) => make("option", { value: j, textContent: clip(visible(x.heading), 60) })));
      select.value = c;
      select.addEventListener("change", () => { view.panes[i] = Number(select.value); refresh(); $("pane" + i).focus(); });
      const label = make("label", null, make("span", { textContent: names[i] }), select);
      if (view.panes.length <= 2) return label;
      const drop = make("button", { type: "button", className: "hide", textContent: "✕" });
      drop.setAttribute("aria-label", "Leave out " + names[i].toLowerCase());
      drop.addEventListener("click", () => { view.panes.splice(i, 1); refresh(); $("pane0").focus(); });
      return make("div", { className: "with" }, label, drop);
    }));
    if (view.panes.length < 4) {
      const add = make("button", { type: "button", className: "quiet", id: "pane-add", textContent: "Add a setting" });
      add.addEventListener("click", () => {
        const next = nav.settings.find((c) => !view.panes.includes(c)) ?? candidates.findIndex((_, c) => !view.panes.includes(c));
        if (next < 0) return;
        view.panes.push(next);
        setMode("side");
        refresh();
        $("pane" + (view.panes.length - 1)).focus();
      });
      $("panes").append(add);
    }
  }
  function buildLayers() {
    while (layers.children.length > view.panes.length) layers.lastChild.remove();
    while (layers.children.length < view.panes.length) layers.append(make("div", { className: "layer" }, make("img", { draggable: false }), make("span", { className: "tag" })));
    view.panes.forEach((c, i) => {
      const [image, tag] = layers.children[i].children;
      image.onload = () => { zoomer.hold(); if (view.mode === "ssim") setMode("ssim"); };
      show(image, sourceOf(c, view.k), nameOf(c) + ": " + clip(visible(prompt(view.k)), 160));
      tag.textContent = nameOf(c);
    });
  }
  function refresh() {
    const { k, panes } = view, a = active(), c = panes[a], cell = cellOf(c, k);
    $("viewer-title").replaceChildren(...panes.flatMap((x, i) => (i ? [" | ", bdi(nameOf(x))] : [bdi(nameOf(x))])));
    const where = nav.cases.indexOf(k), at = nav.settings.indexOf(c);
    $("viewer-at").textContent = "case " + (where < 0 ? k + 1 : where + 1) + " of " + (where < 0 ? cases.length : nav.cases.length) +
      (c < 0 ? "" : " · setting " + (at < 0 ? c + 1 : at + 1) + " of " + (at < 0 ? candidates.length : nav.settings.length) +
      (candidates[c].rank ? " · rank " + candidates[c].rank : " · not ranked"));
    buildPanes();
    buildLayers();
    $("viewer-prompt").replaceChildren(bdi(prompt(k)), document.createTextNode(seedText(k) ? "\n" + seedText(k) : ""), ...(cases[k].edited ? [edited(k)] : []));
    const all = panes.map((x) => valuesOf(x, k));
    const digits = (v) => (v === null || v === undefined ? "–" : Math.abs(v) >= 10 ? v.toFixed(2) : v.toFixed(3));
    const body = make("tbody");
    metrics.forEach(([, title], i) => {
      if (all.every((v) => v[i] === undefined)) return;
      body.append(make("tr", null, make("th", { scope: "row", textContent: visible(title) }), ...all.map((v) => make("td", { textContent: digits(v[i]) }))));
    });
    const head = make("thead", null, make("tr", null, make("th", { scope: "col", textContent: "score" }), ...panes.map((x) => make("th", { scope: "col" }, bdi(nameOf(x))))));
    const scores = make("div", { className: "scroll", tabIndex: 0, role: "region" }, make("table", null, head, body));
    scores.setAttribute("aria-label", "Scores");
    $("viewer-scores").replaceChildren(scores);
    const [place, of] = c < 0 ? [0, 0] : rankInRow(c, k);
    if (of) $("viewer-scores").append(make("p", { className: "muted", textContent: nameOf(c) + " is number " + place + " of " + of + " by " + visible(metrics[rankAt][1]) + " for this case." }));
    const reason = c < 0 ? "" : cell ? cell[2] : "not in the study";
    $("viewer-reason").hidden = !reason;
    $("viewer-reason").textContent = visible(reason || "");
    $("viewer-repro").textContent = reproduce(c, k);
    $("viewer-copied").textContent = "";
    const link = $("viewer-open"), source = sourceOf(c, k);
    link.hidden = !source || source.startsWith("data:");
    if (!link.hidden) link.href = source; else link.removeAttribute("href");
    setMode(view.mode);
  }
  // As A1111 writes it into a picture.
  function reproduce(c, k) {
    const who = c < 0 ? {} : candidates[c], negative = cases[k].negative;
    const tag = who.lora ? " <lora:" + who.lora + ":" + (who.strength ?? "1") + ">" : "";
    const parts = study.settings.map(([key, value]) => [key, value]);
    if (cases[k].seed !== null) parts.splice(Math.min(3, parts.length), 0, ["Seed", String(cases[k].seed)]);
    if (who.lora && who.hash) parts.push(["Lora hashes", who.lora + ": " + who.hash.slice(0, 12)]);
    const quoted = (value) => (/[,:\n"]/.test(value) ? JSON.stringify(value) : value);
    return prompt(k) + tag + "\n" + (negative ? "Negative prompt: " + negative + "\n" : "") + parts.map(([key, value]) => key + ": " + quoted(value)).join(", ");
  }
  function remember_view() {
    const where = "#view=" + [cases[view.k].name, ...view.panes.map((c) => (c < 0 ? "control" : candidates[c].heading)), view.mode].map(encodeURIComponent).join(";");
    try { history.replaceState(null, "", viewer.open ? where : "#pictures"); } catch (error) { /* some browsers keep a file's address as it is */ }
  }
  function openFromAddress() {
    if (!location.hash.startsWith("#view=")) return false;
    let parts;
    try { parts = location.hash.slice(6).split(";").map(decodeURIComponent); } catch (error) { return false; }
    const k = cases.findIndex((c) => c.name === parts[0]), mode = parts[parts.length - 1];
    if (k < 0) return false;
    const panes = parts.slice(1, -1).map((text) => (text === "control" ? -1 : candidates.findIndex((c) => c.heading === text))).filter((c, i) => c >= 0 || parts[i + 1] === "control");
    if (modes.includes(mode)) view.mode = mode;
    openViewer(panes, k, null);
    return true;
  }
  function setMode(mode) {
    if (view.panes.length > 2 && ["slider", "difference", "ssim"].includes(mode)) { view.panes = view.panes.slice(0, 2); view.mode = mode; refresh(); return; }
    view.mode = mode;
    stage.dataset.mode = mode;
    view.flip = 0;
    clearInterval(view.timer);
    for (const button of document.querySelectorAll(".modes button")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    $("divider-label").hidden = mode !== "slider";
    $("gain-label").hidden = mode !== "difference";
    $("stage-map").hidden = true;
    $("stage-mapped").hidden = true;
    layers.style.visibility = "";
    layers.style.filter = mode === "difference" ? "grayscale(1) brightness(" + $("gain").value + ")" : "";
    // As many columns as show the pictures largest.
    const n = view.panes.length, size = (across) => Math.min(stage.clientWidth / across / study.ratio, stage.clientHeight / Math.ceil(n / across));
    view.across = [1, 2, 3, 4].filter((x) => x <= n).reduce((best, x) => (size(x) > size(best) * 1.001 ? x : best), 1);
    [...layers.children].forEach((layer, i) => {
      const side = mode === "side", down = Math.ceil(n / view.across);
      layer.style.inset = side ? 100 * Math.floor(i / view.across) / down + "% auto auto " + 100 * (i % view.across) / view.across + "%" : "0";
      layer.style.width = side ? 100 / view.across + "%" : "";
      layer.style.height = side ? 100 / down + "%" : "";
      layer.style.visibility = "";
    });
    setSplit(view.split);
    let note = "";
    if (mode === "difference") note = "Black: equal. The brighter, the more the luminance differs.";
    if (mode === "flicker") {
      flip(0);
      if (calm) note = "Press space to swap.";
      else view.timer = setInterval(swap, 700);
    }
    if (mode === "ssim") note = drawMap();
    $("stage-note").hidden = !note;
    $("stage-note").textContent = note;
    zoomer.hold();
    if (viewer.open) remember_view();
  }
  function flip(to) { view.flip = to; [...layers.children].forEach((layer, i) => { layer.style.visibility = i === to ? "" : "hidden"; }); }
  function swap() {
    if (view.mode === "side" || view.mode === "slider") { view.panes.reverse(); refresh(); } else flip((view.flip + 1) % view.panes.length);
  }

  // SSIM of Wang et al. (2004) on luma, as the scores are; bright = changed. Against the control the
  // map was written with the report. Of other pairs it is computed here, at screen size, where the
  // page may read the pixels: of pictures inside the page, not of those beside it.
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
    const [one, two] = view.panes, c = one < 0 ? two : one, written = (one < 0) !== (two < 0) && (cellOf(c, view.k) || [])[5];
    const key = "Bright: structure changed (SSIM 0). Dark: unchanged (SSIM 1).";
    if (written) {
      const mapped = $("stage-mapped");
      if (mapped.getAttribute("src") !== study.pictures[written]) mapped.src = study.pictures[written];
      mapped.hidden = false;
      layers.style.visibility = "hidden";
      return key;
    }
    const [a, b] = [...layers.querySelectorAll("img")], map = $("stage-map");
    if (!a.getAttribute("src") || !b.getAttribute("src")) return "There is no picture to compare.";
    if (!(a.complete && b.complete && a.naturalWidth && b.naturalWidth)) return a.complete && b.complete ? "A picture could not be read." : "Loading…";
    const fits = Math.min(1, 512 / Math.max(b.naturalWidth, b.naturalHeight));
    const width = Math.max(1, Math.round(b.naturalWidth * fits)), height = Math.max(1, Math.round(b.naturalHeight * fits));
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
        const grey = 255 * Math.max(0, Math.min(1, 1 - top / low));
        pixels.data.set([grey, grey, grey, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      map.hidden = false;
      layers.style.visibility = "hidden";
      return key;
    } catch (error) {
      if (error.name !== "SecurityError") throw error;
      stage.dataset.mode = "difference";
      layers.style.filter = "grayscale(1) brightness(" + $("gain").value + ")";
      return "Difference: maps are written against the control. The single-file report has those between settings.";
    }
  }

  function setSplit(percent) {
    view.split = Math.max(0, Math.min(100, percent));
    $("divider").value = view.split;
    const divider = stage.querySelector(".divider");
    stage.classList.toggle("upright", view.upright);
    divider.style.left = view.upright ? "" : view.split + "%";
    divider.style.top = view.upright ? view.split + "%" : "";
    [...layers.children].forEach((layer, i) => {
      layer.style.clipPath = view.mode === "slider" && i === 1 ? "inset(" + (view.upright ? view.split + "% 0 0 0" : "0 0 0 " + view.split + "%") + ")" : "";
    });
  }
  const splitOf = (event) => {
    const box = stage.getBoundingClientRect();
    return 100 * (view.upright ? (event.clientY - box.top) / box.height : (event.clientX - box.left) / box.width);
  };
  stage.addEventListener("dblclick", (event) => (zoomer.scale > 1 ? zoomer.reset() : zoomer.at(4, event.clientX, event.clientY)));
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    const divider = view.mode === "slider" && (zoomer.scale <= 1 || Math.abs(splitOf(event) - view.split) < 3);
    zoomer.divide = divider ? (moved) => setSplit(splitOf(moved)) : null;
    if (divider) setSplit(splitOf(event));
    zoomer.down(event);
  });
  $("divider").addEventListener("input", () => setSplit(Number($("divider").value)));
  function turn() { view.upright = !view.upright; $("turn").setAttribute("aria-pressed", view.upright); setSplit(view.split); }
  $("turn").addEventListener("click", turn);
  $("gain").addEventListener("input", () => { $("gain-at").textContent = $("gain").value; layers.style.filter = "grayscale(1) brightness(" + $("gain").value + ")"; });
  $("zoom-fit").addEventListener("click", () => zoomer.reset());
  $("zoom-full").addEventListener("click", () => zoomer.full());
  addEventListener("resize", () => { if (viewer.open) setMode(view.mode); });
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
    playing(false);
    remember_view();
    if (view.opener && view.opener.isConnected) view.opener.focus({ preventScroll: true });
    else moveFocus(...state.focus);
  });
  function step(list, current, by, round) {
    const at = list.indexOf(current), to = at < 0 ? 0 : at + by;
    return list[round ? (to + list.length) % list.length : Math.max(0, Math.min(list.length - 1, to))];
  }
  function goCase(by) { view.k = step(nav.cases, view.k, by); refresh(); }
  function goSetting(by, round) { const a = active(); view.panes[a] = step(nav.settings, view.panes[a], by, round); refresh(); }
  // On the plane, to the neighbour in one direction that is in the study.
  function goPlane(epochs, up) {
    const a = active(), from = candidates[view.panes[a]];
    if (!from) return;
    let i = places.indexOf(from.place), j = strengths.indexOf(from.strength);
    for (i += epochs, j += up; i >= 0 && j >= 0 && i < places.length && j < strengths.length; i += epochs, j += up) {
      const found = nav.settings.find((c) => candidates[c].place === places[i] && candidates[c].strength === strengths[j]);
      if (found !== undefined) { view.panes[a] = found; refresh(); return; }
    }
  }
  function playing(on) {
    clearInterval(view.play);
    view.play = on ? setInterval(() => goSetting(1, true), 1200) : 0;
    const button = $("play");
    if (button) { button.setAttribute("aria-pressed", on); button.textContent = on ? "Stop" : "Play"; }
  }
  const moves = plane
    ? [["← epoch", () => goPlane(-1, 0)], ["epoch →", () => goPlane(1, 0)], ["↓ strength", () => goPlane(0, -1)], ["↑ strength", () => goPlane(0, 1)]]
    : [["← case", () => goCase(-1)], ["case →", () => goCase(1)], ["↓ setting", () => goSetting(-1)], ["↑ setting", () => goSetting(1)]];
  if (plane) moves.push(["PgUp case", () => goCase(-1)], ["PgDn case", () => goCase(1)]);
  $("steps").append(...moves.map(([textContent, go], i) => {
    const button = make("button", { type: "button", className: "quiet", textContent });
    button.dataset.move = i;
    button.addEventListener("click", go);
    return button;
  }), make("button", { type: "button", className: "quiet", id: "play", textContent: "Play", title: "Through the settings by itself" }));
  $("play").setAttribute("aria-pressed", false);
  $("play").addEventListener("click", () => playing(!view.play));
  const keys = plane ? [["←→", "epoch"], ["↑↓", "strength"], ["PgUp PgDn", "case"]] : [["←→", "case"], ["↑↓", "setting"]];
  keys.push(["1–5", "compare by"], ["+ − 0 Z", "zoom, fit, 100 %"], ["Shift ←→", "divider"], ["V", "vertical"], ["space", "swap"], ["A", "play"], ["C", "copy"]);
  $("viewer-keys").append(...keys.flatMap(([key, word], i) => [i ? " · " : "", make("kbd", { textContent: key }), " " + word]));
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const range = event.target.matches("input[type=range]");
    const arrows = { ArrowLeft: 0, ArrowRight: 1, ArrowDown: 2, ArrowUp: 3 };
    if (event.key in arrows && !range) {
      if (event.target.id === "viewer-repro" && event.key.match(/Up|Down/) && event.target.scrollHeight > event.target.clientHeight) return;
      event.preventDefault();
      if (event.shiftKey) { setSplit(view.split + ({ ArrowLeft: -2, ArrowUp: -2 }[event.key] || 2)); return; }
      moves[arrows[event.key]][1]();
    } else if (event.key === "PageUp" || event.key === "PageDown") { event.preventDefault(); goCase(event.key === "PageUp" ? -1 : 1); }
    else if (modes[Number(event.key) - 1]) setMode(modes[Number(event.key) - 1]);
    else if (event.key === "+" || event.key === "=") zoomer.at(1.5);
    else if (event.key === "-") zoomer.at(1 / 1.5);
    else if (event.key === "0") zoomer.reset();
    else if (event.key === "z" || event.key === "Z") zoomer.full();
    else if (event.key === "v" || event.key === "V") turn();
    else if (event.key === "a" || event.key === "A") playing(!view.play);
    else if (event.key === "c" || event.key === "C") copyText();
    else if (event.key === " " && !event.target.matches("button, a, input")) { event.preventDefault(); clearInterval(view.timer); swap(); }
  });
  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => openViewer([-1, Number(button.dataset.candidate)], Number(button.dataset.case), button));
  }

  // ---- the blind test ------------------------------------------------------------------------
  const ab = $("ab"), votes = [], words = { a: 0, b: 1, tie: 2, bad: 3 };
  let duel = null;
  const abZoom = new Zoom($("ab-stage"), () => { const box = $("ab-left").getBoundingClientRect(); return [box.width, box.height]; });
  const storage = "lora-votes:" + candidates.length + "x" + cases.length + ":" + study.title.slice(0, 60) +
    ":" + candidates.map((c) => c.heading + c.checkpoint).join("|").slice(0, 2000);
  try {
    for (const v of JSON.parse(localStorage.getItem(storage) || "[]")) {
      if (candidates[v.a] && candidates[v.b] && cases[v.case] && v.a !== v.b && v.choice in words) votes.push(v);
    }
  } catch (error) { /* private windows keep nothing; the votes then live as long as the page */ }
  function remember() {
    try { localStorage.setItem(storage, JSON.stringify(votes)); } catch (error) { /* as above */ }
    results();
  }
  function pool() {
    let list = candidates.map((_, i) => i).filter((i) => candidates[i].rank !== null);
    const whole = list.filter((i) => !candidates[i].broken);
    if (whole.length > 1) list = whole;
    if ($("ab-pool").value === "tied") {
      const few = list.filter((i) => candidates[i].tied);
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
    abZoom.reset();
    $("ab-prompt").replaceChildren(bdi(clip(prompt(duel.k), 400)));
    $("ab-count").textContent = votes.length + (votes.length === 1 ? " comparison so far" : " comparisons so far") + ", " + left().blind;
    $("ab-undo").disabled = !votes.length;
    return true;
  }
  function vote(choice) {
    if (!duel) return;
    votes.push({ a: duel.a, b: duel.b, choice, case: duel.k, at: new Date().toISOString() });
    remember();
    present();
  }
  if (candidates.filter((c) => c.rank !== null).length < 2) {
    $("blind").hidden = true;
    document.querySelector('nav a[href="#blind"]').hidden = true;
  }
  $("ab-start").addEventListener("click", () => {
    if (present()) { ab.showModal(); $("ab-left").focus(); }
    else $("ab-result").textContent = "At least two settings with pictures are needed.";
  });
  // A press that moved the pictures is no vote.
  let pressed = null;
  $("ab-stage").addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; abZoom.down(event); });
  const still = (event) => !pressed || !event.detail || Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 6;
  $("ab-left").addEventListener("click", (event) => { if (still(event)) vote("a"); });
  $("ab-right").addEventListener("click", (event) => { if (still(event)) vote("b"); });
  $("ab-tie").addEventListener("click", () => vote("tie"));
  $("ab-bad").addEventListener("click", () => vote("bad"));
  $("ab-skip").addEventListener("click", present);
  $("ab-undo").addEventListener("click", () => { votes.pop(); remember(); present(); });
  $("ab-close").addEventListener("click", () => ab.close());
  ab.addEventListener("close", () => { results(); $("ab-start").focus({ preventScroll: true }); $("ab-result").scrollIntoView({ block: "nearest" }); });
  ab.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const choices = { ArrowLeft: "a", ArrowRight: "b", ArrowDown: "tie", b: "bad", B: "bad" };
    if (choices[event.key]) { event.preventDefault(); vote(choices[event.key]); }
    else if (event.key === "+" || event.key === "=") abZoom.at(1.5);
    else if (event.key === "-") abZoom.at(1 / 1.5);
    else if (event.key === "0") abZoom.reset();
    else if (event.key === "s" || event.key === "S") present();
    else if ((event.key === "u" || event.key === "U") && votes.length) { votes.pop(); remember(); present(); }
  });
  $("ab-clear").addEventListener("click", () => {
    if (votes.length && confirm("Forget " + votes.length + " comparisons?")) { votes.length = 0; remember(); }
  });
  $("ab-export").addEventListener("click", () => {
    const run = location.protocol === "file:" ? decodeURIComponent(location.pathname.replace(/\/[^/]*$/, "").replace(/^\/([A-Za-z]:)/, "$1")) : "";
    const file = {
      kind: "lora-analysers votes", format: 1, title: study.title, run,
      settings: candidates.map((c) => ({ heading: c.heading, checkpoint: c.checkpoint, epoch: c.epoch, step: c.step, strength: c.strength })),
      votes: votes.map((v) => ({ a: v.a, b: v.b, choice: v.choice, case: cases[v.case].name, prompt: prompt(v.case), seed: cases[v.case].seed, at: v.at })),
    };
    const url = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    download(url, "votes.json");
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  });
  // How many more comparisons would put the first surely above the second, if people go on as so far:
  // the interval of their difference shrinks with the square root of the number.
  function left() {
    const fitted = bradleyTerry(candidates.length, votes), used = new Set(votes.flatMap((v) => [v.a, v.b]));
    const [one, two] = [...used].sort((i, j) => fitted[j][0] - fitted[i][0]);
    const first = Math.max(10, 2 * pool().length);
    if (two === undefined || votes.length < first) {
      const more = first - votes.length;
      return { one, two, blind: "at least " + more + " more", told: "At least " + more + " more comparisons say something." };
    }
    const apart = (fitted[one][0] - fitted[two][0]) / Math.hypot(fitted[one][1], fitted[two][1]);
    if (apart > 1) return { one, two, sure: true, blind: "decided", told: "" };
    const more = apart > 0 ? Math.ceil(votes.length * (1 / apart ** 2 - 1)) : Infinity;
    if (more > 300) return { one, two, blind: "people may see no difference", told: "More than 300 more would be needed to tell: people may see no difference." };
    return { one, two, blind: "about " + more + " more decide", told: "About " + more + " more comparisons would decide." };
  }

  // Bradley and Terry (1952) by Hunter's MM iteration (2004); as reports/votes.py, tests compare.
  function bradleyTerry(n, list) {
    const wins = new Array(n).fill(0.5), games = new Map();
    for (const v of list) {
      wins[v.a] += { a: 1, b: 0 }[v.choice] ?? 0.5;
      wins[v.b] += { a: 0, b: 1 }[v.choice] ?? 0.5;
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
  const told = $("people").textContent;
  function results() {
    const out = $("ab-result"), beside = $("people");
    $("ab-export").disabled = $("ab-clear").disabled = !votes.length;
    beside.textContent = told;
    if (!votes.length || ab.open) { out.replaceChildren(); return; }
    const fitted = bradleyTerry(candidates.length, votes), after = left();
    const tally = candidates.map(() => [0, 0, 0, 0]);
    for (const v of votes) {
      const a = words[v.choice];
      tally[v.a][a]++;
      tally[v.b][a > 1 ? a : 1 - a]++;
    }
    const used = candidates.map((_, i) => i).filter((i) => tally[i].some(Boolean)).sort((i, j) => fitted[j][0] - fitted[i][0]);
    const both = used.filter((i) => candidates[i].mean !== null);
    const agreement = kendall(both.map((i) => fitted[i][0]), both.map((i) => -sign * candidates[i].mean));
    const name = visible(metrics[rankAt] ? metrics[rankAt][1] : study.rankBy);
    const count = votes.length + (votes.length === 1 ? " comparison" : " comparisons");
    const share = (x) => Math.round(100 / (1 + Math.exp(-x)));
    const cell = (textContent) => make("td", { textContent });
    const body = make("tbody", null, ...used.map((i) => make("tr", null,
      make("th", { scope: "row" }, bdi(candidates[i].heading)), ...tally[i].map((x) => cell(x)),
      cell(share(fitted[i][0]) + " % [" + share(fitted[i][0] - fitted[i][1]) + ", " + share(fitted[i][0] + fitted[i][1]) + "]"), cell(number(candidates[i].mean, 2)), cell(candidates[i].rank ?? "–"))));
    const head = make("tr", null, ...["setting", "won", "lost", "no difference", "both bad", "preferred to an average setting", name, "rank"].map((textContent) => make("th", { scope: "col", textContent })));
    const sentence = after.sure ? visible(candidates[after.one].heading) + " is preferred. " : after.one === undefined ? "" : visible(candidates[after.one].heading) + " is ahead. " + after.told;
    beside.textContent = "People: " + sentence.trim() + " (" + count + ")";
    const agreed = Number.isNaN(agreement) ? "" : " People and " + name + " agree on the order to " + agreement.toFixed(2) + " (1: the same order, 0: unrelated, −1: reversed).";
    const box = make("div", { className: "scroll", tabIndex: 0, role: "region" }, make("table", { id: "ab-table" }, make("thead", null, head), body));
    box.setAttribute("aria-label", "Results of the blind test");
    out.replaceChildren(make("p", { textContent: count + ". " + sentence + agreed }), box);
  }

  if (!grid.clientWidth || pictureWidth(190, candidates.length + 1) < 96) state.fit = false;
  arrange();
  results();
  if (!openFromAddress()) reveal();
  addEventListener("hashchange", openFromAddress);
  document.documentElement.dataset.ready = "yes";
})();
