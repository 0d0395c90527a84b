"use strict";
// What the whole page shares, and its switches. Text of the run reaches the page through textContent alone.

const byId = (id) => document.getElementById(id);

/* An element with a class and children: strings become text, null is left out. */
function make(name, css, ...children) {
  const element = document.createElement(name);
  if (css) element.className = css;
  element.append(...children.filter((child) => child !== null));
  return element;
}

/* A line of CSV, every cell quoted; one that a table calculator would take for a formula gets an apostrophe. */
function csvLine(cells) {
  const cell = (value) => {
    const text = String(value ?? "");
    const plain = /^[+-]?\d+(\.\d+)?%?$/.test(text);
    return `"${(plain || !/^[\s]*[=+\-@\t\r]/.test(text) ? text : `'${text}`).replaceAll('"', '""')}"`;
  };
  return `${cells.map(cell).join(",")}\r\n`;
}

/* Put a text on the clipboard and say so on the button that asked for it. */
async function copyText(text, button) {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or an older browser: by a selection
    const field = make("textarea", "skip");
    field.value = text;
    document.body.append(field);
    field.select();
    if (!document.execCommand("copy")) said = "Not copied";
    field.remove();
    button.focus();
  }
  const before = button.dataset.label ??= button.textContent;
  button.textContent = said;
  setTimeout(() => { button.textContent = before; }, 1500);
}

// --- the theme ---------------------------------------------------------------------------------------------------

{
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
}

// --- the protocol -----------------------------------------------------------------------------------------------

/* One protocol's scores are shown at a time; others learn of a change from the event of the radio buttons. */
function chooseProtocol(name) {
  for (const input of document.querySelectorAll("#protocols input")) input.checked = input.value === name;
  for (const part of document.querySelectorAll("[data-protocol]")) part.hidden = part.dataset.protocol !== name;
}
byId("protocols").addEventListener("change", (event) => chooseProtocol(event.target.value));
byId("protocols").hidden = false;
// A page that is loaded anew may come back with another choice checked.
chooseProtocol(document.querySelector("#protocols :checked").value);
