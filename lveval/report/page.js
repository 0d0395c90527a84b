"use strict";
// The row browser and the theme switch. Text of the run reaches the page through textContent alone.
(() => {
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);

  /* An element with a class and children: strings become text, null is left out. */
  function make(name, css, ...children) {
    const element = document.createElement(name);
    if (css) element.className = css;
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  // --- the theme ------------------------------------------------------------------------------------------------

  const themes = ["automatic", "light", "dark"];
  const themeButton = byId("theme");
  let theme = "automatic";
  try { theme = localStorage.getItem("lveval-theme") || theme; } catch { /* a page from disk may have no storage */ }
  function applyTheme() {
    if (!themes.includes(theme)) theme = "automatic";
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = `Theme: ${theme}`;
  }
  themeButton.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("lveval-theme", theme); } catch { /* as above */ }
    applyTheme();
  });
  applyTheme();
  themeButton.hidden = false;

  // --- the data -------------------------------------------------------------------------------------------------

  const data = JSON.parse(byId("data").textContent);
  const text = (number) => (number < 0 ? null : data.strings[number]);
  const word = (number) => (number < 0 ? null : data.words[number]);
  const folded = data.strings.map((string) => string.toLowerCase());
  const rows = data.rows.map((row, number) => {
    const [subset, level, language] = data.files[row[0]];
    const [input, truths, keywords, facts, tokens, ignored, least, truthTokens] = data.questions[row[2]];
    return {
      subset, level, language, index: row[1], question: input, truths, keywords, facts,
      tokens, ignored, least, truthTokens,
      pred: row[3], raw: row[4], status: word(row[5]), cause: word(row[6]),
      scores: row[7], work: row[8], promptTokens: row[9], fullTokens: row[10],
      kept: row[11], finish: word(row[12]), length: row[13], number,
    };
  });

  // --- the protocol ---------------------------------------------------------------------------------------------

  const chooser = byId("protocols");
  let protocol = 0; // its place in data.protocols
  const scoreOf = (row) => row.scores[protocol];
  function chooseProtocol(name) {
    protocol = data.protocols.indexOf(name);
    for (const part of document.querySelectorAll("[data-protocol]")) part.hidden = part.dataset.protocol !== name;
  }
  chooser.addEventListener("change", (event) => {
    chooseProtocol(event.target.value);
    filter();
  });
  chooser.hidden = false;

  // --- filters --------------------------------------------------------------------------------------------------

  const form = byId("filters");
  const fields = {};
  for (const name of ["search", "subset", "level", "cause", "status", "kept", "least", "most", "order"]) fields[name] = byId(name);
  for (const name of ["subset", "level", "cause", "status"]) {
    const values = [...new Set(rows.map((row) => row[name]))].filter((value) => value !== null);
    if (name === "level") values.sort((one, other) => parseInt(one, 10) - parseInt(other, 10));
    else if (name !== "subset") values.sort();
    for (const value of values) {
      const option = make("option", "", value);
      option.value = value;
      fields[name].append(option);
    }
    if (!values.length) fields[name].parentElement.hidden = true;
  }

  let found = rows;
  let first = 0; // of the page that is shown, in `found`
  let open = null; // the row that is open

  function matches(row, terms, least, most) {
    for (const name of ["subset", "level", "cause", "status"]) {
      if (fields[name].value && row[name] !== fields[name].value) return false;
    }
    const kept = fields.kept.value;
    if (kept && (row.kept === null ? "none" : String(row.kept)) !== kept) return false;
    const score = 100 * scoreOf(row);
    if (score < least - 0.005 || score > most + 0.005) return false;
    return terms.every((term) => [row.question, ...row.truths, row.pred].some((number) => number >= 0 && folded[number].includes(term)));
  }

  function limit(field, missing) {
    const value = parseFloat(field.value);
    return Number.isFinite(value) ? value : missing;
  }

  function filter() {
    const terms = fields.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = limit(fields.least, 0), most = limit(fields.most, 100);
    found = rows.filter((row) => matches(row, terms, least, most));
    const sign = { low: 1, high: -1 }[fields.order.value];
    if (sign) found.sort((one, other) => sign * (scoreOf(one) - scoreOf(other)));
    first = 0;
    open = null;
    show();
  }

  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, event.target === fields.search ? 120 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter, 0));
  form.hidden = false;

  // A number in a table leads to its rows.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-subset], a[data-level], a[data-cause]");
    if (!link) return;
    form.reset();
    for (const name of ["subset", "level", "cause"]) if (link.dataset[name]) fields[name].value = link.dataset[name];
    filter();
  });

  // --- the list -------------------------------------------------------------------------------------------------

  const list = byId("list");
  const count = (number) => number.toLocaleString("en");
  const points = (share) => (100 * share).toFixed(2);
  const HAN = /[\u3400-\u9fff\uf900-\ufaff]/;

  /* Untrusted text: in its own direction, in the language that its letters tell. */
  function quoted(string, name, css) {
    const element = make(name, css, string);
    element.lang = HAN.test(string) ? "zh-Hans" : "en";
    element.dir = "auto";
    return element;
  }

  function written(number, name = "div", css = "text") {
    const string = text(number);
    const element = quoted(string === "" ? "(empty)" : string, name, css);
    if (string === "") element.classList.add("empty");
    if (data.long[number]) element.append(make("em", "note", ` … ${count(data.long[number] - string.length)} more characters in the run’s files`));
    return element;
  }

  function chips(row) {
    const box = make("span", "chips");
    for (const name of [row.cause, row.status === "ok" ? null : row.status, row.kept === 0 ? "evidence not kept" : null]) {
      if (name && ![...box.children].some((chip) => chip.textContent === name)) box.append(make("span", "chip", name));
    }
    return box;
  }

  function item(row) {
    const button = make("button", "row",
      make("span", "file", `${row.subset} · ${row.level} · ${row.index} `, chips(row)),
      make("span", "score", points(scoreOf(row))),
      make("span", "texts", written(row.question, "span", "question"), written(row.pred, "span", "answer")));
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => toggle(row, button));
    return make("li", "", button);
  }

  function toggle(row, button) {
    const again = open && open.button === button;
    close();
    if (again) return;
    const panel = details(row);
    panel.id = "opened";
    button.after(panel);
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-controls", "opened");
    open = { button, panel };
  }

  function close() {
    if (!open) return;
    open.panel.remove();
    open.button.setAttribute("aria-expanded", "false");
    open.button.removeAttribute("aria-controls");
    open = null;
  }

  function show() {
    open = null;
    list.replaceChildren(...found.slice(first, first + PAGE).map(item));
    byId("count").textContent = `${count(found.length)} of ${count(rows.length)} rows`;
    list.dataset.none = found.length ? "" : "No row matches: widen the filters or reset them.";
    const last = Math.min(first + PAGE, found.length);
    byId("pages").hidden = found.length <= PAGE;
    byId("where").textContent = `${count(first + 1)}–${count(last)} of ${count(found.length)}`;
    byId("previous").disabled = first === 0;
    byId("next").disabled = last === found.length;
  }

  function turn(by) {
    first += by * PAGE;
    show();
    const button = list.querySelector(".row");
    if (button) button.focus();
  }
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));

  // --- a row, opened --------------------------------------------------------------------------------------------

  function details(row) {
    const box = make("dl");
    const entry = (name, ...children) => box.append(make("div", "", make("dt", "", name), make("dd", "", ...children)));
    entry("Question", written(row.question));
    entry("Truth", written(row.truths[0]));
    if (row.truths.length > 1) entry("Other truths (not scored)", ...row.truths.slice(1).map((number) => written(number)));
    if (row.keywords >= 0) entry("Answer keywords", written(row.keywords));
    if (row.tokens && row.tokens.length) entry("Keywords found and missed", keywords(row));
    entry("Prediction", written(row.pred));
    if (row.raw >= 0) entry("Raw prediction", written(row.raw));
    if (row.facts.length) entry("Confusing facts", ...row.facts.map((number) => written(number)));
    entry("How it scored", ...sums(row).map((line) => make("p", "sum", line)));
    entry("Prompt", ...prompt(row));
    if (data.passages) entry("Context", passagesOf(row));
    if (row.cause) entry("Cause", row.cause);
    entry("Status", row.status + (row.finish && row.finish !== row.status ? ` (finish reason: ${row.finish})` : ""));
    if (row.length !== null) entry("Length of the context", `${count(row.length)} ${row.language === "zh" ? "characters" : "words"}`);
    return make("div", "opened", box);
  }

  // The passages of the contexts are compressed: the first row that is opened unpacks them.
  let unpacked = null;
  async function unpack() {
    const bytes = Uint8Array.from(atob(data.passages), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const told = JSON.parse(await new Response(stream).text());
    return new Map(told.order.map((number, place) => [number, told.rows[place]]));
  }

  function passagesOf(row) {
    const box = make("div", "passages");
    unpacked ??= unpack();
    unpacked.then(
      (told) => box.append(...(told.get(row.number) || []).map(passage), told.has(row.number) ? "" : "No passage of it is known."),
      () => box.append("This browser cannot unpack the passages."),
    );
    return box;
  }

  /* A passage of the context, marked, with the words around it; of the cut the words on both sides. */
  function passage([kind, depth, inPrompt, before, string, after, cut]) {
    let said = `${kind}, depth ${depth.toFixed(2)}`;
    if (cut) said = `cut, from depth ${depth.toFixed(2)}: ${count(cut)} characters`;
    else if (inPrompt !== null) said += `, ${inPrompt.toFixed(2)} in the prompt`;
    const words = make("div", "text", "… ", quoted(before, "span", "around"), quoted(cut ? " … " : string, "mark", ""),
      quoted(after, "span", "around"), " …");
    return make("div", "passage", make("span", "chip", said), words);
  }

  function keywords(row) {
    const box = make("div", "tokens");
    row.tokens.forEach((number, place) => {
      const state = row.work[0].includes(place) ? "found" : row.ignored.includes(place) ? "ignored" : "missed";
      const sign = { found: "✓ ", missed: "✗ ", ignored: "– " }[state];
      const token = make("span", `token ${state}`, sign, written(number, "span", ""));
      token.title = { found: "found", missed: "missed", ignored: "never counts as found, but is one of the keywords" }[state];
      box.append(token);
    });
    return box;
  }

  function sums(row) {
    const lines = [];
    if (row.status === "refused") lines.push("A refusal is scored as the empty answer.");
    if (!row.work) lines.push("This subset’s metric has no stages to show (dureader_mixup: ROUGE-L F of the words that are not blacklisted).");
    else {
      const [hits, overlap, ours] = row.work, theirs = row.truthTokens;
      let passes = true;
      if (row.tokens.length) {
        const recall = hits.length / row.tokens.length;
        passes = recall >= row.least;
        lines.push(`Stage 1, keywords: ${hits.length} of ${row.tokens.length} found, recall ${recall.toFixed(3)} ${passes ? "≥" : "<"} ${row.least}: `
          + (passes ? "passed." : "gated, the score is 0."));
      } else lines.push("Stage 1, keywords: none, nothing to pass.");
      const shared = `${overlap} ${overlap === 1 ? "token" : "tokens"} shared, of ${ours} in the prediction and ${theirs} in the truth`;
      if (!overlap) lines.push(`Stage 2, F1: ${shared}: 0.`);
      else {
        const precision = overlap / ours, recall = overlap / theirs, f1 = 2 * precision * recall / (precision + recall);
        const told = `2 × ${precision.toFixed(3)} × ${recall.toFixed(3)} / (${precision.toFixed(3)} + ${recall.toFixed(3)}) = ${f1.toFixed(4)}`;
        lines.push(`Stage 2, F1: ${shared}: ${told}${passes ? "." : ", had stage 1 been passed."}`);
      }
    }
    lines.push(`Score: ${data.protocols.map((name, place) => `${name} ${points(row.scores[place])}`).join(", ")}.`);
    return lines;
  }

  function prompt(row) {
    const parts = [];
    if (row.promptTokens !== null && row.fullTokens !== null) {
      // The cut leaves as many tokens as the limit; promptTokens has the chat format, too, which is never cut.
      const kept = data.limit ?? row.promptTokens, lost = row.fullTokens - kept;
      if (lost > 0) {
        const bar = make("div", "cut");
        bar.setAttribute("aria-hidden", "true");
        for (const [css, tokens] of [["kept", kept / 2], ["lost", lost], ["kept", kept / 2]]) {
          const part = make("span", css);
          part.style.flexGrow = tokens;
          bar.append(part);
        }
        const share = (100 * kept / row.fullTokens).toFixed(1);
        parts.push(bar, `${count(kept)} of ${count(row.fullTokens)} tokens (${share} %): the middle ${count(lost)} were cut. `);
        if (kept !== row.promptTokens) parts.push(`${count(row.promptTokens)} in the chat format. `);
      } else parts.push(`${count(row.promptTokens)} tokens, nothing cut. `);
    }
    parts.push({ 1: "Evidence kept.", 0: "Evidence cut." }[row.kept] || "The row does not tell whether the evidence was kept.");
    return parts;
  }

  // --- keys -----------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = document.activeElement;
    const typing = at && ["INPUT", "SELECT", "TEXTAREA"].includes(at.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      fields.search.focus();
    } else if (event.key === "ArrowDown" && at === fields.search) {
      event.preventDefault();
      list.querySelector(".row")?.focus();
    } else if (event.key === "Escape" && open) {
      const { button } = open;
      close();
      button.focus();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && at && at.classList.contains("row")) {
      const buttons = [...list.querySelectorAll(".row")];
      const next = buttons[buttons.indexOf(at) + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) {
        event.preventDefault();
        next.focus();
      }
    }
  });

  // A page that is loaded anew may come back with another choice checked.
  chooseProtocol(chooser.querySelector(":checked").value);
  filter();
})();
