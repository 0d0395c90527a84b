// The row browser. Its view stands in the address, so that it can be sent and comes back when the page is loaded anew:
//
//   #rows?subset=S&level=L&cause=C&status=T&kept=1|0|none&least=0&most=50&flip=N&q=words&sort=low|high&protocol=P&page=2&row=KEY
//   #row=KEY         one row of all, opened; KEY is SUBSET_LEVEL:INDEX, as lic_mixup_16k:7
//
// Each part may be left out. flip=2: rows that this run scores at least 50 points higher than the second of the compared runs;
// flip=-2: lower. What the address says is untrusted: it is compared with what there is, or shown as text.

const packed = JSON.parse(byId("data").textContent);
const unpacked = {};

/* A part of the data, compressed by gzip: "rows", and of those that are opened "details" and "passages". */
function unpack(name) {
  return unpacked[name] ??= (async () => {
    const bytes = Uint8Array.from(atob(packed[name]), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const told = JSON.parse(await new Response(stream).text());
    return name === "rows" ? told : new Map(told.order.map((number, place) => [number, told.rows[place]]));
  })();
}

unpack("rows").then(browseRows, () => { byId("count").textContent = "This browser cannot unpack the rows; these have the lowest scores."; });

function browseRows(data) {
  const PAGE = 50;
  const FLIP = 0.5; // of a score of 1

  // --- the data -------------------------------------------------------------------------------------------------

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
      kept: row[11], finish: word(row[12]), length: row[13],
      recurs: row[14], marks: row[15] || [[], []], others: row[16],
      key: `${subset}_${level}:${row[1]}`, number,
    };
  });
  const label = (cause) => (Object.hasOwn(data.labels, cause) ? data.labels[cause] : cause);
  const byKey = new Map(rows.map((row) => [row.key, row]));
  const levels = [...new Set(rows.map((row) => row.level))].sort((one, other) => parseInt(one, 10) - parseInt(other, 10));
  const siblings = new Map(); // the rows of each question, at all levels
  for (const row of rows) siblings.set(row.recurs, [...(siblings.get(row.recurs) || []), row]);

  let protocol = 0; // its place in data.protocols
  const scoreOf = (row) => row.scores[protocol];

  // --- filters --------------------------------------------------------------------------------------------------

  const form = byId("filters");
  const fields = {}; // by their names in the address
  for (const name of ["subset", "level", "cause", "status", "kept", "least", "most", "flip", "sort"]) fields[name] = byId(name);
  fields.q = byId("search");
  const usual = (field) => field.defaultValue ?? "";

  function offer(field, value, name = value) {
    const option = make("option", "", name);
    option.value = value;
    field.append(option);
  }
  for (const name of ["subset", "level", "cause", "status"]) {
    const values = name === "level" ? levels : [...new Set(rows.map((row) => row[name]))].filter((value) => value !== null);
    if (name === "cause" || name === "status") values.sort();
    for (const value of values) offer(fields[name], value, name === "cause" ? label(value) : value);
    if (!values.length) fields[name].parentElement.hidden = true;
  }
  // What the causes come down to may be chosen, too.
  for (const [name, causes] of Object.entries(data.families)) if (causes.length > 1) offer(fields.cause, name, `all: ${name}`);
  data.others.forEach((name, place) => {
    offer(fields.flip, `${place + 1}`, `50 points better than ${name}`);
    offer(fields.flip, `-${place + 1}`, `50 points worse than ${name}`);
  });
  fields.flip.parentElement.hidden = !data.others.length;

  let found = rows;
  let first = 0; // of the page that is shown, in `found`
  let open = null; // the row that is open, with its elements

  function flips(row, flip) {
    const scores = row.others[Math.abs(flip) - 1];
    return Boolean(scores) && Math.sign(flip) * (scoreOf(row) - scores[protocol]) >= FLIP - 1e-9;
  }

  function matches(row, causes, terms, least, most) {
    for (const name of ["subset", "level", "status"]) if (fields[name].value && row[name] !== fields[name].value) return false;
    if (causes && !causes.includes(row.cause)) return false;
    const kept = fields.kept.value;
    if (kept && (row.kept === null ? "none" : String(row.kept)) !== kept) return false;
    const score = 100 * scoreOf(row);
    if (score < least - 0.005 || score > most + 0.005) return false;
    if (fields.flip.value && !flips(row, Number(fields.flip.value))) return false;
    return terms.every((term) => [row.question, ...row.truths, row.pred].some((number) => number >= 0 && folded[number].includes(term)));
  }

  function limit(field, missing) {
    const value = parseFloat(field.value);
    return Number.isFinite(value) ? value : missing;
  }

  function filter() {
    const terms = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const cause = fields.cause.value;
    const causes = cause && (Object.hasOwn(data.families, cause) ? data.families[cause] : [cause]);
    const least = limit(fields.least, 0), most = limit(fields.most, 100);
    found = rows.filter((row) => matches(row, causes, terms, least, most));
    const sign = { low: 1, high: -1 }[fields.sort.value];
    if (sign) found.sort((one, other) => sign * (scoreOf(one) - scoreOf(other)));
    first = 0;
  }

  /* What a reader changed. */
  function changed() {
    byId("strange").hidden = true;
    filter();
    show();
    remember();
  }

  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, event.target === fields.q ? 30 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed, 0));
  byId("protocols").addEventListener("change", (event) => {
    protocol = data.protocols.indexOf(event.target.value);
    filter();
    show();
    if (location.hash.startsWith("#row")) remember(); // the switch may be used far from the rows
  });

  // --- the address ----------------------------------------------------------------------------------------------

  function address() {
    const parts = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value !== usual(field)) parts.set(name, field.value);
    if (protocol) parts.set("protocol", data.protocols[protocol]);
    if (first && !open) parts.set("page", 1 + first / PAGE);
    if (open && !parts.size) return addressOf(open.row);
    if (open) parts.set("row", open.row.key);
    return parts.size ? `#rows?${parts}` : "#rows";
  }
  const addressOf = (row) => `#row=${encodeURIComponent(row.key).replaceAll("%3A", ":")}`;

  function remember() {
    history.replaceState(null, "", address());
  }

  /* Show what the address says, if it is about rows. */
  function go() {
    const said = location.hash;
    if (!/^#(rows\?|row=)/.test(said)) return;
    const parts = new URLSearchParams(said.replace(/^#(rows\?)?/, ""));
    const strange = [];
    for (const field of Object.values(fields)) field.value = usual(field);
    let name = data.protocols[protocol];
    let row = null;
    for (const [part, value] of parts) {
      const field = Object.hasOwn(fields, part) ? fields[part] : null;
      if (part === "protocol" && data.protocols.includes(value)) name = value;
      else if (part === "row" && byKey.has(value)) row = byKey.get(value);
      else if (part === "page" && /^\d{1,6}$/.test(value)) continue;
      else if (field && (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value))) field.value = value;
      else strange.push(`${part}=${value}`);
    }
    byId("strange").hidden = !strange.length;
    byId("strange").textContent = `Not on this page: ${strange.join(", ")}.`;
    protocol = data.protocols.indexOf(name);
    chooseProtocol(name);
    filter();
    const place = row ? found.indexOf(row) : PAGE * (Number(parts.get("page") || 1) - 1);
    if (place > 0 && place < found.length) first = PAGE * Math.floor(place / PAGE);
    show();
    if (row && place >= 0) {
      const button = list.children[place - first].firstElementChild;
      toggle(row, button);
      button.focus({ preventScroll: true });
      button.scrollIntoView({ behavior: "instant" });
    } else byId("rows").scrollIntoView({ behavior: "instant" });
    remember();
  }
  window.addEventListener("hashchange", go);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const href = link && (link.getAttribute("href") || "");
    if (href && href.startsWith("#row") && href === location.hash) go(); // no change of the address to hear of
  });

  // --- the list -------------------------------------------------------------------------------------------------

  const list = byId("list");
  const count = (number) => number.toLocaleString("en");
  const points = (share) => (100 * share).toFixed(2);
  const HAN = /[\u3400-\u9fff\uf900-\ufaff]/;

  /* Untrusted text: in its own direction, in the language that its letters tell; marked where it shares words. */
  function quoted(string, name, css, marks = []) {
    const element = make(name, css);
    element.lang = HAN.test(string) ? "zh-Hans" : "en";
    element.dir = "auto";
    if (!marks.length) {
      element.textContent = string;
      return element;
    }
    const letters = [...string];
    let at = 0;
    for (let place = 0; place < marks.length; place += 2) {
      const start = at + marks[place], end = start + Math.abs(marks[place + 1]);
      const shared = make("mark", marks[place + 1] < 0 ? "weak" : "", letters.slice(start, end).join(""));
      element.append(letters.slice(at, start).join(""), shared.textContent ? shared : "");
      at = end;
    }
    element.append(letters.slice(at).join(""));
    return element;
  }

  /* A text of the run, `whole` being its full length. */
  function shown(string, whole, name, css, marks) {
    const element = quoted(string === "" ? "(empty)" : string, name, css, string === "" ? [] : marks);
    if (string === "") element.classList.add("empty");
    if (whole > string.length) element.append(make("em", "note", ` … ${count(whole - string.length)} more characters in the run’s files`));
    return element;
  }
  const written = (number, name = "div", css = "text", marks = []) =>
    shown(text(number), data.long[number] || 0, name, css, marks);

  function chips(row) {
    const box = make("span", "chips");
    for (const name of [label(row.cause), row.status === "ok" ? null : row.status, row.kept === 0 ? "evidence not kept" : null]) {
      if (name && ![...box.children].some((chip) => chip.textContent === name)) box.append(make("span", "chip", name));
    }
    return box;
  }

  /* A score as a number and a bar. */
  function scored(score) {
    const bar = make("span", "meter", make("span", ""));
    bar.firstElementChild.style.width = `${100 * score}%`;
    return make("span", "score", points(score), bar);
  }

  function item(row) {
    const line = (name, number, marks) => make("span", "line", make("span", "what", name), written(number, "span", name, marks));
    const others = row.others.map((scores, place) => scores && make("span", "other", make("bdi", "", data.others[place]), ` ${points(scores[protocol])}`));
    const button = make("button", "row",
      make("span", "file", `${row.subset} · ${row.level} · ${row.index} `, chips(row), ...others),
      make("span", "scores", scored(scoreOf(row))),
      make("span", "texts", line("question", row.question), line("truth", row.truths[0], row.marks[1]), line("answer", row.pred, row.marks[0])));
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      toggle(row, button);
      remember();
    });
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
    open = { row, button, panel };
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
    remember();
    const button = list.querySelector(".row");
    if (button) button.focus();
  }
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));

  // --- out of the page ------------------------------------------------------------------------------------------

  /* A row as JSON holds it, in the words of a prediction file; texts as far as the page has them. */
  function record(row) {
    const scores = (values) => Object.fromEntries(data.protocols.map((name, place) => [name, Number(points(values[place]))]));
    const numbers = [row.question, ...row.truths, row.pred, row.raw, row.keywords];
    return {
      dataset: row.subset, level: row.level, index: row.index, input: text(row.question), answers: row.truths.map(text),
      gold_ans: text(row.keywords), pred: text(row.pred), ...(row.raw >= 0 ? { raw_pred: text(row.raw) } : {}),
      status: row.status, cause: row.cause, scores: scores(row.scores), evidence_kept: row.kept === null ? null : Boolean(row.kept),
      prompt_tokens: row.promptTokens, prompt_tokens_full: row.fullTokens,
      ...(data.others.length ? { compared: data.others.map((name, place) => ({ run: name, scores: row.others[place] && scores(row.others[place]) })) } : {}),
      ...(numbers.some((number) => data.long[number]) ? { cut_for_the_page: true } : {}),
    };
  }

  function csv() {
    const head = ["subset", "level", "index", ...data.protocols.map((name) => `score (${name})`), "cause", "status", "evidence kept", "question", "truth", "prediction"];
    const line = (row) => [row.subset, row.level, row.index, ...row.scores.map(points), row.cause, row.status,
      { 1: "yes", 0: "no" }[row.kept] ?? "", text(row.question), text(row.truths[0]), text(row.pred),
      ...row.others.map((scores) => (scores ? points(scores[protocol]) : ""))];
    const others = data.others.map((name) => `${name}: score (${data.protocols[protocol]})`);
    return [[...head, ...others], ...found.map(line)].map(csvLine).join("");
  }

  function download(name, kind, content) {
    const link = make("a", "");
    link.href = URL.createObjectURL(new Blob([content], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  const actions = byId("actions");
  function action(name, does) {
    const button = make("button", "small", name);
    button.type = "button";
    button.addEventListener("click", () => does(button));
    return button;
  }
  const here = () => location.href.split("#")[0];
  actions.append(
    action("Copy link", (button) => copyText(here() + address(), button)),
    action("Copy as CSV", (button) => copyText(csv(), button)),
    // With the mark by which table calculators tell UTF-8.
    action("Download CSV", () => download("rows.csv", "text/csv", `\ufeff${csv()}`)),
    action("Download JSONL", () => download("rows.jsonl", "application/jsonl", found.map((row) => `${JSON.stringify(record(row))}\n`).join(""))),
  );

  // --- a row, opened --------------------------------------------------------------------------------------------

  const entry = (name, ...children) => make("div", "", make("dt", "", name), make("dd", "", ...children));

  function details(row) {
    const rest = make("dl", "");
    const tell = (name, ...children) => rest.append(entry(name, ...children));
    if (row.truths.length > 1) tell("Other truths (not scored)", ...row.truths.slice(1).map((number) => written(number)));
    if (row.keywords >= 0) tell("Answer keywords", written(row.keywords));
    if (row.tokens && row.tokens.length) tell("Keywords found and missed", keywords(row));
    if (row.raw >= 0) tell("Raw prediction", written(row.raw));
    tell("How it scored", ...sums(row).map((line) => make("p", "sum", line)));
    if (row.cause) tell("Cause", label(row.cause));
    tell("Status", row.status + (row.finish && row.finish !== row.status ? ` (finish reason: ${row.finish})` : ""));
    if (siblings.get(row.recurs).length > 1) tell("The same question", lengths(row));
    if (row.facts.length) tell("Confusing facts", ...row.facts.map((number) => written(number)));
    const bars = make("div", "places");
    tell("Prompt", ...prompt(row), bars);
    if (packed.passages) tell("Context", passagesOf(row));
    if (row.length !== null) tell("Length of the context", `${count(row.length)} ${row.language === "zh" ? "characters" : "words"}`);

    const question = make("dl", "", entry("Question", written(row.question)));
    const beside = make("dl", "beside", entry("Truth", written(row.truths[0], "div", "text", row.marks[1])),
      entry(data.others.length ? answerName(row.scores, "Prediction of ", data.name) : answerName(row.scores, "Prediction", null), written(row.pred, "div", "text", row.marks[0])));
    const others = row.others.map((scores, place) => {
      const box = entry(answerName(scores, "Prediction of ", data.others[place]), scores ? "" : "This run has no answer to it.");
      beside.append(box);
      return box.lastElementChild;
    });
    if (packed.details) unpack("details").then((told) => detailed(row, told.get(row.number), others, bars), () => others.forEach((box) => box.append("This browser cannot unpack it.")));
    const marked = make("p", "note", make("mark", "", "Marked"), " words count as shared by truth and prediction; of these, ",
      make("mark", "weak", "underlined"), " ones are on the blacklist: none is a keyword that was found, and protocol described leaves them out.");
    const copies = make("p", "actions", action("Copy link", (button) => copyText(here() + addressOf(row), button)),
      action("Copy row", (button) => copyText(JSON.stringify(record(row), null, 2), button)));
    return make("div", "opened", copies, question, beside, row.marks[0].length ? marked : null, rest);
  }

  function answerName(scores, name, run) {
    return make("span", "", name, run === null ? null : make("bdi", "", run), scores ? make("strong", "", points(scores[protocol])) : null);
  }

  /* What is compressed of a row: what other runs answered, where its passages stand. */
  function detailed(row, told, boxes, bars) {
    const [evidence, facts, others] = told || [[], [], []];
    others.forEach((answer, place) => {
      if (!answer) return;
      const [pred, whole, status, cause, marks] = answer;
      boxes[place].append(shown(pred, whole, "div", "text", marks), make("span", "chips", ...[label(cause), status === "ok" ? null : status].map((name) => name && make("span", "chip", name))));
    });
    const known = [...evidence.map((pair) => ["evidence", ...pair]), ...facts.map((pair) => ["confusing fact", ...pair])];
    if (!known.length) return;
    const lost = cutOf(row);
    const said = (depths, what) => `${what}: ${depths.map(([kind, at]) => `${kind} at ${(at / 1000).toFixed(2)}`).join(", ") || "none of them"}`;
    const context = known.map(([kind, depth]) => [kind, depth]);
    const prompted = known.filter((each) => each[2] !== null).map(([kind, , at]) => [kind, at]);
    bars.append(placeBar("Context", context, lost, said(context, "In the context")));
    if (lost || prompted.some(([, at], place) => at !== context[place]?.[1])) bars.append(placeBar("Prompt", prompted, 0, said(prompted, "In the prompt")));
    bars.append(make("p", "note", make("span", "at evidence", "E"), " evidence, ", make("span", "at fact", "F"), " confusing fact; depths from 0, the beginning, to 1",
      prompted.length < known.length ? `; ${known.length - prompted.length} of ${known.length} not known to be whole in the prompt` : "", "."));
  }

  /* How large a share of the prompt the cut took. */
  function cutOf(row) {
    if (row.promptTokens === null || row.fullTokens === null) return 0;
    return Math.max(0, 1 - (data.limit ?? row.promptTokens) / row.fullTokens);
  }

  function placeBar(name, depths, lost, said) {
    const bar = make("div", "place");
    const part = (css, share) => {
      const stretch = make("span", css);
      stretch.style.flexGrow = share;
      return stretch;
    };
    bar.append(part("kept", (1 - lost) / 2), ...(lost ? [part("lost", lost)] : []), part("kept", (1 - lost) / 2));
    for (const [kind, at] of depths) {
      const flag = make("span", `at ${kind === "evidence" ? "evidence" : "fact"}`, kind === "evidence" ? "E" : "F");
      flag.style.left = `${at / 10}%`;
      flag.title = `${kind}, depth ${(at / 1000).toFixed(2)}`;
      bar.append(flag);
    }
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", said);
    return make("div", "placed", make("span", "what", name), bar);
  }

  /* Links to the same question at every length, with the scores. */
  function lengths(row) {
    const box = make("div", "lengths");
    const all = [...siblings.get(row.recurs)].sort((one, other) => levels.indexOf(one.level) - levels.indexOf(other.level) || one.index - other.index);
    for (const each of all) {
      const link = make(each === row ? "strong" : "a", "length", make("span", "", each.level), scored(scoreOf(each)));
      if (each !== row) link.href = addressOf(each);
      box.append(link);
    }
    return box;
  }

  function passagesOf(row) {
    const box = make("div", "passages");
    unpack("passages").then(
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
        const share = (100 * kept / row.fullTokens).toFixed(1);
        parts.push(`${count(kept)} of ${count(row.fullTokens)} tokens (${share} %): the middle ${count(lost)} were cut. `);
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
    const inRows = at && at.closest("#rows");
    let target = null;
    if (event.key === "/" && !typing) target = fields.q;
    else if (event.key === "s" && inRows && !typing) target = fields.sort;
    else if (event.key === "ArrowDown" && at === fields.q) target = list.querySelector(".row");
    else if (event.key === "Escape" && open) {
      target = open.button;
      close();
      remember();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && at && at.classList.contains("row")) {
      const buttons = [...list.querySelectorAll(".row")], place = buttons.indexOf(at);
      target = event.key === "ArrowDown" ? buttons[place + 1] : buttons[place - 1] || fields.q;
    }
    if (!target) return;
    event.preventDefault();
    target.focus();
  });

  protocol = data.protocols.indexOf(document.querySelector("#protocols :checked").value);
  filter();
  show();
  form.hidden = false;
  go();
}
