// Draws Bokeh's plots, in the colors of the page: light, dark, or on paper.
"use strict";
(() => {
  const look = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  };
  function paint() {
    const color = look(), soft = color("soft"), line = color("line"), card = color("card");
    const font = getComputedStyle(document.body).fontFamily;
    const wanted = {
      major_label_text_font: font, axis_label_text_font: font, label_text_font: font, title_text_font: font,
      major_label_text_color: soft, axis_label_text_color: soft, label_text_color: soft, title_text_color: soft,
      axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null, grid_line_color: line,
    };
    for (const model of Bokeh.documents.flatMap((doc) => [...doc.all_models])) {
      const change = {};
      for (const [key, value] of Object.entries(wanted)) if (key in model.properties) change[key] = value;
      if (model.type === "Title") Object.assign(change, { text_color: color("ink"), text_font: font });
      if (model.type === "Legend") Object.assign(change, { background_fill_color: card, border_line_color: null });
      for (const tag of model.tags)  // such as "line_color:ink"
        if (typeof tag === "string" && tag.includes(":")) change[tag.split(":")[0]] = color(tag.split(":")[1]);
      model.setv(change);
    }
  }
  const drawn = [...document.querySelectorAll("script[data-plot]")].map((item) =>
    Bokeh.embed.embed_item(JSON.parse(item.textContent), document.querySelector(`#plot-${item.dataset.plot} .canvas`)));
  window.plotsDrawn = Promise.all(drawn).then(() => { paint(); document.documentElement.dataset.plots = "drawn"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  matchMedia("print").addEventListener("change", paint);
})();
