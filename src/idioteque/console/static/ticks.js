// The next ticks of a cron while it is written: the server tells them, the page only asks once the hands rest.
const PAUSE_MS = 250;

function shown(ticks, error) {
  if (error) {
    const said = document.createElement("p");
    said.className = "error";
    said.textContent = error;
    return said;
  }
  const list = document.createElement("ol");
  list.className = "ticks";
  for (const tick of ticks) {
    const line = document.createElement("li");
    const utc = document.createElement("span");
    utc.className = "none";
    utc.textContent = new Date(tick.at_ms).toISOString().slice(0, 16).replace("T", " ") + " UTC";
    line.append(`${tick.local} `, utc);
    list.append(line);
  }
  return list;
}

export function tellTicks() {
  const place = document.querySelector("[data-ticks]");
  const [cron, zone] = ["cron", "zone"].map((id) => document.getElementById(id));
  if (!place || !cron || !zone) return;
  let timer = null;
  let asked = 0;
  const ask = async () => {
    const mine = ++asked;
    const query = new URLSearchParams({ cron: cron.value, zone: zone.value });
    try {
      const answer = await fetch(`${document.body.dataset.prefix}/schedules/ticks.json?${query}`);
      if (!answer.ok) return;
      const { ticks, error } = await answer.json();
      if (mine === asked) place.replaceChildren(shown(ticks, error)); // not one that was asked before
    } catch { /* no server just now: the form says so when it is sent */ }
  };
  for (const field of [cron, zone]) {
    field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, PAUSE_MS); });
  }
}
