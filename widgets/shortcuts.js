// Keys pressed in a widget stay in it. JupyterLab's shortcuts take arrows, letters and the like from lists, sliders and
// buttons as well: it spares what can be written into, and elements that say so themselves. Shortcuts with Ctrl, Alt or
// Cmd, and Shift+Enter, go on to JupyterLab.

function render({ el }) {
  el.style.display = "none";

  function pressed(event) {
    const view = el.closest(".slmkit-view");
    if (!view || !view.contains(event.target)) return;
    const theirs = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
  }

  window.addEventListener("keydown", pressed, true); // before JupyterLab, which listens on the document
  return () => window.removeEventListener("keydown", pressed, true);
}

export default { render };
