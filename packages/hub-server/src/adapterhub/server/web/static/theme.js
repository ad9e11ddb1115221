// Applies the stored choice of theme before the first paint, and marks that scripts run.
"use strict";
(function () {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const stored = localStorage.getItem("theme");
    if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  } catch (error) {
    // Storage may be switched off; the system's choice then holds.
  }
})();
