"use strict";
// Sorts tables, moves the drawing of the network, and shows the details of a layer. Without this script, only the
// histograms are missing from the page. Names of layers come from a file, so they are inserted as text, never as markup.
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // ---- Sorting: a click on a heading sorts, and a second click reverses the order.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell ? cell.dataset.v ?? cell.textContent.trim() : "";
    if (text === "" || text === "–") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const before = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : direction * before(a, b)));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of all("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending ? 1 : -1);
      });
    });
  }

  // ---- A print opens all sections.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((each) => (each.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((each) => (each.open = false)));

  // ---- The selected precision of the table of layers.
  const table = document.querySelector("table.layers");
  const choice = document.querySelector("#layer-precision");
  if (table && choice) choice.addEventListener("change", () => (table.dataset.shown = choice.value));

  // ---- The drawing: drag to move, wheel or buttons to zoom, a click shows a layer.
  const svg = document.querySelector("svg.network");
  const panel = document.querySelector("#layer");
  const source = document.querySelector("#layer-data");
  const layers = source ? JSON.parse(source.textContent) : [];
  const view = { x: 0, y: 0, w: 1, h: 1 };
  const show = () => svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const shape = () => {
    const box = svg.getBoundingClientRect();
    return box.width && box.height ? box.height / box.width : 1;
  };
  const zoom = (factor, x = view.x + view.w / 2, y = view.y + view.h / 2) => {
    const width = Math.min(Math.max(view.w * factor, 120), 100000);
    const by = width / view.w;
    Object.assign(view, { x: x - (x - view.x) * by, y: y - (y - view.y) * by, w: width, h: view.h * by });
    show();
  };
  const start = () => {
    const [width] = svg.dataset.size.split(" ").map(Number);
    // Show the top of the network at a readable size. The buttons show the rest.
    view.w = Math.max(Math.min(width + 40, 1100), svg.getBoundingClientRect().width * 0.9);
    view.h = view.w * shape();
    view.x = (width - view.w) / 2;
    view.y = -20;
    show();
  };
  const whole = () => {
    const [width, height] = svg.dataset.size.split(" ").map(Number);
    view.w = Math.max(width + 40, (height + 40) / shape());
    view.h = view.w * shape();
    view.x = (width - view.w) / 2;
    view.y = (height - view.h) / 2;
    show();
  };
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return [view.x + ((event.clientX - box.left) / box.width) * view.w,
      view.y + ((event.clientY - box.top) / box.height) * view.h];
  };
  const centre = (node) => {
    const [, x, y] = node.getAttribute("transform").match(/\(([-\d.]+) ([-\d.]+)\)/).map(Number);
    view.x = x + 74 - view.w / 2;
    view.y = y + 13 - view.h / 2;
    show();
  };
  if (svg) {
    start();
    all("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
      if (button.dataset.zoom === "all") whole();
      else zoom(Number(button.dataset.zoom));
    }));
    svg.addEventListener("wheel", (event) => {
      // The wheel scrolls the page. With Ctrl, or with two fingers, it zooms the drawing.
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, ...at(event));
    }, { passive: false });
    let from = null;
    let moved = false;
    svg.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      moved = false;
    });
    addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      moved = true;
      const by = view.w / svg.getBoundingClientRect().width;
      view.x -= dx * by;
      view.y -= dy * by;
      from = [event.clientX, event.clientY];
      show();
    });
    addEventListener("pointerup", () => (from = null));
    addEventListener("pointercancel", () => (from = null));
    svg.addEventListener("click", (event) => {
      const node = event.target.closest("[data-layer]");
      if (node && !moved) select(Number(node.dataset.layer), false);
    });
    svg.addEventListener("keydown", (event) => {
      const node = event.target.closest("[data-layer]");
      if (node && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        select(Number(node.dataset.layer), false);
      }
    });
  }
  if (table) {
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !String(getSelection())) select(Number(row.dataset.layer), true);
    });
  }

  // ---- One layer.
  const written = (number) => (number === 0 ? "0" : Number(number.toPrecision(3)).toString());
  const element = (name, text, parent) => {
    const made = document.createElement(name);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const histogram = (title, [low, high, counts], marks) => {
    const names = "http://www.w3.org/2000/svg";
    const figure = document.createElement("figure");
    const left = Math.min(low, ...marks.map(([x]) => x));
    const right = Math.max(high, ...marks.map(([x]) => x));
    const across = (x) => (right > left ? (300 * (x - left)) / (right - left) : 0);
    const made = (name, attributes, parent, text) => {
      const node = document.createElementNS(names, name);
      Object.entries(attributes).forEach(([key, each]) => node.setAttribute(key, each));
      if (text !== undefined) node.textContent = text;
      parent.append(node);
      return node;
    };
    const drawn = made("svg", { class: "histogram", viewBox: "-8 -16 316 136", role: "img", "aria-label": title }, figure);
    // Square roots, because a few bins have nearly all values, and clipping concerns the others.
    const most = Math.sqrt(Math.max(...counts, 1));
    const width = (high - low) / counts.length;
    counts.forEach((count, i) => {
      const height = (90 * Math.sqrt(count)) / most;
      const x = across(low + i * width);
      made("rect", { class: "bar", x, y: 100 - height, width: Math.max(across(low + (i + 1) * width) - x - 0.5, 0.5),
        height }, drawn);
    });
    marks.forEach(([x, text]) => {
      made("line", { class: "mark", x1: across(x), x2: across(x), y1: 0, y2: 100 }, drawn);
      const anchor = across(x) < 60 ? "start" : across(x) > 240 ? "end" : "middle";
      made("text", { class: "tick", x: across(x), y: -4, "text-anchor": anchor }, drawn, text);
    });
    made("text", { class: "tick", x: across(low), y: 115, "text-anchor": "start" }, drawn, written(low));
    made("text", { class: "tick", x: across(high), y: 115, "text-anchor": "end" }, drawn, written(high));
    element("figcaption", title, figure);
    return figure;
  };
  const select = (index, move) => {
    const layer = layers[index];
    if (!layer) return;
    all(".chosen").forEach((each) => each.classList.remove("chosen"));
    all(`[data-layer="${index}"], [data-from="${index}"], [data-to="${index}"]`)
      .forEach((each) => each.classList.add("chosen"));
    const node = svg && svg.querySelector(`[data-layer="${index}"]`);
    if (node && move) centre(node);
    panel.replaceChildren();
    element("h3", layer.name, panel);
    const facts = [layer.type];
    if (layer.shape) facts.push(layer.shape.join(" × "));
    if (layer.parameters) facts.push(`${layer.parameters.toLocaleString("en")} parameters`);
    element("p", facts.join(", "), panel);
    if (layer.reads.length) element("p", `reads ${layer.reads.join(", ")}`, panel).className = "quiet";
    const row = table && table.querySelector(`tr[data-layer="${index}"]`);
    if (row && row.cells[row.cells.length - 1].textContent.trim())
      element("p", row.cells[row.cells.length - 1].textContent.trim(), panel);
    const int8 = layer.int8;
    if (!int8) return;
    element("p", `int8 holds inputs from ${written(int8.low)} to ${written(int8.high)}; code 0 is `
      + `${written(int8.zero)}. A code of a weight is ${written(int8.steps[0])} to ${written(int8.steps[1])}, by `
      + "channel.", panel);
    const marks = [[int8.low, "threshold"], [int8.high, "threshold"]].filter(([x]) => x >= 0);
    if (int8.zero) marks.push([int8.zero, "zero point"]);
    if (int8.inputs) panel.append(histogram("Absolute values of the input (bar height: square root of the count)", int8.inputs, marks));
    panel.append(histogram("Weights in fp32 (bar height: square root of the count)", int8.weights, []));
  };
})();
