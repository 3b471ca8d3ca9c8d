// What the pages need beyond the theme: boxes that scroll can be reached with the keyboard.
(() => {
  "use strict";
  const reach = () => document.querySelectorAll("main pre, main table, main .katex-display").forEach((e) => {
    if (e.scrollWidth > e.clientWidth + 1) e.tabIndex = 0; else e.removeAttribute("tabindex");
  });
  addEventListener("load", reach);
  addEventListener("resize", reach);
})();
