// Lists the clips of a cell of the confusion matrix, which a click in the plot or in a table names.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { names, labels, predictions, confidences, paths, folder, url, closed } = read("clips-data"), order = read("order-data");
  const place = document.getElementById("cell-clips"), readout = document.getElementById("cell-name");
  const MAX_LISTED = 200, PLAYED = /\.(mp4|m4v|mov|webm|ogv)$/i;
  const counts = new Map();
  labels.forEach((label, i) => counts.set(`${label}-${predictions[i]}`, (counts.get(`${label}-${predictions[i]}`) || 0) + 1));
  const sizes = names.map(() => 0);
  for (const label of labels) sizes[label]++;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  }
  const isClosed = new Set(closed);
  function getUrl(clip) {
    const path = paths[clip];
    if (isClosed.has(clip)) return "";
    if (/^https?:/i.test(path)) return path;
    return /^[a-z][a-z0-9+.-]+:\/\//i.test(path) ? "" : url + path.split("/").map(encodeURIComponent).join("/");
  }
  function describe(label, other) {
    const count = counts.get(`${label}-${other}`) || 0;
    const what = label === other ? "right" : `taken for ${names[other]}`;
    return `${names[label]}: ${count} of ${sizes[label]} ${what}`;
  }
  function play(item, address) {
    item.querySelector("video")?.remove();
    const video = make("video");
    Object.assign(video, { controls: true, src: address, playsInline: true });
    item.append(video);
    video.play().catch(() => {});
  }
  function makeItem(clip) {
    const item = make("li"), address = getUrl(clip), other = predictions[clip];
    if (address && PLAYED.test(paths[clip])) {
      const button = make("button", "link", paths[clip]);
      button.type = "button";
      button.addEventListener("click", () => play(item, address));
      item.append(button);
    } else if (address) {
      const link = make("a", "", paths[clip]);
      link.href = address;
      item.append(link);
    } else item.append(make("span", "", paths[clip]));
    item.append(make("span", "soft", other < 0 ? " failed" : ` ${names[other]}, ${confidences[clip]} %`));
    return item;
  }
  function show(label, other) {  // other: a class, or "wrong" for all that are wrong
    const isMeant = other === "wrong" ? (i) => predictions[i] !== label : (i) => predictions[i] === other;
    const found = labels.flatMap((value, i) => (value === label && isMeant(i) ? [i] : []));
    found.sort((a, b) => confidences[b] - confidences[a]);
    const title = other === "wrong" ? `${names[label]}: ${found.length} of ${sizes[label]} wrong` : describe(label, other);
    const list = make("ul", "clip-list");
    list.append(...found.slice(0, MAX_LISTED).map(makeItem));
    place.replaceChildren(make("h3", "", title), make("p", "soft", folder && found.length ? `in ${folder}` : ""), list);
    if (found.length > MAX_LISTED) place.append(make("p", "soft", `and ${found.length - MAX_LISTED} more`));
  }
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-shows]");
    if (!button) return;
    const [label, other] = button.dataset.shows.split("-");
    show(Number(label), other === "wrong" ? other : Number(other));
    place.focus({ preventScroll: true });
    place.scrollIntoView({ block: "center" });
  });
  window.plotsDrawn.then(() => {
    const plot = Bokeh.documents.map((doc) => doc.get_model_by_name("confusion")).find(Boolean);
    const find = ({ x, y }) => [y, x].map((value) => order[Math.round(value)]);
    plot.on_event("tap", (event) => {
      const [label, other] = find(event);
      if (label !== undefined && other !== undefined) show(label, other);
    });
    plot.on_event("mousemove", (event) => {
      const [label, other] = find(event);
      if (label !== undefined && other !== undefined) readout.textContent = describe(label, other);
    });
  });
})();
