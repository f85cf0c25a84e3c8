"use strict";
/* Keeps a page fresh. Without this script the page works all the same: a reload shows the newest state.

An event of the service's stream, or a change of a form marked data-auto, makes it fetch the page's own address again
and morph what is marked data-live. A refresh for an event waits ten times as long as the last one took, half a second at
least and half a minute at most; what somebody chose or typed waits for nothing. */
(() => {
  const main = document.getElementById("main");
  const notice = document.getElementById("link");
  const KINDS = ["state", "stage", "metrics", "progress", "note", "cancel", "claim", "lost"];
  const KEEP = {INPUT: ["checked", "value"], DETAILS: ["open"], OPTION: ["selected"]};
  const morphing = {
    ignoreActiveValue: true,
    callbacks: {beforeAttributeUpdated: (name, node) => !(KEEP[node.tagName] || []).includes(name)},
  };
  const all = {ignoreActiveValue: false};
  let took = 50, timer = 0, busy = false, again = false, address = location.href, fields = false;

  async function refresh() {
    busy = true;
    const asked = address, started = performance.now();
    try {
      const answer = await fetch(asked, {headers: {accept: "text/html"}, cache: "no-store"});
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) return location.reload();
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (asked !== address) again = true;
      else for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next) Idiomorph.morph(part, next, fields ? all : morphing);
      }
      say("");
      document.dispatchEvent(new CustomEvent("recsys:fresh"));
    } catch (error) {
      say("The service does not answer: trying again");
      again = true;
    }
    took = performance.now() - started;
    busy = false;
    if (!again) fields = false;
    if (again) { again = false; soon(asked === address ? undefined : 0); }
  }

  function soon(wait = Math.min(30000, Math.max(500, 10 * took))) {
    if (busy) again = true;
    else if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, wait);
  }

  function say(text) {
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  }

  /* Events, while somebody looks: a browser opens few streams at once. */
  let stream = null, after = main.dataset.after;
  function listen() {
    if (after === undefined || stream || document.hidden) return;
    const query = new URLSearchParams({after});
    if (main.dataset.run) query.set("run", main.dataset.run);
    stream = new EventSource(`/api/events/stream?${query}`);
    for (const kind of KINDS) stream.addEventListener(kind, event => {
      after = event.lastEventId || after;
      document.dispatchEvent(new CustomEvent("recsys:event", {detail: JSON.parse(event.data)}));
      soon();
    });
    stream.onopen = () => say("");
    stream.onerror = () => {
      say("Not connected: trying again");
      if (stream && stream.readyState === EventSource.CLOSED) { stream = null; setTimeout(listen, 5000); }
    };
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) { listen(); if (after !== undefined) soon(0); }
    else if (stream) { stream.close(); stream = null; }
  });
  listen();
  if (after !== undefined) setInterval(() => { if (!document.hidden) soon(); }, 30000); /* ages, time left */

  /* Forms whose choice is the address. */
  for (const form of document.querySelectorAll("form[data-auto]")) {
    let pause = 0;
    form.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => {
        const query = new URLSearchParams();
        for (const [key, value] of new FormData(form))
          if (value !== "" && key !== "csrf" && key !== "next") query.append(key, value);
        address = `${location.pathname}${query.size ? "?" : ""}${query}`;
        history.replaceState(null, "", address);
        clearTimeout(timer); timer = 0;
        soon(0);
      }, 250);
    });
  }

  /* Links within a view: the address changes, the place on the page stays. */
  function go(to, replace = false) {
    address = new URL(to, location.href).href;
    history[replace ? "replaceState" : "pushState"](null, "", address);
    fields = !replace;
    clearTimeout(timer); timer = 0;
    soon(0);
  }
  document.addEventListener("click", event => {
    const link = event.target.closest("a[data-morph]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
  addEventListener("popstate", () => { address = location.href; fields = true; soon(0); });
  window.recsysLive = {soon, go};
})();
