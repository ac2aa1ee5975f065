// A click on a window plays it in the film.
"use strict";
(() => {
  const film = document.querySelector("video.film");
  for (const button of document.querySelectorAll("[data-shows]"))
    button.addEventListener("click", () => {
      film.currentTime = Number(button.dataset.shows);
      film.scrollIntoView({ block: "center" });
      film.play();
    });
})();
