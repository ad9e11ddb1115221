// Small comforts on top of pages that work without it: copy buttons, theme switch, short addresses.
"use strict";
(function () {
  const root = document.documentElement;

  function showButtons(within) {
    for (const button of within.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  }

  async function copy(button) {
    const label = button.querySelector("[data-copy-text]");
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      label.textContent = "Copied";
    } catch (error) {
      label.textContent = "Press Ctrl+C";
      getSelection().selectAllChildren(code);
    }
    setTimeout(() => { label.textContent = "Copy"; }, 1800);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  const theme = document.querySelector("[data-theme-switch]");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch (error) {
      // The choice then lasts until the page is left.
    }
  });

  // Empty filters need not stand in the address.
  document.addEventListener("htmx:configRequest", (event) => {
    const parameters = event.detail.parameters;
    for (const name of Object.keys(parameters)) if (parameters[name] === "") delete parameters[name];
  });
  document.addEventListener("htmx:afterSwap", (event) => showButtons(event.target));
  document.addEventListener("submit", (event) => {
    if (event.target.hasAttribute("hx-get")) return;
    for (const field of event.target.querySelectorAll("input, select")) if (field.value === "") field.disabled = true;
    setTimeout(() => { for (const field of event.target.querySelectorAll(":disabled")) field.disabled = false; }, 0);
  });
  showButtons(document);
})();
