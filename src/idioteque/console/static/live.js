// The page's content anew whenever it has changed; not while somebody writes, ticks or selects in it.
import { restore } from "./keys.js";
import { tellTimes } from "./times.js";

function busy(main) {
  const focused = document.activeElement;
  return (main.contains(focused) && focused.matches("input, textarea, select"))
    || main.querySelector('input[name="id"]:checked')
    || (!getSelection().isCollapsed && main.contains(getSelection().anchorNode));
}

function swap(main, html) {
  const nameOf = (details, place) => details.dataset.keep ?? place;
  const open = new Map([...main.querySelectorAll("details")].map((one, place) => [nameOf(one, place), one.open]));
  const notices = [...main.querySelectorAll(":scope > .notice[role=alert]")];
  const focusedName = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  main.innerHTML = html;
  main.prepend(...notices);
  main.querySelectorAll("details").forEach((one, place) => { one.open = open.get(nameOf(one, place)) ?? one.open; });
  if (focusedName) main.querySelector(`a[href="${CSS.escape(focusedName)}"]`)?.focus();
  tellTimes();
  restore();
}

export function goLive() {
  const main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) return;
  const prefix = document.body.dataset.prefix;
  const page = location.pathname.slice(prefix.length) + location.search;
  const source = new EventSource(`${prefix}/live?page=${encodeURIComponent(page)}`);
  const sign = document.querySelector(".live");
  let first = true;
  source.addEventListener("open", () => sign.classList.add("on"));
  source.addEventListener("error", () => sign.classList.remove("on"));
  source.addEventListener("over", () => { source.close(); location.reload(); });
  source.addEventListener("page", (event) => {
    const { html } = JSON.parse(event.data);
    if (first) { first = false; if (html.trim() === main.innerHTML.trim()) return; }
    if (!busy(main)) swap(main, html);
  });
}
