// The threshold explorer: drag a threshold, see map, contours, box and IoU. Plain JavaScript; its data stand in birds.js.
(() => {
  "use strict";
  const data = window.LCA_EXPLORER, SIDE = 224, GRID = 14;
  if (!data) return; // the picture stays

  const el = (tag, attrs = {}, ...children) => {
    const e = document.createElementNS(attrs.svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
    for (const [k, v] of Object.entries(attrs)) if (k !== "svg") e.setAttribute(k, v);
    e.append(...children);
    return e;
  };

  // ---- the package's arithmetic: enlarge bilinearly as OpenCV does, stretch to [0, 1], cut into 256 levels
  const levelsOf = (map) => {
    const at = Array.from({ length: SIDE }, (_, i) => {
      const x = (i + 0.5) * GRID / SIDE - 0.5, low = Math.floor(x);
      return [Math.max(0, low), Math.min(GRID - 1, low + 1), x - low];
    });
    const big = new Float64Array(SIDE * SIDE);
    let lowest = Infinity, highest = -Infinity;
    for (let y = 0; y < SIDE; y++) for (let x = 0; x < SIDE; x++) {
      const [y0, y1, fy] = at[y], [x0, x1, fx] = at[x];
      const top = map[y0 * GRID + x0] * (1 - fx) + map[y0 * GRID + x1] * fx;
      const low = map[y1 * GRID + x0] * (1 - fx) + map[y1 * GRID + x1] * fx;
      const v = top * (1 - fy) + low * fy;
      big[y * SIDE + x] = v;
      lowest = Math.min(lowest, v);
      highest = Math.max(highest, v);
    }
    const span = highest - lowest || 1;
    return Uint8Array.from(big, (v) => Math.floor(255 * (v - lowest) / span));
  };
  const area = ([x0, y0, x1, y1]) => (x1 - x0 + 1) * (y1 - y0 + 1); // both corners inside
  const iouOf = (a, b) => {
    const w = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]) + 1), h = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]) + 1);
    return w * h / (area(a) + area(b) - w * h);
  };

  const heat = data.heat.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const pictures = new Map();
  const pictureOf = (scene) => { // decoded once
    if (!pictures.has(scene)) {
      const image = new Image();
      pictures.set(scene, image.decode ? Object.assign(image, { src: scene.image }).decode().then(() => image) : Promise.resolve(image));
    }
    return pictures.get(scene);
  };
  const cache = new Map();
  const viewOf = (scene, method) => { // levels, boxes and IoU of every threshold
    const view = scene.methods[method];
    if (!cache.has(view)) {
      const levels = levelsOf(view.map), top = levels.reduce((a, b) => Math.max(a, b), 0);
      const boxes = data.thresholds.map((_, i) => view.boxes.slice(4 * i, 4 * i + 4));
      cache.set(view, { levels, top, boxes, iou: boxes.map((b) => iouOf(b, scene.truth)) });
    }
    return cache.get(view);
  };

  // ---- drawing
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const paintPixels = (ctx, levels, colour) => { // through a small canvas, so that it scales
    const p = small.getContext("2d"), pixels = p.createImageData(SIDE, SIDE);
    levels.forEach((v, i) => pixels.data.set(colour(v), 4 * i));
    p.putImageData(pixels, 0, 0);
    ctx.drawImage(small, 0, 0, ctx.canvas.width, ctx.canvas.height);
  };
  const outline = (ctx, levels, cut, k) => {
    const inside = (x, y) => x >= 0 && y >= 0 && x < SIDE && y < SIDE && levels[y * SIDE + x] > cut;
    ctx.beginPath();
    for (let y = 0; y < SIDE; y++) for (let x = 0; x < SIDE; x++) {
      if (!inside(x, y)) continue;
      if (!inside(x - 1, y)) { ctx.moveTo(x * k, y * k); ctx.lineTo(x * k, (y + 1) * k); }
      if (!inside(x + 1, y)) { ctx.moveTo((x + 1) * k, y * k); ctx.lineTo((x + 1) * k, (y + 1) * k); }
      if (!inside(x, y - 1)) { ctx.moveTo(x * k, y * k); ctx.lineTo((x + 1) * k, y * k); }
      if (!inside(x, y + 1)) { ctx.moveTo(x * k, (y + 1) * k); ctx.lineTo((x + 1) * k, (y + 1) * k); }
    }
    ctx.strokeStyle = "#ffffff";
    ctx.lineWidth = k * 0.9;
    ctx.stroke();
  };
  const frame = (ctx, box, k, colour, dash) => {
    const [x0, y0, x1, y1] = box;
    for (const [width, style] of [[k * 3.4, "#000000b0"], [k * 1.8, colour]]) {
      ctx.setLineDash(dash ? [k * 5, k * 4] : []);
      ctx.lineWidth = width;
      ctx.strokeStyle = style;
      ctx.strokeRect(x0 * k, y0 * k, (x1 - x0 + 1) * k, (y1 - y0 + 1) * k);
    }
    ctx.setLineDash([]);
  };

  let count = 0;
  const build = (root) => {
    const id = `explorer-${count++}`, state = { bird: 0, dial: 0, method: data.methods[data.methods.length - 1], step: 0 };
    state.step = Math.round(100 * data.chosen[state.method]);

    const group = (title, key, entries) => { // entries: [value, label]
      const box = el("fieldset", { class: "ex-group" }, el("legend", {}, title));
      entries.forEach(([value, label], i) => {
        const input = el("input", { type: "radio", name: `${id}-${key}`, id: `${id}-${key}-${i}`, value });
        input.checked = state[key] === value;
        input.addEventListener("change", () => { state[key] = value; update(); });
        box.append(el("label", { for: input.id }, input, el("span", {}, label)));
      });
      return box;
    };
    const canvas = () => el("canvas", { width: 2 * SIDE, height: 2 * SIDE, role: "img" });
    const left = canvas(), right = canvas();
    const slider = el("input", { type: "range", id: `${id}-t`, min: 0, max: data.thresholds.length - 1, step: 1, value: state.step });
    const told = el("output", { for: slider.id, class: "ex-told", "aria-live": "polite" });
    const reset = el("button", { type: "button", class: "ex-reset" }, "the threshold chosen on val");
    const W = 640, H = 164, x = (i) => 34 + i * (W - 44) / (data.thresholds.length - 1), y = (v) => 24 + (1 - v) * (H - 48);
    const curve = el("polyline", { svg: 1, class: "ex-curve" }), cursor = el("line", { svg: 1, class: "ex-cursor", y1: y(1), y2: y(0) });
    const dot = el("circle", { svg: 1, class: "ex-dot", r: 6 }), mark = el("line", { svg: 1, class: "ex-chosen", y1: y(1), y2: y(0) });
    const text = (px, py, s, anchor) => el("text", { svg: 1, x: px, y: py, "text-anchor": anchor }, s);
    const named = text(0, y(1) - 5, "chosen on val", "start");
    const plot = el("svg", { svg: 1, viewBox: `0 0 ${W} ${H}`, class: "ex-plot", role: "img", "aria-label": "IoU at every threshold" },
      el("line", { svg: 1, class: "ex-half", x1: x(0), x2: x(99), y1: y(0.5), y2: y(0.5) }),
      el("line", { svg: 1, class: "ex-axis", x1: x(0), x2: x(99), y1: y(0), y2: y(0) }),
      text(28, y(1) + 4, "1", "end"), text(28, y(0.5) + 4, "0.5", "end"), text(28, y(0) + 4, "0", "end"), text(12, y(0.5) - 24, "IoU", "start"),
      text(x(0), H - 6, "threshold 0", "start"), text(x(99), H - 6, "0.99", "end"), mark, named, curve, cursor, dot);
    root.replaceChildren(
      el("div", { class: "ex-groups" },
        group("Bird", "bird", data.birds.map((b, i) => [i, b.name])), group("Dial", "dial", data.dials.map((d, i) => [i, d])),
        group("Method", "method", data.methods.map((m) => [m, m]))),
      el("div", { class: "ex-pictures" },
        el("figure", {}, left, el("figcaption", {}, "the map over the picture; its contours, its box (solid), the true box (dashed)")),
        el("figure", {}, right, el("figcaption", {}, "what is above the threshold"))),
      el("div", { class: "ex-row" }, el("label", { for: slider.id }, "Threshold"), slider, reset), told, plot);
    root.classList.add("ex-ready");

    const update = async () => {
      const bird = data.birds[state.bird], scene = bird.scenes[state.dial], view = viewOf(scene, state.method);
      const t = data.thresholds[state.step], cut = Math.floor(t * view.top + 1e-9), box = view.boxes[state.step], iou = view.iou[state.step];
      const found = iou >= 0.5, colour = found ? "#56b4e9" : "#ff8f1f";
      slider.value = state.step;
      slider.setAttribute("aria-valuetext", `threshold ${t.toFixed(2)}, IoU ${iou.toFixed(2)}, ${found ? "found" : "missed"}`);
      const share = 100 * view.levels.reduce((n, v) => n + (v > cut), 0) / view.levels.length;
      told.replaceChildren(el("b", {}, `threshold ${t.toFixed(2)}`), ` \u2192 IoU ${iou.toFixed(2)}: `, el("b", { class: found ? "ex-found" : "ex-missed" }, found ? "found" : "missed"),
        ` \u00b7 ${share.toFixed(0)} % of the picture is above it \u00b7 best here: ${Math.max(...view.iou).toFixed(2)} at ${data.thresholds[view.iou.indexOf(Math.max(...view.iou))].toFixed(2)}`);
      Object.assign(root.dataset, { threshold: t.toFixed(2), iou: iou.toFixed(4), box: box.join(" "), method: state.method, dial: data.dials[state.dial], bird: bird.name });
      curve.setAttribute("points", view.iou.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" "));
      for (const [line, i] of [[cursor, state.step], [mark, 100 * data.chosen[state.method]]]) { line.setAttribute("x1", x(i)); line.setAttribute("x2", x(i)); }
      named.setAttribute("x", x(100 * data.chosen[state.method]) + 5);
      dot.setAttribute("cx", x(state.step));
      dot.setAttribute("cy", y(iou));
      const k = left.width / SIDE, image = await pictureOf(scene);
      if (bird !== data.birds[state.bird] || scene !== bird.scenes[state.dial] || t !== data.thresholds[state.step]) return; // another update came meanwhile
      const ctx = left.getContext("2d"), mask = right.getContext("2d");
      ctx.drawImage(image, 0, 0, left.width, left.height);
      paintPixels(ctx, view.levels, (v) => [...heat[Math.min(heat.length - 1, v * heat.length >> 8)], 190 * Math.pow(v / 255, 0.8)]);
      outline(ctx, view.levels, cut, k);
      frame(ctx, scene.truth, k, "#ffffff", true);
      frame(ctx, box, k, colour, false);
      paintPixels(mask, view.levels, (v) => (v > cut ? [240, 240, 240, 255] : [50, 50, 60, 255]));
      frame(mask, box, k, colour, false);
      left.setAttribute("aria-label", `${bird.name}, ${data.dials[state.dial]}: map of ${state.method} cut at ${t.toFixed(2)}, box with IoU ${iou.toFixed(2)}`);
      right.setAttribute("aria-label", `the ${share.toFixed(0)} percent of the picture above the threshold`);
      root.dataset.drawn = `${state.bird} ${state.dial} ${state.method} ${state.step}`;
    };
    slider.addEventListener("input", () => { state.step = Number(slider.value); update(); });
    reset.addEventListener("click", () => { state.step = Math.round(100 * data.chosen[state.method]); update(); });
    const follow = (ev) => { // the curve can be dragged too; the slider is its twin for the keyboard
      const r = plot.getBoundingClientRect(), at = (ev.clientX - r.left) / r.width * W;
      state.step = Math.max(0, Math.min(99, Math.round((at - x(0)) / (x(99) - x(0)) * 99)));
      update();
    };
    plot.addEventListener("pointerdown", (ev) => { plot.setPointerCapture(ev.pointerId); follow(ev); });
    plot.addEventListener("pointermove", (ev) => { if (plot.hasPointerCapture(ev.pointerId)) follow(ev); });
    update();
  };
  document.querySelectorAll(".threshold-explorer").forEach(build);
})();
