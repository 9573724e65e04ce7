// How far a work is: a bar with a name, a sentence that is read out when it changes, figures, and the curve of a loss.
// Texts go in as textContent; nothing is loaded from anywhere.

const HEIGHT = 110, LEFT = 52, EDGE = 8;

function paragraph(place, role) {
  const made = document.createElement("p");
  made.style.cssText = "margin: 4px 0; overflow-wrap: anywhere; line-height: 1.5; color: var(--jp-content-font-color1, inherit)";
  if (role) made.setAttribute("role", role);
  place.append(made);
  return made;
}

function put(place, text) {
  if (place.textContent !== text) place.textContent = text; // else it would be read out again
}

function draw(canvas, points) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth || 600;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(canvas);
  pen.strokeStyle = pen.fillStyle = style.color;
  pen.font = `12px ${style.fontFamily}`;
  const steps = points.map((point) => point[0]), losses = points.map((point) => point[1]);
  const first = Math.min(...steps), last = Math.max(...steps), low = Math.min(...losses), high = Math.max(...losses);
  const x = (step) => LEFT + ((width - LEFT - EDGE) * (step - first)) / (last - first || 1);
  const y = (loss) => EDGE + (HEIGHT - 2 * EDGE - 14) * (high > low ? (high - loss) / (high - low) : 0.5);
  pen.textBaseline = "middle";
  pen.fillText(high.toPrecision(3), 0, y(high));
  if (high > low) pen.fillText(low.toPrecision(3), 0, y(low));
  pen.textBaseline = "alphabetic";
  pen.fillText(`step ${first}`, LEFT, HEIGHT - 2);
  pen.textAlign = "right";
  if (last > first) pen.fillText(`step ${last}`, width - EDGE, HEIGHT - 2);
  pen.lineWidth = 2;
  pen.beginPath();
  points.forEach(([step, loss], i) => (i ? pen.lineTo(x(step), y(loss)) : pen.moveTo(x(step), y(loss))));
  pen.stroke();
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "mathjax_ignore tex2jax_ignore";
  const bar = document.createElement("progress");
  bar.style.cssText = "width: 100%; height: 16px";
  box.append(bar);
  const said = paragraph(box, "status");
  const figures = paragraph(box, "");
  const curve = document.createElement("canvas");
  curve.setAttribute("role", "img");
  curve.style.cssText = `width: 100%; height: ${HEIGHT}px; color: var(--jp-content-font-color1, inherit)`;
  box.append(curve);

  function update() {
    const now = model.get("now"), points = now.points;
    bar.setAttribute("aria-label", model.get("named"));
    if (now.busy && !now.total) bar.removeAttribute("value"); // at work, and nobody knows how far
    else bar.value = now.total ? now.done / now.total : 0;
    put(said, now.said);
    put(figures, now.figures);
    curve.style.display = points.length ? "block" : "none";
    if (!points.length) return;
    const [[step, loss]] = points.slice(-1);
    curve.setAttribute("aria-label", `${model.get("curve")}: ${points[0][1].toPrecision(3)} at step ${points[0][0]}, ` +
      `${loss.toPrecision(3)} at step ${step}`);
    draw(curve, points);
  }

  const sized = new ResizeObserver(update);
  sized.observe(box);
  const names = ["now", "named", "curve"];
  for (const name of names) model.on(`change:${name}`, update);
  el.append(box);
  update();
  return () => {
    sized.disconnect();
    for (const name of names) model.off(`change:${name}`, update);
  };
}

export default { render };
