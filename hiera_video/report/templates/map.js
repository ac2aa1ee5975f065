// The map: tens of thousands of points, drawn pixel by pixel without a GPU; search, legend, stills, players.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const find = (id) => document.getElementById(`map-${id}`);
  const canvas = find("canvas"), plane = find("plane"), tip = find("tip"), legend = find("legend");
  const UNKNOWN = 65535, GRAY = "#8a93a1", CELLS = 256, REACH_PX = 12, MAX_LISTED = 200, PLAYED = /\.(mp4|m4v|mov|webm|ogv)$/i;
  function unpack(text, Kind) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Kind(bytes.buffer);
  }
  const xs = unpack(data.x, Uint16Array), ys = unpack(data.y, Uint16Array), videos = unpack(data.videos, Uint32Array);
  const starts = unpack(data.starts, Float32Array), ends = unpack(data.ends, Float32Array), count = xs.length;
  const colorings = data.colorings.map((coloring) => ({ ...coloring, codes: unpack(coloring.codes, Uint16Array) }));
  const stillRows = unpack(data.stills.rows, Uint32Array), stillOf = new Map([...stillRows].map((row, place) => [row, place]));
  const sheets = data.stills.sheets.map((source) => Object.assign(new Image(), { src: source }));
  let coloring = colorings[0], words = [], picked = new Set(), lit = new Uint8Array(count).fill(1), hovered = -1, chosen = -1;

  // Points of equal classes stand together in the data: drawn in that order, the last class would cover the others.
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1, state = 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((state / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  // Which points lie in each cell of a grid, one cell after the other.
  const cellOf = (i) => (ys[i] >> 8) * CELLS + (xs[i] >> 8), cellStarts = new Uint32Array(CELLS * CELLS + 1), inCells = new Uint32Array(count);
  for (let i = 0; i < count; i++) cellStarts[cellOf(i) + 1]++;
  for (let i = 0; i < CELLS * CELLS; i++) cellStarts[i + 1] += cellStarts[i];
  const next = cellStarts.slice();
  for (let i = 0; i < count; i++) inCells[next[cellOf(i)]++] = i;

  // View: a point at (x, y) in [0, 1] stands at (left + x * side, top + (1 - y) * side), in px of the page.
  const view = { left: 0, top: 0, side: 1, fit: 1 };
  let width = 0, height = 0, ratio = 1, picture = null, pixels = null;
  const context = canvas.getContext("2d", { alpha: false });
  const toX = (i) => view.left + (xs[i] / 65535) * view.side, toY = (i) => view.top + (1 - ys[i] / 65535) * view.side;

  function fitAll() {
    view.side = view.fit = Math.max(Math.min(width, height) - 48, 50);
    view.left = (width - view.side) / 2;
    view.top = (height - view.side) / 2;
  }
  function resize() {
    if (!plane.clientWidth || !plane.clientHeight) return;  // not shown
    const before = { width, height };
    ratio = Math.min(devicePixelRatio || 1, 2);
    [width, height] = [plane.clientWidth, plane.clientHeight];
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    picture = context.createImageData(canvas.width, canvas.height);
    pixels = new Uint32Array(picture.data.buffer);
    if (!before.width) fitAll();
    else { view.left += (width - before.width) / 2; view.top += (height - before.height) / 2; }
    schedule();
  }
  const pack = (hex) => {
    const value = parseInt(hex.slice(1), 16);
    return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  };
  const mix = (a, b, share) => {
    let mixed = 0xff000000;
    for (const shift of [0, 8, 16]) {
      const from = (a >> shift) & 255, to = (b >> shift) & 255;
      mixed |= Math.round(from + (to - from) * share) << shift;
    }
    return mixed >>> 0;
  };
  function makeStamp(radius) {  // pixels of a disc: fully covered ones, then those of its edge with their share
    const full = [], edge = [], reach = Math.ceil(radius);
    for (let y = -reach; y <= reach; y++)
      for (let x = -reach; x <= reach; x++) {
        const share = Math.min(Math.max(radius + 0.5 - Math.hypot(x, y), 0), 1);
        if (share > 0.95) full.push(y * canvas.width + x);
        else if (share > 0.05) edge.push({ offset: y * canvas.width + x, share: Math.round(share * 256) });
      }
    return { full: Int32Array.from(full), edge: Int32Array.from(edge, (e) => e.offset), shares: Int32Array.from(edge, (e) => e.share), reach };
  }
  function drawPoints(stamp, colors, wanted) {
    const { full, edge, shares, reach } = stamp, { codes } = coloring, columns = canvas.width, rows = canvas.height;
    for (let k = 0; k < count; k++) {
      const i = order[k];
      if (lit[i] !== wanted) continue;
      const x = Math.round(toX(i) * ratio), y = Math.round(toY(i) * ratio);
      if (x < reach || y < reach || x >= columns - reach || y >= rows - reach) continue;
      const place = y * columns + x, color = codes[i] === UNKNOWN ? colors[colors.length - 1] : colors[codes[i]];
      for (let j = 0; j < full.length; j++) pixels[place + full[j]] = color;
      for (let j = 0; j < edge.length; j++) {
        const under = pixels[place + edge[j]], share = shares[j];  // red and blue together, then green
        const pair = ((color & 0xff00ff) * share + (under & 0xff00ff) * (256 - share)) >>> 8;
        const green = ((color & 0xff00) * share + (under & 0xff00) * (256 - share)) >>> 8;
        pixels[place + edge[j]] = 0xff000000 | (pair & 0xff00ff) | (green & 0xff00);
      }
    }
  }
  function drawStills() {
    const { width: w, height: h, in_line: inLine, in_sheet: inSheet } = data.stills, taken = new Set();
    for (const i of [chosen, ...stillRows]) {
      const place = stillOf.get(i), x = Math.round(toX(i) - w / 2), y = Math.round(toY(i) - h / 2);
      if (place === undefined || !lit[i] || x < -w || y < -h || x > width || y > height) continue;
      const [column, row] = [Math.round(x / (w + 4)), Math.round(y / (h + 4))];
      const around = [-1, 0, 1].flatMap((a) => [-1, 0, 1].map((b) => `${column + a},${row + b}`));
      if (around.some((key) => taken.has(key))) continue;  // no picture covers another
      taken.add(`${column},${row}`);
      const inside = place % inSheet, code = coloring.codes[i];
      context.fillStyle = code === UNKNOWN ? GRAY : coloring.colors[code];
      context.fillRect(x - 3, y - 3, w + 6, h + 6);
      context.drawImage(sheets[Math.floor(place / inSheet)], (inside % inLine) * w, Math.floor(inside / inLine) * h, w, h, x, y, w, h);
    }
  }
  function ring(i, size, color) {
    context.beginPath();
    context.arc(toX(i), toY(i), size, 0, 2 * Math.PI);
    context.lineWidth = 2.5;
    context.strokeStyle = color;
    context.stroke();
  }
  function draw() {
    if (!pixels) return;
    const begin = performance.now(), style = getComputedStyle(document.documentElement), zoom = view.side / view.fit;
    const radius = Math.min((count > 20000 ? 1.6 : count > 3000 ? 2.4 : 3.4) * Math.pow(zoom, 0.4), 7);
    if (isStale) {
      const paper = pack(style.getPropertyValue("--card").trim()), colors = [...coloring.colors, GRAY].map(pack);
      const isAll = !words.length && !picked.size;
      pixels.fill(paper);
      if (!isAll) drawPoints(makeStamp(Math.max(radius * 0.8, 1) * ratio), colors.map((color) => mix(paper, color, 0.13)), 0);
      drawPoints(makeStamp((isAll ? radius : radius * 1.25) * ratio), colors, 1);
      isStale = false;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(picture, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (find("pictures").checked) drawStills();
    const ink = style.getPropertyValue("--ink").trim();
    if (chosen >= 0) ring(chosen, radius + 6, ink);
    if (hovered >= 0) ring(hovered, radius + 4, ink);
    canvas.dataset.drawMs = (performance.now() - begin).toFixed(2);
    canvas.dataset.draws = Number(canvas.dataset.draws || 0) + 1;
  }
  let isScheduled = false, isStale = true;
  function schedule({ onlyRings = false } = {}) {  // onlyRings: the points stay as they were drawn
    isStale ||= !onlyRings;
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => { isScheduled = false; draw(); });
  }
  function zoomBy(factor, x = width / 2, y = height / 2) {
    const side = Math.min(Math.max(view.side * factor, view.fit / 2), view.fit * 400);
    view.left = x - ((x - view.left) * side) / view.side;
    view.top = y - ((y - view.top) * side) / view.side;
    view.side = side;
    schedule();
  }
  function findNearest(x, y) {  // of the lit points within reach; -1: none
    const cell = (value) => Math.min(Math.max(Math.floor(value * CELLS), 0), CELLS - 1);
    const columns = [x - REACH_PX, x + REACH_PX].map((value) => cell((value - view.left) / view.side));
    const rows = [y + REACH_PX, y - REACH_PX].map((value) => cell(1 - (value - view.top) / view.side));
    let nearest = -1, best = REACH_PX ** 2;
    for (let row = rows[0]; row <= rows[1]; row++) {
      const end = cellStarts[row * CELLS + columns[1] + 1];
      for (let k = cellStarts[row * CELLS + columns[0]]; k < end; k++) {
        const i = inCells[k], distance = (toX(i) - x) ** 2 + (toY(i) - y) ** 2;
        if (lit[i] && distance < best) [nearest, best] = [i, distance];
      }
    }
    return nearest;
  }

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  }
  const getPath = (i) => data.paths[videos[i]], getName = (i) => getPath(i).split("/").pop();
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  const getSpan = (i) => (isNaN(starts[i]) && isNaN(ends[i]) ? "" : `${clock(starts[i] || 0)}-${isNaN(ends[i]) ? "end" : clock(ends[i])}`);
  const nameCode = (one, i) => (one.codes[i] === UNKNOWN ? "" : one.names[one.codes[i]]);
  const encode = (path) => path.split("/").map(encodeURIComponent).join("/");
  const closed = new Set(data.closed);
  function getUrl(i) {
    const path = getPath(i);
    if (closed.has(videos[i])) return "";
    if (/^https?:/i.test(path)) return path.split("#")[0];
    if (/^file:/i.test(path)) return "file://" + encode(path.slice(7));
    return /^[a-z][a-z0-9+.-]+:\/\//i.test(path) ? "" : data.url + encode(path);
  }
  const getPlayed = (i) => (PLAYED.test(getPath(i)) ? getUrl(i) : "");
  const getRange = (i) => (getSpan(i) ? `#t=${(starts[i] || 0).toFixed(2)}${isNaN(ends[i]) ? "" : `,${ends[i].toFixed(2)}`}` : "");

  // The tip: at once the still of the page, if there is one; the video's own frame when the pointer rests.
  const tipStill = tip.querySelector("canvas"), tipVideo = tip.querySelector("video");
  let tipTimer = 0;
  function showTip(i, x, y) {
    if (i !== hovered) {
      hovered = i;
      canvas.classList.toggle("on-point", i >= 0);
      schedule({ onlyRings: true });
      clearTimeout(tipTimer);
      tipVideo.hidden = true;
      tip.hidden = i < 0;
      if (i < 0) return;
      const place = stillOf.get(i), { width: w, height: h, in_line: inLine, in_sheet: inSheet } = data.stills;
      const inside = place % inSheet, address = getPlayed(i);
      tipStill.hidden = place === undefined;
      tip.querySelector(".media").hidden = tipStill.hidden && !address;
      if (!tipStill.hidden)
        tipStill.getContext("2d").drawImage(sheets[Math.floor(place / inSheet)], (inside % inLine) * w, Math.floor(inside / inLine) * h, w, h, 0, 0, w, h);
      tip.querySelector(".name").textContent = getName(i);
      tip.querySelector(".soft").textContent = [nameCode(coloring, i), getSpan(i)].filter(Boolean).join(", ");
      if (address) tipTimer = setTimeout(() => {
        const middle = isNaN(ends[i]) ? starts[i] || 0 : ((starts[i] || 0) + ends[i]) / 2;
        tipVideo.src = `${address}#t=${middle.toFixed(2)}`;
      }, 120);
    }
    if (i < 0) return;
    tip.style.left = `${x + 232 > width ? Math.max(x - 228, 4) : x + 16}px`;
    tip.style.top = `${Math.min(Math.max(y - 60, 4), Math.max(height - tip.offsetHeight - 4, 4))}px`;
  }
  tipVideo.addEventListener("error", () => { tip.querySelector(".media").hidden = tipStill.hidden; });
  tipVideo.addEventListener("loadeddata", () => { tipVideo.hidden = hovered < 0; });

  function choose(i) {
    chosen = i;
    const place = find("clip"), address = getPlayed(i), link = getUrl(i), chips = make("div", "chips");
    for (const one of colorings) if (nameCode(one, i)) chips.append(make("span", "chip", `${one.title}: ${nameCode(one, i)}`));
    if (getSpan(i)) chips.append(make("span", "chip", getSpan(i)));
    place.replaceChildren();
    if (address) {
      const video = Object.assign(make("video"), { controls: true, playsInline: true, src: address + getRange(i) });
      video.addEventListener("error", () => video.replaceWith(make("p", "soft", "This video no longer exists, or the browser cannot play it.")));
      place.append(video);
      video.play().catch(() => {});
    } else if (link) {
      const other = make("p", "soft", "Browsers do not play this file. "), anchor = make("a", "", "Open it in a player.");
      anchor.href = link;
      other.append(anchor);
      place.append(other);
    } else place.append(make("p", "soft", "Browsers do not open this address."));
    place.append(make("p", "name", getName(i)), chips, make("p", "path", /^[a-z][a-z0-9+.-]+:\/\//i.test(getPath(i)) ? getPath(i) : data.folder + getPath(i)));
    schedule();
  }

  // Search and legend: what is not meant is drawn faintly.
  let lowered = null;
  function filter() {
    lowered ??= data.paths.map((path) => path.toLowerCase());
    const searched = colorings.filter((one) => one === coloring || one.title !== "cluster");  // these name classes too
    const classes = searched.map((one) => words.map((word) => one.names.map((name) => name.toLowerCase().includes(word))));
    const inPath = words.map((word) => lowered.map((path) => path.includes(word)));
    let num = 0;
    for (let i = 0; i < count; i++) {
      let isMeant = !picked.size || picked.has(coloring.codes[i]);
      for (let w = 0; w < words.length && isMeant; w++)
        isMeant = inPath[w][videos[i]] || searched.some((one, c) => one.codes[i] !== UNKNOWN && classes[c][w][one.codes[i]]);
      lit[i] = isMeant ? 1 : 0;
      num += lit[i];
    }
    const isAll = !words.length && !picked.size;
    find("count").textContent = isAll ? "" : `${num.toLocaleString("en")} of ${count.toLocaleString("en")} clips`;
    find("found").hidden = isAll;
    if (!isAll) listFound(num);
    schedule();
  }
  function listFound(num) {
    const items = [];
    for (let i = 0; i < count && items.length < MAX_LISTED; i++) {
      if (!lit[i]) continue;
      const item = make("li"), button = make("button", "link", getPath(i));
      button.type = "button";
      button.addEventListener("click", () => choose(i));
      item.append(button, make("span", "soft", ` ${[nameCode(coloring, i), getSpan(i)].filter(Boolean).join(", ")}`));
      items.push(item);
    }
    if (num > items.length) items.push(make("li", "soft", `and ${(num - items.length).toLocaleString("en")} more`));
    find("found").querySelector("ul").replaceChildren(...items);
  }
  function makeLegend() {
    const sizes = new Uint32Array(UNKNOWN + 1);
    for (let i = 0; i < count; i++) sizes[coloring.codes[i]]++;
    const codes = [...coloring.names.keys(), ...(sizes[UNKNOWN] ? [UNKNOWN] : [])];
    legend.replaceChildren(...codes.map((code) => {
      const item = make("li"), button = make("button"), dot = make("span", "dot");
      dot.style.background = code === UNKNOWN ? GRAY : coloring.colors[code];
      button.type = "button";
      button.setAttribute("aria-pressed", picked.has(code));
      button.append(dot, make("span", "", code === UNKNOWN ? "unknown" : coloring.names[code]), make("span", "soft", sizes[code].toLocaleString("en")));
      button.addEventListener("click", () => {
        if (!picked.delete(code)) picked.add(code);
        button.setAttribute("aria-pressed", picked.has(code));
        filter();
      });
      item.append(button);
      return item;
    }));
    find("legend-heading").textContent = coloring.title[0].toUpperCase() + coloring.title.slice(1);
  }
  let findTimer = 0;
  find("find").addEventListener("input", ({ target }) => {
    clearTimeout(findTimer);
    findTimer = setTimeout(() => { words = target.value.toLowerCase().split(/\s+/).filter(Boolean); filter(); }, 80);
  });
  find("bar").addEventListener("submit", (event) => event.preventDefault());
  find("pictures").addEventListener("change", () => schedule());
  find("pictures").closest("label").hidden = !stillRows.length;
  find("color").addEventListener("change", ({ target }) => {
    coloring = colorings[Number(target.value)];
    picked.clear();
    makeLegend();
    filter();
  });
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => {
      if (button.dataset.zoom === "all") { fitAll(); schedule(); } else zoomBy(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
    });

  const getPlace = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = getPlace(event);
    drag = { x, y, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = getPlace(event);
    if (!drag) return showTip(findNearest(x, y), x, y);
    drag.moved += Math.abs(x - drag.x) + Math.abs(y - drag.y);
    if (drag.moved < 4) return;
    canvas.classList.add("dragged");
    showTip(-1);
    view.left += x - drag.x;
    view.top += y - drag.y;
    [drag.x, drag.y] = [x, y];
    schedule();
  });
  canvas.addEventListener("pointerup", (event) => {
    const [x, y] = getPlace(event), isClick = drag && drag.moved < 4, nearest = isClick ? findNearest(x, y) : -1;
    drag = null;
    canvas.classList.remove("dragged");
    if (nearest >= 0) choose(nearest);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { if (!drag) showTip(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    showTip(-1);
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...getPlace(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (steps) { view.left += steps[0]; view.top += steps[1]; schedule(); }
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") { fitAll(); schedule(); }
    else return;
    event.preventDefault();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => schedule());
  for (const sheet of sheets) sheet.addEventListener("load", () => schedule());
  new ResizeObserver(resize).observe(plane);
  makeLegend();
})();
