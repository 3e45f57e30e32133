"use strict";
// Tabs, and a tooltip with keys for the marks of plots. Without this the page shows everything in
// one column. Attributes are set and text is written; no markup is ever made.

const links = [...document.querySelectorAll(".tabs a")];
const parts = links.map((link) => document.getElementById(link.hash.slice(1)));
const list = document.querySelector(".tabs > div");
const tip = document.querySelector(".tip");
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Shows one part; the others stay where a search in the page finds them. */
function choose(chosen) {
  links.forEach((link, i) => {
    link.setAttribute("aria-selected", String(i === chosen));
    link.setAttribute("tabindex", i === chosen ? "0" : "-1");
    for (const [name, value] of [["hidden", "until-found"], ["aria-hidden", "true"]]) {
      if (i === chosen) parts[i].removeAttribute(name);
      else parts[i].setAttribute(name, value);
    }
  });
  list.scrollLeft = links[chosen].offsetLeft - list.offsetLeft - 48;
}

function turnTo(chosen) {
  choose(chosen);
  // The tabs stay in sight; what they show begins right below them.
  if (list.getBoundingClientRect().top < 1) parts[chosen].scrollIntoView();
  try {
    history.replaceState(null, "", links[chosen].hash);
  } catch {
    // A page inside another page may have no address of its own.
  }
}

/** Shows what the address points at. */
function follow() {
  const target = document.getElementById(location.hash.slice(1));
  const chosen = target === null ? -1 : parts.findIndex((part) => part.contains(target));
  if (chosen < 0) return;
  choose(chosen);
  target.scrollIntoView();
}

/** Where a key leads among so many; -1 where nowhere. */
function moved(event, from, length) {
  if (event.altKey || event.ctrlKey || event.metaKey) return -1;
  if (event.key === "Home") return 0;
  if (event.key === "End") return length - 1;
  return event.key in STEPS ? (from + STEPS[event.key] + length) % length : -1;
}

list.setAttribute("role", "tablist");
list.setAttribute("aria-label", "Parts of the report");
links.forEach((link, i) => {
  link.setAttribute("role", "tab");
  link.setAttribute("id", `tab-${parts[i].id}`);
  link.setAttribute("aria-controls", parts[i].id);
  parts[i].setAttribute("role", "tabpanel");
  parts[i].setAttribute("aria-labelledby", link.id);
  parts[i].addEventListener("beforematch", () => choose(i));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    turnTo(i);
  });
  link.addEventListener("keydown", (event) => {
    const along = !["ArrowUp", "ArrowDown"].includes(event.key);
    const next = event.key === " " ? i : along ? moved(event, i, links.length) : -1;
    if (next < 0) return;
    event.preventDefault();
    turnTo(next);
    links[next].focus();
  });
});
choose(0);
follow();
addEventListener("hashchange", follow);

// -- plots ----------------------------------------------------------------------------------

function show(mark) {
  const box = mark.getBoundingClientRect();
  tip.textContent = mark.getAttribute("aria-label");
  tip.removeAttribute("hidden");
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(8, Math.min(left, room))}px`;
  tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
}

function hide() {
  tip.setAttribute("hidden", "");
}

for (const plot of document.querySelectorAll("figure svg")) {
  const marks = [...plot.querySelectorAll("[role=img]")];
  const markOf = (event) => event.target.closest("[role=img]");
  marks.forEach((mark, i) => mark.setAttribute("tabindex", i ? "-1" : "0"));
  plot.addEventListener("mouseover", (event) => (markOf(event) ? show(markOf(event)) : hide()));
  plot.addEventListener("mouseleave", hide);
  plot.addEventListener("focusout", hide);
  plot.addEventListener("focusin", (event) => {
    marks.forEach((mark) => mark.setAttribute("tabindex", mark === event.target ? "0" : "-1"));
    show(event.target);
  });
  plot.addEventListener("keydown", (event) => {
    const next = moved(event, marks.indexOf(event.target), marks.length);
    if (next < 0) return;
    event.preventDefault();
    marks[next].focus();
  });
}
document.querySelector(".hint").toggleAttribute("hidden", !document.querySelector("figure svg"));
addEventListener("keydown", (event) => event.key === "Escape" && hide());
addEventListener("scroll", () => {
  const mark = document.activeElement?.closest("figure [role=img]");
  if (mark && !tip.hidden) show(mark);
  else hide();
}, { passive: true, capture: true });
