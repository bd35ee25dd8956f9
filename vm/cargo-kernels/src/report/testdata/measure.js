// What a reader would see of the report in each frame, as JSON for src/report/browser.rs.

const luminance = (color) => {
  const [r, g, b] = color.match(/[\d.]+/g).map((part) => {
    const c = part / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

// WCAG 2: (lighter + 0.05) / (darker + 0.05)
const contrast = (element, view) => {
  const style = view.getComputedStyle(element);
  const [dark, light] = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

const measure = async (frame) => {
  const view = frame.contentWindow, page = frame.contentDocument;
  const cells = [...page.querySelectorAll(".matrix td[class], .legend .passed, .legend .failed, .pill")];
  const picture = page.querySelector(".timeline").getBoundingClientRect();
  const bars = [...page.querySelectorAll(".timeline span[class]:not(.quiet)")].map((bar) => bar.getBoundingClientRect());
  const output = page.querySelector(".kernel pre[id]");
  const before = output?.checkVisibility() ?? null;
  const link = page.querySelector(".matrix td a[href*='-t']");
  if (link) {
    const arrived = new Promise((resolve) => view.addEventListener("hashchange", resolve));
    link.click();
    await arrived;
  }
  return {
    scroll_width: page.documentElement.scrollWidth,
    page_luminance: luminance(view.getComputedStyle(page.body).backgroundColor),
    least_contrast: Math.min(...[...cells, page.body].map((element) => contrast(element, view))),
    cells_without_a_mark: page.querySelectorAll(".matrix td[class]:empty").length,
    bars: bars.length,
    bars_outside: bars.filter((bar) => bar.width <= 0 || bar.left < picture.left - 1 || bar.right > picture.right + 1).length,
    output_visible_before: before,
    output_visible_after: output?.checkVisibility() ?? null,
    scripts_and_resources: page.querySelectorAll("script, img, link, iframe, object, [src]").length,
    text: page.body.textContent,
  };
};

addEventListener("load", async () => {
  const seen = await Promise.all([...document.querySelectorAll("iframe")].map(measure));
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = encodeURIComponent(JSON.stringify(seen));
  document.body.append(result);
});
