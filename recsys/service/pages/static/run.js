"use strict";
/* One run: its curves as uPlot draws them, raw ones under smoothed ones, and its log as it grows. */
(() => {
  const section = document.getElementById("curves"), room = document.getElementById("charts");
  const slider = section.querySelector("input[name=smooth]"), shown = section.querySelector("output");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const POINTS = new URLSearchParams(location.search).get("points") ?? 2000; /* of a curve; the service thins it */
  const FEW = 30; /* points, that need no smoothing */
  const given = new URLSearchParams(location.search).get("smooth");
  let chosen = given !== null && given >= 0 && given < 1;
  if (chosen) slider.value = given;
  let stages = {}; /* stage → figure → {steps, values, means: of the stretch that a point stands for} */
  let plots = [], asking = false, again = false;

  /* Exponential moving average without its bias towards zero; gaps stay gaps. */
  function smooth(values, weight) {
    const out = new Array(values.length);
    let sum = 0, mass = 0;
    for (let i = 0; i < values.length; i++) {
      const v = values[i];
      if (v == null) { out[i] = null; continue; }
      sum = weight * sum + (1 - weight) * v;
      mass = weight * mass + (1 - weight);
      out[i] = sum / mass;
    }
    return out;
  }

  /* One column of steps for all figures, then each figure raw and smoothed. */
  function data(plot) {
    const weight = Number(slider.value), figures = plot.names.map(name => stages[plot.stage][name]);
    const tables = figures.map(f => [f.steps, f.values, weight ? smooth(f.means, weight) : f.values]);
    return tables.every(t => t[0].length === tables[0][0].length && t[0].at(-1) === tables[0][0].at(-1) && t[0].every((v, i) => v === tables[0][0][i]))
      ? [tables[0][0], ...tables.flatMap(t => t.slice(1))] : uPlot.join(tables);
  }

  function redraw() {
    shown.textContent = slider.value;
    for (const plot of plots) {
      plot.started = performance.now();
      plot.chart.setData(data(plot));
      newest(plot.chart);
    }
  }

  /* The legend tells the newest figures, unless the pointer is on a step. */
  function newest(chart) {
    if (chart.cursor.idx == null) chart.setLegend({idx: chart.data[0].length - 1}, false);
  }

  const PARTS = JSON.parse(section.dataset.parts);
  function wanted() {
    const keys = [];
    for (const [stage, figures] of Object.entries(stages)) for (const [title, part] of PARTS) {
      const names = Object.keys(figures).filter(name => name.includes(part) && figures[name].steps.length);
      if (names.length) keys.push([stage, title, ...names].join("\u0000"));
    }
    return keys;
  }

  function build() {
    for (const plot of plots) plot.chart.destroy();
    room.replaceChildren();
    plots = wanted().map(key => {
      const [stage, title, ...names] = key.split("\u0000");
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      caption.textContent = `${title} of ${stage}`;
      figure.append(caption);
      room.append(figure);
      return {key, stage, title, names, figure};
    });
    section.hidden = !plots.length;
    if (!chosen && plots.every(p => p.names.every(name => stages[p.stage][name].steps.length < FEW))) slider.value = 0;
    for (const plot of plots) { /* now that the figures share the width */
      plot.chart = new uPlot(options(plot), data(plot), plot.figure);
      newest(plot.chart);
      const canvas = plot.chart.root.querySelector("canvas");
      canvas.setAttribute("aria-label", `${plot.title} of ${plot.stage}`);
      canvas.setAttribute("role", "img");
    }
    section.querySelector("#smoothing").hidden = !plots.length;
    shown.textContent = slider.value;
  }

  function options(plot) {
    const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
    const axis = {stroke: colour("--quiet"), grid: {stroke: colour("--line"), width: 1}, ticks: {stroke: colour("--line"), width: 1}};
    const number = v => v == null ? "" : Number(v.toPrecision(5)).toString();
    const series = [{label: "step", value: (_, v) => v == null ? "" : v.toLocaleString()}];
    plot.names.forEach((name, i) => {
      const stroke = colour(`--c${i % 6}`);
      series.push({label: `${name}, raw`, stroke, width: 1, alpha: 0.35, spanGaps: true, points: {show: false}, value: (_, v) => number(v)});
      series.push({label: name, stroke, width: 2, spanGaps: true, value: (_, v) => number(v)});
    });
    const short = v => Math.abs(v) >= 1e4 ? `${v / 1e3}k` : String(v);
    /* As many digits as the step between two ticks has: uPlot's own are three, which tell ticks of 0.0005 not apart. */
    const ticked = (_, ticks, axis, space, step) => {
      let digits = 0;
      while (digits < 12 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
      return ticks.map(v => v == null ? "" : v.toFixed(digits));
    };
    return {
      width: Math.max(260, plot.figure.clientWidth), height: 260, series,
      scales: {x: {time: false}},
      axes: [{...axis, values: (_, ticks) => ticks.map(short)}, {...axis, size: 70, values: ticked}],
      hooks: {setCursor: [newest], draw: [() => { if (plot.started) performance.measure("curve", {start: plot.started, end: performance.now()}); }]},
    };
  }

  async function load() {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(`${section.dataset.curves}?points=${POINTS}`);
      if (answer.ok) {
        stages = (await answer.json()).curves;
        wanted().join() === plots.map(p => p.key).join() ? redraw() : build();
      }
    } catch { /* the page says that the service does not answer */ }
    asking = false;
    if (again) { again = false; setTimeout(load, 500); }
  }

  document.addEventListener("recsys:event", ({detail: event}) => {
    if (event.kind === "metrics" || event.kind === "state") load();
  });
  slider.addEventListener("input", () => {
    chosen = true;
    redraw();
    const address = new URL(location.href);
    address.searchParams.set("smooth", slider.value);
    history.replaceState(null, "", address);
  });
  addEventListener("resize", () => { for (const p of plots) p.chart.setSize({width: Math.max(260, p.figure.clientWidth), height: 260}); });
  dark.addEventListener("change", build);

  /* The log: the next bytes, as long as the run goes on. */
  const log = document.getElementById("log"), MOST = 400_000;
  let next = Number(log.dataset.next), reading = false;
  async function follow() {
    if (reading || document.hidden) return;
    reading = true;
    try {
      const answer = await fetch(`${log.dataset.log}?from=${next}`);
      if (answer.ok) {
        const body = await answer.arrayBuffer(), start = Number(answer.headers.get("x-log-start") ?? next);
        const bottom = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
        if (start < next) log.textContent = ""; /* it has begun anew */
        if (body.byteLength) {
          log.append(new TextDecoder().decode(body));
          if (log.textContent.length > MOST) log.textContent = log.textContent.slice(-MOST / 2);
          if (bottom) log.scrollTop = log.scrollHeight;
        }
        next = start + body.byteLength;
      }
    } catch { /* the page says that the service does not answer */ }
    reading = false;
  }
  log.scrollTop = log.scrollHeight;
  const state = () => document.getElementById("head").dataset.state;
  setInterval(() => { if (state() === "running") follow(); }, 1500);
  document.addEventListener("recsys:fresh", follow);
  load();
})();
