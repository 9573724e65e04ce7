// Keys for labelling: a box that can be focused shows the row and tells which key was pressed on it, and on which row.
// Texts go in as textContent; nothing is loaded from anywhere.

function paragraph(box, role) {
  const made = document.createElement("p");
  made.style.cssText = "margin: 0 0 6px 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5";
  if (role) made.setAttribute("role", role);
  box.append(made);
  return made;
}

function put(place, text) {
  if (place.textContent === text) return; // else it would be read out again
  place.textContent = text;
  place.parentNode.scrollTop = 0;
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.className = "mathjax_ignore tex2jax_ignore";
  box.style.cssText = "border: 1px solid currentColor; border-radius: 4px; padding: 10px; max-height: 320px; overflow: auto";
  const shown = paragraph(box, "");
  shown.setAttribute("aria-live", "polite");
  const progress = paragraph(box, "status");
  const help = paragraph(box, "");

  function update() {
    const row = model.get("row");
    box.setAttribute("aria-label", model.get("named"));
    put(shown, row === null ? "All rows are done." : `Row ${row}: ${model.get("shown")}`);
    put(progress, model.get("progress"));
    put(help, model.get("help"));
  }

  function pressed(event) {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey || !model.get("heard").includes(key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) model.send({ key, row: model.get("row") });
  }

  const focused = () => (box.style.outline = "3px solid Highlight");
  const left = () => (box.style.outline = "");
  box.addEventListener("keydown", pressed);
  box.addEventListener("focus", focused);
  box.addEventListener("blur", left);
  const names = ["row", "shown", "progress", "help", "named", "heard"];
  for (const name of names) model.on(`change:${name}`, update);
  update();
  el.append(box);
  return () => {
    for (const name of names) model.off(`change:${name}`, update);
  };
}

export default { render };
