// A cell's page: filters, a search, steps from one wrong reply to the next, pictures on request.
"use strict";
(() => {
  const form = document.querySelector(".controls");
  const replies = [...document.querySelectorAll(".reply")];
  const list = document.querySelector(".replies");
  const { show, search, previous, next, count } = form.elements;
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  const isChosen = (reply, wanted) => {
    if (!wanted) return true;
    return wanted.startsWith("status:") ? `status:${reply.dataset.status}` === wanted : reply.classList.contains(wanted);
  };

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const reply of replies) {
      reply.hidden = !isChosen(reply, show.value) || (wanted !== "" && !reply.textContent.toLowerCase().includes(wanted));
      shown += reply.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${replies.length} shown`;
  }
  let waiting = 0;
  search.addEventListener("input", () => {
    // long replies are searched once a word is typed, not at each letter
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  show.addEventListener("input", filter);
  filter();

  // the reply that was last gone to or opened
  let current = null;
  function open(reply) {
    current = reply;
    reply.hidden = false;
    reply.open = true;
    reply.scrollIntoView({ block: "start" });
    reply.querySelector("summary").focus({ preventScroll: true });
    // an address that is copied now leads here
    history.replaceState(null, "", `#${reply.id}`);
  }
  function step(by) {
    const wrong = replies.filter((reply) => reply.classList.contains("wrong") && !reply.hidden);
    if (!wrong.length) return;
    const at = wrong.indexOf(current);
    const to = at < 0 ? (by > 0 ? 0 : wrong.length - 1) : (at + by + wrong.length) % wrong.length;
    if (current && at >= 0) current.open = false;
    open(wrong[to]);
  }
  next.addEventListener("click", () => step(1));
  previous.addEventListener("click", () => step(-1));
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, select, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });

  function goTo() {
    // anchors are plain; what is no escape of a URL is none
    const reply = document.getElementById(location.hash.slice(1));
    if (reply && reply.classList.contains("reply")) open(reply);
  }
  window.addEventListener("hashchange", goTo);
  goTo();

  const draws = `"kvrepro view ${list.dataset.profile}" serves this page and draws any reply on request.`;
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button.evictions");
    if (!button) return;
    const place = button.closest(".reply").querySelector(".picture");
    button.disabled = true;
    window.kvrepro.load(place, button.dataset.picture, `Not drawn yet: ${draws}`).finally(() => {
      button.disabled = false;
      place.scrollIntoView({ block: "nearest" });
    });
  });
})();
