// A native range input: it has a name, keys and a spoken value, which the sliders of ipywidgets lack.
// The value goes to the kernel a moment after the last move, so that a held key does not redraw 30 times a second.
const PAUSE_MS = 200;

function render({ model, el }) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  const input = document.createElement("input");
  const shown = document.createElement("output");
  let pause;
  input.type = "range";
  input.style.width = "min(420px, 60vw)";
  label.style.cssText = "display: flex; flex-wrap: wrap; gap: 8px; align-items: center";
  label.append(name, input, shown);

  const draw = () => {
    name.textContent = model.get("description");
    input.min = model.get("min");
    input.max = model.get("max");
    input.step = model.get("step");
    input.value = model.get("value");
    shown.textContent = String(Number(model.get("value").toPrecision(6)));
  };
  input.addEventListener("input", () => {
    shown.textContent = input.value;
    clearTimeout(pause);
    pause = setTimeout(() => {
      model.set("value", Number(input.value));
      model.save_changes();
    }, PAUSE_MS);
  });
  const names = ["description", "min", "max", "step", "value"].map((trait) => `change:${trait}`);
  names.forEach((event) => model.on(event, draw));
  draw();
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the arrow keys for folding headings
  el.append(label);
  return () => {
    clearTimeout(pause);
    names.forEach((event) => model.off(event, draw));
  };
}

export default { render };
