// Moments as people feel them, "3 m ago"; the title keeps the moment in UTC.
const UNITS = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

export function relative(atMs, nowMs) {
  const seconds = Math.round(Math.abs(nowMs - atMs) / 1000);
  if (seconds < 1) return "now";
  const [name, length] = UNITS.find(([, one]) => seconds >= one);
  const text = `${Math.floor(seconds / length)} ${name}`;
  return atMs > nowMs ? `in ${text}` : `${text} ago`;
}

export function tellTimes() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time[datetime]")) {
    const text = relative(Date.parse(time.dateTime), now);
    if (time.textContent !== text) time.textContent = text;
  }
}

export function keepTimes() {
  tellTimes();
  setInterval(tellTimes, 1000);
}
