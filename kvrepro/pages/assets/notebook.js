// One button for all code of a notebook; without this script each cell's code is unfolded by itself.
"use strict";
(() => {
  const button = document.getElementById("fold");
  const parts = [...document.querySelectorAll("details.code")];
  button.hidden = parts.length === 0;
  button.addEventListener("click", () => {
    const isOpen = !parts.some((part) => part.open);
    parts.forEach((part) => { part.open = isOpen; });
    button.textContent = isOpen ? "Hide all code" : "Show all code";
  });
})();
