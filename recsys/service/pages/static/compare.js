"use strict";
/* Brushing: a drag along an axis writes the range into the form below, whose fields narrow the rows and are the address. */
(() => {
  const TOP = 50, HEIGHT = 240; /* of an axis, in the drawing */
  const fieldsets = () => [...document.querySelectorAll("#ranges fieldset[data-axis]")];
  const isLog = set => set.dataset.log === "yes";
  const numbers = set => [...set.querySelectorAll("input:not([type=checkbox])")].map(i => i.value.trim() === "" ? null : Number(i.value));
  const texts = set => [...set.querySelectorAll("input:checked")].map(i => i.value);

  function share(set, value) {
    const low = Number(set.dataset.low), high = Number(set.dataset.high);
    return ((isLog(set) ? Math.log10(value) : value) - low) / (high - low);
  }
  function value(set, at) {
    const low = Number(set.dataset.low), high = Number(set.dataset.high), v = low + at * (high - low);
    return Number((isLog(set) ? 10 ** v : v).toPrecision(4));
  }

  function inside(values) {
    return fieldsets().every(set => {
      const v = values[Number(set.dataset.axis)];
      if (set.dataset.categories) { const kept = texts(set); return !kept.length || kept.includes(v); }
      const [low, high] = numbers(set);
      return (low === null && high === null) || (v !== null && (low === null || v >= low) && (high === null || v <= high));
    });
  }

  function apply() {
    let count = 0;
    const out = new Set();
    for (const row of document.querySelectorAll("#differences tbody tr")) {
      const kept = inside(JSON.parse(row.dataset.values));
      row.classList.toggle("out", !kept);
      kept ? count++ : out.add(row.dataset.row);
    }
    for (const mark of document.querySelectorAll(".stroke, a.point")) mark.classList.toggle("out", out.has(mark.dataset.row));
    document.querySelector("#count span").textContent = count;
    for (const set of fieldsets()) draw(set);
  }

  function draw(set) {
    const brush = document.querySelector(`#parallel .axis[data-axis="${set.dataset.axis}"] .brush`);
    let low = 0, high = 0;
    if (set.dataset.categories) {
      const boxes = [...set.querySelectorAll("input")].reverse(), n = boxes.length; /* the lowest first */
      const ticked = boxes.flatMap((box, i) => box.checked ? [i] : []);
      if (ticked.length) { low = ticked[0] / n; high = (ticked.at(-1) + 1) / n; }
    } else {
      const [from, to] = numbers(set);
      if (from !== null || to !== null) { low = from === null ? 0 : share(set, from); high = to === null ? 1 : share(set, to); }
    }
    low = Math.max(0, low); high = Math.min(1, high);
    brush.setAttribute("y", TOP + HEIGHT * (1 - high));
    brush.setAttribute("height", Math.max(0, HEIGHT * (high - low)));
  }

  function narrow(set, from, to) {
    const low = Math.max(0, Math.min(from, to)), high = Math.min(1, Math.max(from, to));
    if (set.dataset.categories) {
      const boxes = [...set.querySelectorAll("input")].reverse(), n = boxes.length;
      boxes.forEach((box, i) => { const middle = (i + 0.5) / n; box.checked = middle >= low && middle <= high; });
    } else {
      const [least, most] = set.querySelectorAll("input");
      least.value = low <= 0 ? "" : value(set, low);
      most.value = high >= 1 ? "" : value(set, high);
    }
  }

  function tell() {
    const query = new URLSearchParams();
    for (const [key, text] of new FormData(document.getElementById("ranges"))) if (text !== "") query.append(key, text);
    recsysLive.go(`${location.pathname}?${query}`, true);
  }

  document.addEventListener("click", event => { /* without script the link leads to the row */
    const point = event.target.closest?.("a[data-pin]");
    if (!point) return;
    event.preventDefault();
    const address = new URL(location.href), pins = address.searchParams.getAll("pin"), id = point.dataset.pin;
    address.searchParams.delete("pin");
    for (const pin of pins.includes(id) ? pins.filter(p => p !== id) : [...pins, id]) address.searchParams.append("pin", pin);
    recsysLive.go(address.href);
  });

  let drag = null;
  const at = event => {
    const svg = document.getElementById("parallel"), point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return 1 - (point.y - TOP) / HEIGHT;
  };
  document.addEventListener("pointerdown", event => {
    const hit = event.target.closest?.("#parallel .hit");
    if (!hit || event.button) return;
    event.preventDefault();
    const set = document.querySelector(`#ranges fieldset[data-axis="${hit.parentNode.dataset.axis}"]`);
    drag = {set, from: at(event), moved: false};
    hit.setPointerCapture(event.pointerId);
  });
  document.addEventListener("pointermove", event => {
    if (!drag) return;
    const to = at(event);
    if (Math.abs(to - drag.from) < 0.02 && !drag.moved) return;
    drag.moved = true;
    narrow(drag.set, drag.from, to);
    apply();
  });
  document.addEventListener("pointerup", () => {
    if (!drag) return;
    if (!drag.moved) { /* a click takes the range away */
      for (const input of drag.set.querySelectorAll("input")) if (input.type === "checkbox") input.checked = false; else input.value = "";
      apply();
    }
    document.getElementById("narrow").open = true;
    drag = null;
    tell();
  });
  let pause = 0;
  document.addEventListener("input", event => {
    if (!event.target.closest("#ranges")) return;
    apply();
    clearTimeout(pause);
    pause = setTimeout(tell, 400);
  });
  document.addEventListener("recsys:fresh", () => { if (document.getElementById("ranges")) apply(); });
  if (document.getElementById("ranges")) apply();
})();
