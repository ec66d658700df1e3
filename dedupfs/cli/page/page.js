
"use strict";
// Whatever a file is called reaches the page as text nodes and attributes alone, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const { groups, labels, perBlock, batch, versionsShown } = JSON.parse($("data").textContent);
  const main = $("groups");
  const inputs = { search: $("search"), exactness: $("exactness"), least: $("least"), order: $("order") };
  const boxes = [...$("kinds").querySelectorAll("input")];
  const blocks = new Map();
  let shown = [];
  let drawn = 0;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function bytes(count) {
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
    return `${unit ? count.toFixed(1) : count}\u00a0${units[unit]}`;
  }

  const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

  // Thumbnails lie in blocks that are parsed when the first of them is needed.
  function thumbnail(number) {
    const at = Math.floor(number / perBlock);
    if (!blocks.has(at)) blocks.set(at, JSON.parse($(`thumbnails-${at}`).textContent));
    const text = blocks.get(at)[number % perBlock];
    return text && `data:image/webp;base64,${text}`;
  }

  function name(path) {
    if (path === null) return element("em", {}, "a file that has been removed");
    const cut = path.lastIndexOf("/") + 1;
    return element("bdi", {}, element("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut));
  }

  function frame(file, words) {
    const box = element("div", { class: "frame" });
    const source = file.thumbnail === undefined ? "" : thumbnail(file.thumbnail);
    if (!source) {
      box.append("no thumbnail");
      return box;
    }
    const image = element("img", { alt: words, loading: "lazy", decoding: "async" });
    image.src = source;
    box.append(image);
    return box;
  }

  function facts(file) {
    const format = { webp: "WebP" }[file.format] ?? file.format?.toUpperCase();
    const look = file.format ? `${format} ${file.width}\u00a0\u00d7\u00a0${file.height}, ` : "";
    return element("p", { class: "facts" }, look + bytes(file.size));
  }

  function differences(version) {
    const table = element("table", { class: "differences" });
    const rows = [["brightness", version.luma], ["colour", version.chroma], ["tone of an area", version.tone]];
    for (const [what, value] of rows) {
      table.append(element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, value.toFixed(1))));
    }
    const bits = element("td", {}, `${version.bits} bits`);
    table.append(element("tr", {}, element("th", { scope: "row" }, "fingerprint"), bits));
    return table;
  }

  function kept(file) {
    const caption = element("figcaption", {}, name(file.path), element("br"));
    caption.append(element("span", { class: "badge kept" }, "kept"), facts(file));
    return element("figure", {}, frame(file, `Kept: ${file.path ?? "a removed file"}`), caption);
  }

  function copy(version) {
    const kind = element("span", { class: "badge" }, element("span", { class: `swatch ${version.kind}` }));
    kind.append(labels[version.kind]);
    const same = element("span", { class: "badge" }, version.exact ? "same bytes" : "look-alike");
    const caption = element("figcaption", {}, name(version.path), element("br"), kind, same, facts(version));
    caption.append(element("p", { class: "facts" }, `saves ${bytes(version.saved)}`));
    if (version.luma !== undefined) caption.append(differences(version));
    return element("figure", {}, frame(version, `Copy: ${version.path}`), caption);
  }

  function card({ group, versions }, at) {
    const article = element("article", { class: "group", tabindex: "-1", "aria-labelledby": `group-${at}` });
    article.dataset.at = at;
    const sum = `${count(group.versions.length, "copy", "copies")}, saves ${bytes(group.saved)}`;
    article.append(element("h2", { id: `group-${at}` }, name(group.kept.path), element("span", {}, sum)));
    const pictures = element("div", { class: "pictures" }, kept(group.kept));
    pictures.append(...versions.slice(0, versionsShown).map(copy));
    article.append(pictures);
    const rest = versions.slice(versionsShown);
    if (rest.length) {
      const all = element("button", { type: "button" }, `Show ${rest.length.toLocaleString("en")} more copies`);
      all.addEventListener("click", () => {
        all.remove();
        pictures.append(...rest.map(copy));
        article.focus();
      });
      article.append(all);
    }
    const hidden = group.versions.length - versions.length;
    if (hidden) article.append(element("p", { class: "facts" }, `${count(hidden, "copy", "copies")} left out by the filter`));
    return article;
  }

  function more() {
    const next = shown.slice(drawn, drawn + batch);
    main.append(...next.map((entry, at) => card(entry, drawn + at)));
    drawn += next.length;
    $("more").hidden = drawn >= shown.length;
  }

  function text(group) {
    group.text ??= [group.kept.path ?? "", ...group.versions.map((version) => version.path)].join("\n").toLowerCase();
    return group.text;
  }

  const worst = (entry) => Math.max(...entry.versions.map((version) => version.luma ?? -1));
  const orders = {
    saved: null,
    difference: (a, b) => b.worst - a.worst,
    path: (a, b) => ((a.group.kept.path ?? "") < (b.group.kept.path ?? "") ? -1 : 1),
  };

  function filter() {
    const words = inputs.search.value.toLowerCase();
    const kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const exactness = inputs.exactness.value;
    const least = Number(inputs.least.value);
    const wanted = (version) => kinds.has(version.kind) && (!exactness || version.exact === (exactness === "exact"));
    shown = [];
    let saved = 0;
    for (const group of groups) {
      if (group.saved < least || (words && !text(group).includes(words))) continue;
      const versions = group.versions.filter(wanted);
      if (!versions.length) continue;
      shown.push({ group, versions });
      for (const version of versions) saved += version.saved;
    }
    if (inputs.order.value === "difference") for (const entry of shown) entry.worst = worst(entry);
    const order = orders[inputs.order.value];
    if (order) shown.sort(order);
    drawn = 0;
    main.replaceChildren();
    more();
    if (!shown.length) main.append(element("p", { class: "none" }, "No group matches."));
    const all = groups.length.toLocaleString("en");
    $("count").textContent = `${shown.length.toLocaleString("en")} of ${all} groups, saving ${bytes(saved)}`;
  }

  function reset() {
    for (const box of boxes) box.checked = true;
    for (const input of Object.values(inputs)) input.value = input.tagName === "SELECT" ? input.options[0].value : "";
    filter();
  }

  const current = () => document.activeElement?.closest?.(".group");

  function move(step) {
    const from = current();
    const at = from ? Number(from.dataset.at) + step : 0;
    if (at < 0 || at >= shown.length) return;
    while (drawn <= at) more();
    const target = main.children[at];
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "start" });
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = event.target.matches("input[type=search], select");
    if (event.key === "Escape" && event.target === inputs.search) {
      inputs.search.blur();
      return;
    }
    if (typing) return;
    const arrows = current() ? { ArrowDown: () => move(1), ArrowUp: () => move(-1) } : {};
    const actions = {
      j: () => move(1),
      k: () => move(-1),
      "/": () => inputs.search.select(),
      "?": () => $("help").showModal(),
      x: reset,
      ...arrows,
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  }

  let timer = 0;
  inputs.search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(filter, 80);
  });
  for (const input of [inputs.exactness, inputs.least, inputs.order, ...boxes]) input.addEventListener("change", filter);
  $("reset").addEventListener("click", reset);
  $("ask").addEventListener("click", () => $("help").showModal());
  $("more").addEventListener("click", more);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", key);
  new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting) && drawn < shown.length) more();
  }, { rootMargin: "1500px" }).observe($("more").parentElement);
  // A selected group must not hide below the filters, which stay in view.
  const bar = document.querySelector(".filters");
  new ResizeObserver(() => {
    const height = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    document.documentElement.style.setProperty("--filters", `${height + 8}px`);
  }).observe(bar);
  filter();
  if (!groups.length) {
    bar.hidden = true;
    main.replaceChildren(element("p", { class: "none" }, "No file is a copy of another one."));
  }
})();
