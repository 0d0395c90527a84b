// --- the way about the page ------------------------------------------------------------------------------------------

{
  // Every heading with an address leads to itself.
  for (const heading of document.querySelectorAll("main :is(h2, h3)")) {
    const place = heading.matches("section > h2") ? heading.parentElement.id : heading.id;
    if (!place) continue;
    const anchor = make("a", "anchor", "#");
    anchor.href = `#${place}`;
    anchor.setAttribute("aria-label", `Link to ${heading.textContent.trim()}`);
    heading.after(anchor);
  }

  // The section that is read is marked among the links; the bar of a narrow screen follows.
  const bar = byId("sections");
  const links = new Map([...bar.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  function mark() {
    const now = [...links.keys()].find((id) => inView.has(id));
    for (const [id, link] of links) {
      if (id !== now) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "location");
        if (bar.scrollWidth > bar.clientWidth) bar.scrollLeft = link.offsetLeft - bar.clientWidth / 3;
      }
    }
  }
  const observer = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) inView[isIntersecting ? "add" : "delete"](target.id);
    mark();
  }, { rootMargin: "-15% 0px -70% 0px" });
  for (const id of links.keys()) observer.observe(byId(id));

  // A folded part that an address leads into opens.
  function unfold() {
    let place = null;
    try { place = byId(decodeURIComponent(location.hash.slice(1).split("?")[0])); } catch { /* no address of this page */ }
    for (let part = place; part; part = part.parentElement) if (part.localName === "details") part.open = true;
  }
  addEventListener("hashchange", unfold);
  unfold();
}
