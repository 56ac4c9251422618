// What every page does: relative times, keys, live content, copying, ticking, asking before what cannot be undone.
import { keepTimes } from "./times.js";
import { listen } from "./keys.js";
import { goLive } from "./live.js";
import { tellTicks } from "./ticks.js";

const sure = document.getElementById("sure");
let asked = null; // the button that what is asked now is about

function ask(button) {
  asked = button;
  sure.querySelector("p").textContent = button.dataset.confirm;
  sure.querySelector('[value="yes"]').textContent = button.textContent;
  sure.returnValue = "";
  sure.showModal();
}

sure?.addEventListener("close", () => {
  if (sure.returnValue === "yes") asked.form.requestSubmit(asked);
});

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const source = document.querySelector(`[data-source="${copy.dataset.copy}"]`);
    const said = copy.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      copy.textContent = "Copied";
    } catch {
      source.hidden = false; // no clipboard here: show what was to be copied
      getSelection().selectAllChildren(source);
    }
    setTimeout(() => { copy.textContent = said; }, 1500);
  }
  if (event.target.closest("[data-help]")) document.getElementById("help").showModal();
  const pressed = event.target.closest("[data-confirm]");
  if (pressed) {
    event.preventDefault();
    ask(pressed);
  }
});

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-all]")) return;
  const within = event.target.closest("section") ?? event.target.form; // of one group, or of all
  for (const box of within.querySelectorAll('input[name="id"], [data-all]')) box.checked = event.target.checked;
});

const nav = document.querySelector('nav[aria-label="Screens"]');
const current = nav?.querySelector("[aria-current]");
if (current) nav.scrollLeft = current.offsetLeft - nav.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2; // on a narrow screen it scrolls

keepTimes();
listen();
goLive();
tellTicks();
