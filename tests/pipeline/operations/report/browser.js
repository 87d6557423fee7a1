// Puts into window.seen, as JSON, what stands on the page; run by browser.py when it has loaded.
(async () => {
  const box = (element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [left, top + scrollY, right, bottom + scrollY];
  };
  const canvas = document.createElement("i");
  canvas.style.color = "Canvas";
  document.body.append(canvas);
  const paper = getComputedStyle(canvas).color;
  canvas.remove();
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return paper;
  };
  const frames = async (image) => {
    const data = Uint8Array.from(atob(image.src.split(",")[1]), (c) => c.charCodeAt(0));
    const decoder = new ImageDecoder({ data, type: "image/webp" });
    await decoder.tracks.ready;
    return decoder.tracks.selectedTrack.frameCount;
  };
  const texts = [];
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const element = nodes.currentNode.parentElement;
    const text = nodes.currentNode.data.trim();
    if (!text || element.closest("title, style")) continue;
    const drawn = element.ownerSVGElement;
    const style = getComputedStyle(element);
    const scale = drawn ? drawn.getScreenCTM().a : 1;
    texts.push({
      text,
      box: box(element),
      color: drawn ? style.fill : style.color,
      behind: behind(element),
      pixels: parseFloat(style.fontSize) * scale,
    });
  }
  const images = [...document.images];
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  window.seen = JSON.stringify({
    width: innerWidth,
    height: document.documentElement.scrollHeight,
    scroll_width: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    paper,
    headings: [...document.querySelectorAll("h1, h2, h3")].map((h) => ({ text: h.innerText, box: box(h) })),
    images: await Promise.all(
      images.map(async (i) => ({ width: i.naturalWidth, box: box(i), frames: await frames(i) })),
    ),
    charts: [...document.querySelectorAll("svg")].map((svg) => ({
      label: svg.getAttribute("aria-label"),
      box: box(svg),
      texts: [...svg.querySelectorAll("text")].map((t) => ({ text: t.textContent, box: box(t) })),
    })),
    texts,
  });
})().catch((error) => console.error(`${error}`));
