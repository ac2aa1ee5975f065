// Draws Bokeh's plots, in the colors of the page: light, dark, or on paper.
"use strict";
(() => {
  const PAPER = { ink: "#000000", soft: "#444444", line: "#cccccc" };
  const look = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  };
  function paint(color = look()) {
    const soft = color("soft"), line = color("line");
    const font = getComputedStyle(document.body).fontFamily;
    const wanted = {
      major_label_text_font: font, axis_label_text_font: font, label_text_font: font, title_text_font: font,
      major_label_text_color: soft, axis_label_text_color: soft, label_text_color: soft, title_text_color: soft,
      axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null, grid_line_color: line,
    };
    for (const model of Bokeh.documents.flatMap((doc) => [...doc.all_models])) {
      if (model.type === "Legend") continue;  // it takes its time to draw itself anew, and is readable on light and dark
      const change = {};
      for (const [key, value] of Object.entries(wanted)) if (key in model.properties) change[key] = value;
      if (model.type === "Title") Object.assign(change, { text_color: color("ink"), text_font: font });
      for (const tag of model.tags)  // such as "line_color:ink"
        if (typeof tag === "string" && tag.includes(":")) change[tag.split(":")[0]] = color(tag.split(":")[1]);
      model.setv(change);
    }
  }
  const drawn = [...document.querySelectorAll("script[data-plot]")].map((item) =>
    Bokeh.embed.embed_item(JSON.parse(item.textContent), document.querySelector(`#plot-${item.dataset.plot} .canvas`)));
  window.plotsDrawn = Promise.all(drawn).then(() => { paint(); document.documentElement.dataset.plots = "drawn"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());

  // Printers do not wait until a plot is drawn anew, for the width and the colors of the paper: they get a picture of it.
  addEventListener("beforeprint", () => {
    paint((name) => PAPER[name]);
    for (const view of Bokeh.index) {
      const figure = view.el.closest(".plot");
      if (!figure) continue;
      const picture = document.createElement("img");
      picture.className = "on-paper";
      picture.alt = figure.getAttribute("aria-label");
      picture.src = view.export("png", false).canvas.toDataURL();
      figure.append(picture);
    }
  });
  addEventListener("afterprint", () => {
    for (const picture of document.querySelectorAll(".on-paper")) picture.remove();
    paint();
  });
})();
