// A slider with a name: ipywidgets' own has none that a screen reader finds. The browser's control hears the arrow keys.

function render({ model, el }) {
  const label = document.createElement("label");
  label.style.cssText = "display: flex; gap: 8px; align-items: center; color: var(--jp-ui-font-color1, inherit)";
  const name = document.createElement("span");
  const range = document.createElement("input");
  range.type = "range";
  range.style.cssText = "flex: 1; min-width: 120px";
  label.append(name, range);

  function update() {
    name.textContent = model.get("description");
    for (const part of ["min", "max", "step"]) range[part] = model.get(part);
    range.value = model.get("value");
  }

  range.addEventListener("change", () => {
    model.set("value", Number(range.value));
    model.save_changes();
  });
  const names = ["description", "min", "max", "step", "value"];
  for (const part of names) model.on(`change:${part}`, update);
  el.append(label);
  update();
  return () => {
    for (const part of names) model.off(`change:${part}`, update);
  };
}

export default { render };
