// Keeps the overview live: fetches its changing parts each second and puts in those that differ. The page reads the
// same without this.
"use strict";
const parts = () => document.querySelectorAll("[data-live]");

async function refresh() {
  const answer = await fetch("/live", { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(String(answer.status));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts()) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.innerHTML) continue;
    // Whoever is on a link of this part stays on it.
    const link = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.replaceChildren(...next.childNodes);
    if (link) part.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
  }
}

async function turn() {
  try {
    if (!document.hidden) await refresh();
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
  setTimeout(turn, 1000);
}

if (parts().length > 0) turn();
