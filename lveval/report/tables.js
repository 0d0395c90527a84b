// --- tables: sorted by a column, copied as CSV -----------------------------------------------------------------------

{
  const COLLATOR = new Intl.Collator("en", { numeric: true });
  const SIZES = { k: 1e3, m: 1e6 };

  /* What a cell is sorted by: its number, that of a length such as 16k too, or its text; nothing sorts last. */
  function keyOf(cell) {
    const said = cell.textContent.trim();
    if (["", "–"].includes(said)) return null;
    const found = /^(?:[<>]=|[≤≥+])?\s*([-−]?[\d,]*\.?\d+)([km](?![a-z]))?/.exec(said);
    return found ? parseFloat(found[1].replaceAll(",", "").replace("−", "-")) * (SIZES[found[2]] ?? 1) : said;
  }

  function compare(one, other, sign) {
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "number" && typeof other === "number") return sign * (one - other);
    return sign * COLLATOR.compare(one, other);
  }

  function sort(table, column, header) {
    const ascending = header.getAttribute("aria-sort") === "descending"
      || (!header.hasAttribute("aria-sort") && typeof keyOf(table.tBodies[0].rows[0].cells[column]) === "string");
    for (const body of table.tBodies) {
      const keyed = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
      body.append(...keyed.sort((one, other) => compare(one[0], other[0], ascending ? 1 : -1)).map((pair) => pair[1]));
    }
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  /* A cell's text, and that of its interval, which is a column of its own. */
  function parts(cell) {
    const copy = cell.cloneNode(true), interval = copy.querySelector("small.interval");
    interval?.remove();
    const said = copy.textContent.replaceAll(/\s+/g, " ").trim();
    return [said === "–" ? "" : said, interval?.textContent ?? ""];
  }

  function asCsv(table) {
    const lines = [...table.rows].map((row) => [...row.cells].map(parts));
    const withInterval = lines[0].map((_, column) => lines.some((line) => line[column]?.[1]));
    return lines.map((line, number) => csvLine(line.flatMap(([said, interval], column) => {
      if (!withInterval[column]) return [said];
      return [said, number ? interval : `${said} 95 % interval`];
    }))).join("");
  }

  for (const table of document.querySelectorAll("main table")) {
    const copy = make("button", "copy", "Copy as CSV");
    copy.type = "button";
    copy.addEventListener("click", () => copyText(asCsv(table), copy));
    const frame = table.closest(".scroll") ?? table;
    frame.after(copy);
    if (!table.tBodies[0] || Math.max(...[...table.tBodies].map((body) => body.rows.length)) < 2) continue;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.textContent.trim()) return;
      const button = make("button", "sort", ...header.childNodes);
      button.type = "button";
      button.addEventListener("click", () => sort(table, column, header));
      header.append(button);
    });
  }

  // A frame that has more beside it shows a shadow there.
  function shade(frame) {
    const rest = frame.scrollWidth - frame.clientWidth - frame.scrollLeft;
    frame.classList.toggle("more-right", rest > 2);
    frame.classList.toggle("more-left", frame.scrollLeft > 2);
  }
  const resized = new ResizeObserver((seen) => seen.forEach(({ target }) => shade(target)));
  for (const frame of document.querySelectorAll(".scroll")) {
    frame.addEventListener("scroll", () => shade(frame), { passive: true });
    resized.observe(frame);
  }
}
