// Tables that sort and filter, and players that stop where their clip ends.
"use strict";
(() => {
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  function sortBy(table, heading) {
    const headings = [...heading.parentElement.children], column = headings.indexOf(heading);
    const isNumber = heading.classList.contains("number"), now = heading.getAttribute("aria-sort");
    const order = now === "none" ? (isNumber ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    for (const other of headings) other.setAttribute("aria-sort", other === heading ? order : "none");
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: row.cells[column].dataset.value }));
    rows.sort((a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");  // what is unknown comes last
      return sign * (isNumber ? a.key - b.key : compare(a.key, b.key));
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }
  for (const table of document.querySelectorAll("table.sortable"))
    for (const button of table.tHead.querySelectorAll("button"))
      button.addEventListener("click", () => sortBy(table, button.closest("th")));

  for (const field of document.querySelectorAll("input[data-filter]"))
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/), rows = [...document.getElementById(field.dataset.filter).tBodies[0].rows];
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      const shown = rows.filter((row) => !row.hidden).length;
      document.querySelector(`[data-count="${field.dataset.filter}"]`).textContent = `${shown} of ${rows.length}`;
    });

  const getRange = (video) => {
    const [, start = "0", end = "Infinity"] = /#t=([\d.]+)(?:,([\d.]+))?$/.exec(video.getAttribute("src") || "") || [];
    return [Number(start), Number(end)];
  };
  function guard(video) {
    const [start, end] = getRange(video);
    if (video.currentTime >= end) video.pause();
    else if (!video.paused) requestAnimationFrame(() => guard(video));
  }
  // Events of media do not bubble: they are caught on their way down, also for players that come later.
  document.addEventListener("play", ({ target: video }) => {
    const [start, end] = getRange(video);
    if (video.currentTime >= end - 0.02 || video.currentTime < start - 0.02) video.currentTime = start;
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    guard(video);
  }, true);
})();
