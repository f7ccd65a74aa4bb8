// What keeps a page up to date while it is looked at. Everything works without it.
"use strict";
(() => {
  const EVERY_MS = 2000, LIVE_MS = 5000;
  const ask = (address) =>
    fetch(address, { headers: { "Stagepost-Refresh": "1" }, cache: "no-store", credentials: "same-origin" }).then((answer) => {
      // The session has ended: the login page stands where data should be.
      if (answer.redirected) { location.reload(); throw new Error("logged out"); }
      if (!answer.ok) throw new Error("status " + answer.status);
      return answer;
    });
  const every = (ms, work) => {
    const turn = () => {
      const done = document.hidden ? Promise.resolve() : work().catch(() => {});
      done.then(() => setTimeout(turn, ms));
    };
    setTimeout(turn, ms);
  };

  // What somebody is at is left alone.
  const inUse = (part) => part.contains(document.activeElement) || part.querySelector("details[open]") ||
    (getSelection().anchorNode && part.contains(getSelection().anchorNode) && !getSelection().isCollapsed);

  // New events, above those that are there; and what became of those, some at a time.
  const tail = document.querySelector("[data-tail]");
  if (tail) {
    let address = tail.dataset.tail, count = 0, turn = 0;
    const atOnce = Number(tail.dataset.again);
    const told = document.querySelector("[data-told]");
    // Draws a row; true if there was none of this event.
    const put = ({ id, html }) => {
      const template = document.createElement("template");
      template.innerHTML = html;
      const row = template.content.querySelector("tr");
      const known = tail.querySelector('[data-id="' + CSS.escape(id) + '"]');
      if (!known) {
        row.classList.add("new");
        setTimeout(() => row.classList.remove("new"), 4000);
        tail.prepend(row);
      } else if (known.innerHTML !== row.innerHTML && !inUse(known)) {
        known.replaceChildren(...row.childNodes);
      }
      return !known;
    };
    every(EVERY_MS, async () => {
      const news = await (await ask(address)).json();
      address = news.next;
      const fresh = news.rows.filter(put).length;
      while (tail.rows.length > 4 * news.max) tail.lastElementChild.remove();
      if (fresh > 0) {
        count += fresh;
        told.textContent = count + (count === 1 ? " event has" : " events have") + " come since you opened this page." +
          (news.left_out ? " More came than are shown." : "");
        const empty = document.querySelector("main .empty");
        if (empty) empty.remove();
      }
      if (turn >= tail.rows.length) turn = 0;
      const ids = [...tail.rows].slice(turn, turn + atOnce).map((row) => ["id", row.dataset.id]);
      turn += atOnce;
      // One that is gone stays as it was.
      if (ids.length > 0) (await (await ask("/tail/rows?" + new URLSearchParams(ids))).json()).rows.forEach(put);
    });
  }

  // Parts of a page that are drawn anew.
  const live = [...document.querySelectorAll("[data-live]")];
  if (live.length > 0) {
    every(LIVE_MS, async () => {
      const page = new DOMParser().parseFromString(await (await ask(location.href)).text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const other = page.querySelector('[data-live="' + CSS.escape(part.dataset.live) + '"]');
        if (other && !inUse(part) && part.innerHTML !== other.innerHTML) part.replaceWith(other);
      }
    });
  }

  // One box that ticks all boxes of a table.
  for (const form of document.querySelectorAll("form[data-choose]")) {
    const head = form.querySelector("thead th .unseen");
    if (!head) continue;
    const all = document.createElement("input");
    all.type = "checkbox";
    all.setAttribute("aria-label", "Choose all on this page");
    all.addEventListener("change", () => {
      for (const box of form.querySelectorAll('tbody input[name="id"]')) box.checked = all.checked;
    });
    head.replaceWith(all);
  }
})();
