// Keys: `/` search, `j` and `k` through rows, Enter opens, `x` ticks, `r` retries, `?` helps.
let at = -1;

function rows() { return [...document.querySelectorAll("main [data-row]")]; }

function move(step) {
  const all = rows();
  if (!all.length) return;
  all.forEach((row) => row.classList.remove("at"));
  at = Math.min(all.length - 1, Math.max(0, at + step));
  all[at].classList.add("at");
  all[at].scrollIntoView({ block: "nearest" });
}

// In a list, `r` means the ticked rows, or else the row that the keys have led to.
function retry() {
  const box = rows()[at]?.querySelector('input[name="id"]');
  if (box && !document.querySelector('main input[name="id"]:checked')) box.checked = true;
  document.querySelector('[data-key="r"]:not(:disabled)')?.click();
}

const KEYS = {
  "/": () => document.querySelector("[data-search]")?.focus(),
  j: () => move(1),
  k: () => move(-1),
  x: () => rows()[at]?.querySelector('input[type="checkbox"]')?.click(),
  Enter: () => rows()[at]?.querySelector("[data-open]")?.click(),
  r: retry,
  "?": () => document.getElementById("help").showModal(),
};

export function restore() {
  const all = rows();
  if (at >= 0 && all.length) all[Math.min(at, all.length - 1)].classList.add("at");
}

export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });
}
