// The page's content anew whenever it has changed; not while somebody writes, ticks or selects in it, or is asked.
import { restore } from "./keys.js";
import { tellTimes } from "./times.js";

function busy(main) {
  const focused = document.activeElement;
  return (main.contains(focused) && focused.matches("input, textarea, select"))
    || document.querySelector("dialog[open]") // which gives the focus back to where it was
    || main.querySelector('input[name="id"]:checked')
    || (!getSelection().isCollapsed && main.contains(getSelection().anchorNode));
}

const CONTROLS = "a, button, summary, [tabindex]";

function nameOfControl(one) {
  const row = one.closest("[data-row]")?.querySelector("[data-open]")?.getAttribute("href");
  return [row, one.tagName, one.getAttribute("href"), one.getAttribute("aria-label"), one.closest("form")?.action, one.textContent.trim()].join("|");
}

function swap(main, html) {
  const nameOf = (details, place) => details.dataset.keep ?? place;
  const open = new Map([...main.querySelectorAll("details")].map((one, place) => [nameOf(one, place), one.open]));
  const notices = [...main.querySelectorAll(":scope > .notice[role=alert]")];
  const focused = main.contains(document.activeElement) ? nameOfControl(document.activeElement) : null;
  main.innerHTML = html;
  main.prepend(...notices);
  main.querySelectorAll("details").forEach((one, place) => { one.open = open.get(nameOf(one, place)) ?? one.open; });
  if (focused) [...main.querySelectorAll(CONTROLS)].find((one) => nameOfControl(one) === focused)?.focus({ preventScroll: true });
  tellTimes();
  restore();
}

export function goLive() {
  const main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) return;
  const prefix = document.body.dataset.prefix;
  const page = location.pathname.slice(prefix.length) + location.search;
  const source = new EventSource(`${prefix}/live?page=${encodeURIComponent(page)}&seen=${main.dataset.live}`);
  const sign = document.querySelector(".live");
  source.addEventListener("open", () => sign.classList.add("on"));
  source.addEventListener("error", () => sign.classList.remove("on"));
  source.addEventListener("over", () => { source.close(); location.reload(); });
  let waiting = null; // what came while somebody was busy
  const show = () => {
    if (waiting === null || busy(main)) return;
    swap(main, waiting);
    waiting = null;
  };
  source.addEventListener("page", (event) => {
    waiting = JSON.parse(event.data).html;
    show();
  });
  setInterval(show, 1000);
}
