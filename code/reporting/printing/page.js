"use strict";
document.documentElement.classList.add("js");

const said = document.getElementById("said");

/* What a cell is sorted by: the shown one of its readings, else its own. "" is missing. */
function key(row, column) {
  const cell = row.cells[column];
  const shown = cell.querySelector(".of:not([hidden])");
  const text = shown && shown.dataset.sort !== undefined ? shown.dataset.sort : cell.dataset.sort;
  return text === undefined ? "" : text;
}

function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = [Number(a), Number(b)];
  const order = numbers.some(Number.isNaN) ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1];
  return direction === "descending" ? -order : order;
}

function sort(table, heading, direction) {
  const body = table.tBodies[0];
  const column = heading.cellIndex;
  const rows = Array.from(body.rows, (row) => ({ row, key: key(row, column) }));
  rows.sort((a, b) => compare(a.key, b.key, direction));
  rows.forEach(({ row }) => body.appendChild(row));
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction);
  said.textContent = `Sorted by ${heading.textContent.trim()}, ${direction}`;
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const other = { ascending: "descending", descending: "ascending" };
    const now = heading.getAttribute("aria-sort");
    sort(button.closest("table"), heading, other[now] || button.dataset.first);
  });
}

for (const choice of document.querySelectorAll("fieldset.choice")) {
  const table = document.getElementById(choice.dataset.for);
  const show = () => {
    const wanted = choice.querySelector("input:checked").value;
    for (const one of table.querySelectorAll(".of")) one.hidden = one.dataset.of !== wanted;
    const sorted = table.querySelector('th[aria-sort]:not([aria-sort="none"])');
    if (sorted) sort(table, sorted, sorted.getAttribute("aria-sort"));
  };
  choice.addEventListener("change", show);
  show();
}

for (const button of document.querySelectorAll("button.info")) {
  button.addEventListener("click", () => {
    const notes = button.nextElementSibling;
    notes.hidden = !notes.hidden;
    button.setAttribute("aria-expanded", String(!notes.hidden));
  });
}

function copySelected(code) {
  const range = document.createRange();
  range.selectNodeContents(code);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  return document.execCommand("copy");
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    let done = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      done = copySelected(code);
    }
    button.textContent = done ? "Copied" : "Selected";
    said.textContent = done ? "Copied" : "Selected; copy it by hand";
    window.setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
}

/* A link into something closed opens it. */
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const around = target && target.closest("details");
  if (around && !around.open) {
    around.open = true;
    target.scrollIntoView();
  }
}
window.addEventListener("hashchange", open);
open();

/* The contents: closed on narrow screens; the section in view is marked. */
const contents = document.querySelector("nav details");
if (window.matchMedia("(max-width: 70rem)").matches) contents.open = false;
const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.getAttribute("href").slice(1), link]));
const inView = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) inView[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  let current = null;
  for (const [id, link] of links) {
    link.removeAttribute("aria-current");
    if (inView.has(id)) current = link;
  }
  if (current) current.setAttribute("aria-current", "true");
}, { rootMargin: "-15% 0px -75% 0px" });
for (const id of links.keys()) {
  const section = document.getElementById(id);
  if (section) watcher.observe(section);
}

/* On paper everything is open. */
window.addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("main details:not(.options)")) one.open = true;
});
