// A picture with boxes to drag. Python sends `picture` and `scene`; this sends {boxes, count, key} back, one message at
// a time. Where `scene.drawable` says that boxes come and go, {event: "draw" | "delete" | "choose", ...} goes with it.
// `key` says of what picture the boxes are, `count` which of the moves Python has seen.
// Pixels of the picture are the units of the SVG; `frame` and `view` map them to the units of the axes.
const SVG = "http://www.w3.org/2000/svg";
const CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]];
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELP = "Arrow keys move it, with Shift they move its lower right corner, with Alt in steps of ten.";

function make(tag, attributes, parent) {
  const plain = ["div", "p", "img"].includes(tag);
  const node = plain ? document.createElement(tag) : document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function render({ model, el }) {
  const holder = make("div", { class: "coursekit-board" }, el);
  const image = make("img", {}, holder);
  const svg = make("svg", {}, holder);
  const text = make("p", { class: "coursekit-readout", role: "status", "aria-live": "polite" }, el);

  let scene = model.get("scene"), boxes = [], nodes = [], count = 0, waiting = false, late = null;
  let shown = null, address = null;  // the picture, as bytes and as a blob's URL
  const stale = [];

  const spot = (event) => {  // the pointer, in pixels of the picture
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  };
  const units = (event) => {  // the pointer, in units of the axes
    const [x, y] = spot(event), [left, top, right, bottom] = scene.frame, [x0, y0, x1, y1] = scene.view;
    return [x0 + (x - left) / (right - left) * (x1 - x0), y0 + (y - top) / (bottom - top) * (y1 - y0)];
  };
  const pixels = ([x1, y1, x2, y2]) => {
    const [left, top, right, bottom] = scene.frame, [a, b, c, d] = scene.view;
    const across = (x) => left + (x - a) / (c - a) * (right - left), down = (y) => top + (y - b) / (d - b) * (bottom - top);
    return [across(x1), down(y1), across(x2), down(y2)];
  };
  const hit = (event) => {  // what lies there: the nearest corner, else the smallest box, or nothing
    const [x, y] = spot(event), found = { index: null, corner: null };
    let nearest = 10, least = Infinity;
    boxes.forEach((box, index) => {
      const edges = pixels(box), area = (edges[2] - edges[0]) * (edges[3] - edges[1]);
      CORNERS.forEach(([h, v], corner) => {
        const far = Math.hypot(edges[h] - x, edges[v] - y);
        if (far < nearest) { nearest = far; Object.assign(found, { index, corner }); }
      });
      const inside = edges[0] <= x && x <= edges[2] && edges[1] <= y && y <= edges[3];
      if (inside && area < least && found.corner === null) { least = area; found.index = index; }
    });
    return found;
  };
  const snap = (value) => Math.round(value / scene.step) * scene.step;

  const send = (more = {}) => {  // while Python is busy only the latest is remembered
    const message = { boxes, count: ++count, key: scene.key, ...more };
    if (waiting && !more.event) { late = message; return; }
    late = null;
    waiting = true;
    model.send(message);
  };

  const place = (index) => {
    const node = nodes[index], [x1, y1, x2, y2] = pixels(boxes[index]), look = scene.looks[index];
    for (const rect of node.querySelectorAll("rect.line, rect.halo")) {
      rect.setAttribute("x", x1); rect.setAttribute("y", y1);
      rect.setAttribute("width", Math.max(0, x2 - x1)); rect.setAttribute("height", Math.max(0, y2 - y1));
    }
    node.querySelectorAll("circle").forEach((circle, corner) => {
      const edges = [x1, y1, x2, y2];
      circle.setAttribute("cx", edges[CORNERS[corner][0]]);
      circle.setAttribute("cy", edges[CORNERS[corner][1]]);
    });
    const name = node.querySelector("text"), plate = node.querySelector("rect.plate");
    const above = y1 > 18;
    name.setAttribute("x", x1 + 8); name.setAttribute("y", above ? y1 - 5 : y1 + 16);
    plate.setAttribute("x", x1 + 4); plate.setAttribute("y", above ? y1 - 17 : y1 + 4);
    plate.setAttribute("width", look.name ? 8 + 7 * look.name.length : 0);
    const shown = boxes[index].map((value) => +value.toFixed(2));
    node.setAttribute("aria-label", `Box ${look.name}: x ${shown[0]} to ${shown[2]}, y ${shown[1]} to ${shown[3]}. ${HELP}`);
  };

  const change = (index, box) => {
    if (boxes[index].every((value, side) => value === box[side])) return;
    boxes = boxes.with ? boxes.with(index, box) : boxes.map((old, i) => (i === index ? box : old));
    place(index);
    send();
  };

  const moved = (box, dx, dy) => {
    const [x1, y1, x2, y2] = box, [width, height] = scene.limits;
    dx = clamp(snap(dx), -x1, width - x2); dy = clamp(snap(dy), -y1, height - y2);
    return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  };
  const resized = (box, corner, dx, dy) => {
    const next = [...box], [h, v] = CORNERS[corner], step = scene.step, [width, height] = scene.limits;
    next[h] = h === 0 ? clamp(box[0] + snap(dx), 0, box[2] - step) : clamp(box[2] + snap(dx), box[0] + step, width);
    next[v] = v === 1 ? clamp(box[1] + snap(dy), 0, box[3] - step) : clamp(box[3] + snap(dy), box[1] + step, height);
    return next;
  };

  const drag = (event, index, corner) => {
    nodes[index].focus({ preventScroll: true });
    const [startX, startY] = units(event), before = boxes[index];
    const move = (e) => {
      const [x, y] = units(e);
      change(index, corner === null ? moved(before, x - startX, y - startY) : resized(before, corner, x - startX, y - startY));
    };
    follow(event, move);
  };
  const follow = (event, move, end = () => {}) => {
    svg.setPointerCapture(event.pointerId);
    const stop = () => { svg.removeEventListener("pointermove", move); svg.removeEventListener("pointerup", stop);
      svg.removeEventListener("pointercancel", stop); end(); };
    svg.addEventListener("pointermove", move); svg.addEventListener("pointerup", stop); svg.addEventListener("pointercancel", stop);
  };

  const key = (event, index) => {
    if (scene.drawable && (event.key === "Delete" || event.key === "Backspace")) {
      send({ event: "delete", index });
    } else if (KEYS[event.key]) {
      const by = scene.step * (event.altKey ? 10 : 1), [dx, dy] = KEYS[event.key].map((side) => side * by);
      change(index, event.shiftKey ? resized(boxes[index], 2, dx, dy) : moved(boxes[index], dx, dy));
    } else return;
    event.preventDefault(); event.stopPropagation();
  };

  const build = () => {  // the boxes' nodes; kept while only their places change, so that focus and drags go on
    svg.replaceChildren();
    nodes = scene.looks.map((look, index) => {
      const node = make("g", { tabindex: 0, role: "application", "aria-roledescription": "box to drag" }, svg);
      make("rect", { class: "halo", fill: "none", stroke: "#fff", "stroke-opacity": .75, "stroke-width": look.width + 3 }, node);
      make("rect", { class: "line", fill: "none", stroke: look.color, "stroke-width": look.width, "stroke-dasharray": look.dash }, node);
      make("rect", { class: "plate", fill: look.color, height: 15, rx: 2 }, node);
      make("text", { fill: look.ink, "font-size": 11, "font-family": "sans-serif" }, node).textContent = look.name;
      CORNERS.forEach(() => make("circle", { r: 5, stroke: look.color }, node));
      node.addEventListener("keydown", (event) => key(event, index));
      node.addEventListener("focus", () => { if (scene.drawable && scene.chosen !== index) send({ event: "choose", index }); });
      return node;
    });
  };

  svg.addEventListener("pointermove", (event) => {
    if (event.buttons) return;
    const { index, corner } = hit(event);
    const slant = corner === 0 || corner === 2 ? "nwse-resize" : "nesw-resize";
    svg.style.cursor = index === null ? (scene.drawable ? "crosshair" : "default") : corner === null ? "move" : slant;
  });
  svg.addEventListener("pointerdown", (event) => {
    const { index, corner } = hit(event);
    if (event.button || (index === null && !scene.drawable)) return;
    event.preventDefault();
    if (index !== null) drag(event, index, corner);
    else drawNew(event);
  });
  const drawNew = (event) => {
    const [width, height] = scene.limits;
    const inside = ([x, y]) => [clamp(snap(x), 0, width), clamp(snap(y), 0, height)];
    const start = inside(units(event));
    const ghost = make("rect", { fill: "none", stroke: "#000", "stroke-width": 2, "stroke-dasharray": "4 3" }, svg);
    let box = null;
    follow(event, (e) => {
      const [x, y] = inside(units(e));
      box = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
      const [x1, y1, x2, y2] = pixels(box);
      for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) ghost.setAttribute(name, value);
    }, () => {
      ghost.remove();
      if (box && box[2] - box[0] >= 2 && box[3] - box[1] >= 2) send({ event: "draw", box });
    });
  };

  const draw = () => {
    const old = scene;
    scene = model.get("scene");
    if (!scene.size) return;
    const [width, height] = scene.size;
    holder.style.width = `${width}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    holder.style.aspectRatio = `${width} / ${height}`;
    svg.style.touchAction = scene.drawable || scene.looks.length ? "none" : "auto";
    if (model.get("picture") !== shown) {
      shown = model.get("picture");
      if (address) stale.push(address);
      address = URL.createObjectURL(new Blob([shown], { type: "image/png" }));
      image.onload = () => stale.splice(0).forEach((old) => URL.revokeObjectURL(old));  // until then they may be shown
      image.src = address;
    }
    image.alt = scene.alt;
    text.textContent = scene.text;
    if (nodes.length === 0 || JSON.stringify(scene.looks) !== JSON.stringify(old.looks)) build();
    // else the pointer is ahead of Python
    if (scene.count >= count || scene.key !== old.key || boxes.length !== scene.boxes.length) {
      boxes = scene.boxes;
      count = Math.max(count, scene.count);
    }
    boxes.forEach((_, index) => place(index));
    if (scene.focus !== old.focus) nodes[scene.focus]?.focus({ preventScroll: true });
    waiting = false;
    if (late) { const message = late; late = null; waiting = true; model.send(message); }
  };
  model.on("change:scene", draw);
  draw();
  const attend = () => {  // once this and the controls are in the page
    const panel = el.closest(".coursekit-explorer");
    if (!panel) return;
    // without this, JupyterLab takes the arrow keys of sliders and boxes for its own
    panel.setAttribute("data-lm-suppress-shortcuts", "true");
    // ipywidgets' sliders tell a screen reader their value, but not what it is of
    for (const slider of panel.querySelectorAll("[role=slider]"))
      slider.setAttribute("aria-label", slider.closest(".widget-inline-hbox")?.querySelector(".widget-label")?.textContent ?? "");
  };
  const watch = new IntersectionObserver(attend);
  watch.observe(holder);
  return () => { watch.disconnect(); model.off("change:scene", draw); if (address) URL.revokeObjectURL(address); };
}

export default { render };
