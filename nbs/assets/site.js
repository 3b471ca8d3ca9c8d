// What the pages need beyond the theme: whatever scrolls or folds can be reached with the keyboard, figures stay readable on a phone, and the
// list of chapters shows the one that is open.
(() => {
  "use strict";
  const LEAST = 560; // pixels: a figure made wider than this is not shown narrower
  const figures = () => document.querySelectorAll("main .cell-output img").forEach((img) => {
    const box = img.parentElement;
    box.classList.toggle("wide-figure", img.naturalWidth > LEAST && box.clientWidth < LEAST - 40);
  });
  const reach = () => {
    figures();
    document.querySelectorAll("main pre, main table, main .katex-display, main .wide-figure").forEach((e) => {
      if (e.scrollWidth > e.clientWidth + 1) e.tabIndex = 0; else e.removeAttribute("tabindex");
    });
  };
  const folds = () => document.querySelectorAll("#quarto-sidebar a[data-bs-toggle=collapse]").forEach((a) => { // links without an address
    a.setAttribute("role", "button");
    if (a.classList.contains("sidebar-item-toggle")) return; // the arrow does what the words beside it do
    a.tabIndex = 0;
    a.addEventListener("keydown", (ev) => { if (ev.key === "Enter" || ev.key === " ") { ev.preventDefault(); a.click(); } });
  });
  const show = () => {
    const list = document.querySelector("#quarto-sidebar"), here = list && list.querySelector(".sidebar-link.active");
    if (!here || list.scrollHeight <= list.clientHeight) return;
    list.scrollTop += here.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
  };
  addEventListener("load", () => { folds(); show(); reach(); });
  addEventListener("resize", reach);
})();
