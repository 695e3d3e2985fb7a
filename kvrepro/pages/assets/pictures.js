// The pictures that a page shows at once, each row of them from its own files.
(function () {
  "use strict";
  for (const place of document.querySelectorAll("[data-pictures]")) {
    const say = () => (place.textContent = "Not drawn: the picture's file is missing.");
    window.kvrepro.load(place, JSON.parse(place.dataset.pictures), say);
  }
})();
