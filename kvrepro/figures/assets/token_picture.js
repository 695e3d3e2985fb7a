// Draws replies token by token: shaded by importance, struck where an eviction took them, with a slider over the
// steps of decoding. A classic script, so that it also works from a disk. Text of a model only goes into textContent.
(function () {
  "use strict";
  const ROLES = { q: "question", t: "thought", a: "answer" };
  const STEPS_PER_S = 30;
  const MOST_NUMBERED = 99; // evictions; the numbers of more would run into each other
  const OWN_KEYS = "ArrowLeft ArrowRight ArrowUp ArrowDown Home End PageUp PageDown Enter".split(" ").concat(" ");
  const loaded = new Map(); // source of a picture file -> promise of what it gives

  function make(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function button(text, label, action) {
    const made = make("button", "", text);
    made.type = "button";
    made.setAttribute("aria-label", label);
    made.title = label;
    made.addEventListener("click", action);
    return made;
  }

  // One reply: its tokens, and the steps between two states of it.
  class Reply {
    constructor(data) {
      this.data = data;
      this.length = data.tokens.length;
      this.first = Math.max(1, data.roles.lastIndexOf("q") + 1); // tokens before the first new one
      this.steps = this.length - this.first;
      this.shown = this.length;
      this.done = 0; // evictions that are drawn
      this.isNumbered = data.sizes.length <= MOST_NUMBERED;
      this.lost = data.sizes.map(() => []); // positions that each eviction took
      data.lost_at.forEach((number, position) => {
        if (number !== null) this.lost[number - 1].push(position);
      });
      this.taken = [0]; // how many the first so many evictions took
      this.lost.forEach((positions) => this.taken.push(this.taken.at(-1) + positions.length));
      this.peaks = [0]; // the most slots held up to and including the first so many evictions
      data.sizes.forEach((size, e) => this.peaks.push(Math.max(this.peaks[e], size - this.taken[e])));
    }

    build() {
      const all = make("section", "kvr-reply");
      all.append(make("div", "kvr-title", this.data.title));
      this.status = all.appendChild(make("div", "kvr-status"));
      this.box = all.appendChild(make("div", "kvr-tokens"));
      this.box.tabIndex = 0;
      this.box.setAttribute("role", "group");
      this.box.setAttribute("aria-label", "tokens: " + this.data.title);
      const hint = "Point at a token, or click it, for its position and importance.";
      this.hint = all.appendChild(make("div", "kvr-hint", hint));
      if (this.data.caption) all.append(make("div", "kvr-caption", this.data.caption));
      const lines = document.createDocumentFragment();
      let line = null; // its own element, so that lines out of sight cost nothing
      this.spans = this.data.tokens.map((token, position) => {
        const shade = this.data.shades[position];
        const span = make("span", shade === null ? "kvr-" + this.data.roles[position] : "kvr-" + shade, token);
        line ||= lines.appendChild(make("div", "kvr-part"));
        line.append(span);
        if (token.includes("\u21b5")) line = null;
        return span;
      });
      this.places = new Map(this.spans.map((span, position) => [span, position]));
      this.box.append(lines);
      this.box.addEventListener("pointerover", (event) => this.explain(event.target, false));
      this.box.addEventListener("click", (event) => this.explain(event.target, true));
      this.evict(this.evictionsAt(this.length));
      this.tell();
      return all;
    }

    explain(span, isAsked) {
      const position = this.places.get(span);
      if (position === undefined) return;
      const { roles, importance, lost_at } = this.data;
      const parts = ["position " + position, ROLES[roles[position]]];
      if (importance[position] !== null) parts.push("importance " + importance[position]);
      if (lost_at[position] !== null) parts.push("lost at eviction " + lost_at[position]);
      span.title = parts.join(", ");
      if (isAsked) this.hint.textContent = "\u201c" + this.data.tokens[position] + "\u201d: " + span.title;
    }

    evictionsAt(shown) {
      const after = this.data.sizes.findIndex((size) => size > shown);
      return after < 0 ? this.data.sizes.length : after;
    }

    // Only what lies between the two states is touched: a reply may have 16,000 tokens.
    go(step) {
      const shown = this.first + Math.min(step, this.steps);
      if (shown === this.shown) return;
      for (let i = Math.min(shown, this.shown); i < Math.max(shown, this.shown); i++) {
        this.spans[i].classList.toggle("kvr-later", shown < this.shown);
      }
      this.mark(this.shown - 1, "kvr-now", false);
      this.mark(shown - 1, "kvr-now", shown < this.length);
      this.shown = shown;
      this.evict(this.evictionsAt(shown));
      this.tell();
      this.follow();
    }

    mark(position, name, isOn) {
      this.spans[position].classList.toggle(name, isOn);
    }

    evict(done) {
      if (this.done > 0) this.lost[this.done - 1].forEach((p) => this.mark(p, "kvr-latest", false));
      for (let e = this.done; e < done; e++) this.lost[e].forEach((p) => this.strike(p, e));
      for (let e = done; e < this.done; e++) this.lost[e].forEach((p) => this.strike(p, null));
      this.done = done;
      if (done > 0) this.lost[done - 1].forEach((p) => this.mark(p, "kvr-latest", this.shown < this.length));
    }

    strike(position, eviction) {
      const span = this.spans[position];
      span.classList.toggle("kvr-lost", eviction !== null);
      // of neighbours that went together only the first has the number
      const isFirst = this.isNumbered && eviction !== null && this.data.lost_at[position - 1] !== eviction + 1;
      if (isFirst) span.dataset.n = eviction + 1;
      else delete span.dataset.n;
    }

    get position() {
      return "token " + this.shown + " of " + this.length;
    }

    get held() {
      // the last token ends the reply and is never put into the cache
      return Math.min(this.shown, this.length - 1) - this.taken[this.done];
    }

    tell() {
      const { sizes, budget } = this.data;
      const parts = [this.position];
      if (budget !== null || sizes.length) {
        const held = this.held;
        const limit = budget === null ? "" : ", budget " + budget;
        parts.push(held + " slots held, at most " + Math.max(held, this.peaks[this.done]) + " so far" + limit);
        if (this.done) {
          const last = "eviction " + this.done + " of " + sizes.length + " at token " + sizes[this.done - 1];
          parts.push(last + " took " + this.lost[this.done - 1].length);
        } else parts.push("no eviction yet, " + sizes.length + " to come");
      }
      this.status.textContent = parts.join(" \u00b7 ");
    }

    follow() {
      const span = this.spans[this.shown - 1];
      // not offsetTop: that is measured from the line's own box
      const top = span.getBoundingClientRect().top - this.box.getBoundingClientRect().top + this.box.scrollTop;
      if (top < this.box.scrollTop || top > this.box.scrollTop + this.box.clientHeight - 40) {
        // lines out of sight have no height yet, so the end is asked for by name
        this.box.scrollTop = this.shown === this.length ? this.box.scrollHeight : top - this.box.clientHeight / 2;
      }
    }
  }

  function hasEvictions(replies) {
    return replies.some((reply) => reply.data.sizes.length);
  }

  function legend(replies) {
    const all = make("div", "kvr-legend");
    all.append(make("span", "kvr-q", "question"), " thought, least ");
    for (let shade = 0; shade < 7; shade++) all.append(make("span", "kvr-" + shade, "\u2002"));
    all.append(" most important ", make("span", "kvr-a", "answer"));
    if (hasEvictions(replies)) {
      const isNumbered = replies.every((reply) => reply.isNumbered);
      const struck = make("span", "kvr-3 kvr-lost", "struck");
      if (isNumbered) struck.dataset.n = "n";
      all.append(" ", struck, isNumbered ? " lost at eviction n" : " lost at an eviction");
    }
    return all;
  }

  // The buttons and the slider that all replies of a view share.
  function controls(replies) {
    const last = Math.max(...replies.map((reply) => reply.steps));
    const bar = make("div", "kvr-bar");
    const slider = make("input");
    Object.assign(slider, { type: "range", min: 0, max: last, step: 1, value: last });
    slider.setAttribute("aria-label", "step of decoding");
    let timer = null;

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "\u25b6 play";
      play.setAttribute("aria-label", "play");
    }

    function show() {
      replies.forEach((reply) => reply.go(slider.valueAsNumber));
      slider.setAttribute("aria-valuetext", replies.map((r) => r.position + ", " + r.held + " slots").join("; "));
    }

    function go(step) {
      slider.value = step;
      show();
    }

    function toEviction() {
      const steps = replies.flatMap((reply) => reply.data.sizes.map((size) => size - reply.first));
      const next = steps.filter((step) => step > slider.valueAsNumber);
      stop();
      go(next.length ? Math.min(...next) : slider.valueAsNumber === last && steps.length ? Math.min(...steps) : last);
    }

    const play = button("", "play", () => {
      if (timer !== null) return stop();
      if (slider.valueAsNumber === last) go(0);
      play.textContent = "\u2225 pause";
      play.setAttribute("aria-label", "pause");
      // long replies go faster, so that none takes longer than a minute
      const stride = Math.max(1, Math.round(last / (60 * STEPS_PER_S)));
      timer = setInterval(() => {
        if (!bar.isConnected || slider.valueAsNumber === last) return stop();
        go(slider.valueAsNumber + stride);
      }, 1000 / STEPS_PER_S);
    });
    stop();
    slider.addEventListener("input", () => { stop(); show(); });
    const step = (by) => () => { stop(); go(slider.valueAsNumber + by); };
    bar.append(play, button("\u2212 1", "one step back", step(-1)), button("+ 1", "one step on", step(1)));
    if (hasEvictions(replies)) bar.append(button("next eviction", "next eviction", toEviction));
    bar.append(slider);
    show();
    return bar;
  }

  // data: one picture, or a list of pictures that stand side by side and share a slider
  function draw(element, data) {
    const pictures = Array.isArray(data) ? data : [data];
    const failed = pictures.find((picture) => picture.error);
    element.replaceChildren();
    element.classList.add("kvr-view");
    if (failed) return void element.append(make("p", "kvr-missing", failed.error));
    const replies = pictures.map((picture) => new Reply(picture));
    const row = make("div", "kvr-row");
    row.append(...replies.map((reply) => reply.build()));
    const parts = [legend(replies), row];
    if (replies.some((reply) => reply.steps > 0)) parts.splice(1, 0, controls(replies));
    element.append(...parts);
    replies.forEach((reply) => reply.follow());
  }

  // called by a picture file
  function picture(cell, problem, sample, data) {
    if (document.currentScript) document.currentScript.kvreproPicture = data;
  }

  // What a picture file gives, null without one. Asked for once, and again after a failure.
  function fetched(src) {
    if (!loaded.has(src)) {
      const script = make("script");
      const come = new Promise((resolve) => {
        script.onload = () => resolve(script.kvreproPicture || null);
        script.onerror = () => resolve(null);
      });
      loaded.set(src, come.then((data) => {
        script.remove();
        if (!data || data.error) loaded.delete(src);
        return data;
      }));
      script.src = src;
      document.head.append(script);
    }
    return loaded.get(src);
  }

  // sources: a picture file, or a list of them, drawn side by side; whenMissing: what to say where there is none, a
  // text or a function of the element
  function load(element, sources, whenMissing) {
    const waiting = "Loading; a reply that was not drawn yet is generated again first.";
    element.replaceChildren(make("p", "kvr-waiting", waiting));
    element.firstChild.setAttribute("role", "status");
    return Promise.all([sources].flat().map(fetched)).then((pictures) => {
      if (!pictures.includes(null)) draw(element, pictures);
      else if (typeof whenMissing === "function") whenMissing(element);
      else element.replaceChildren(make("p", "kvr-missing", whenMissing || "Not drawn yet."));
    });
  }

  function keepKeys(event) {
    const isPlain = !(event.ctrlKey || event.metaKey || event.altKey);
    const isOurs = event.target instanceof Element && event.target.closest(".kvr-view");
    if (isPlain && isOurs && OWN_KEYS.includes(event.key)) event.stopPropagation();
  }

  // a key that moves the slider or presses a button must not also be a shortcut of JupyterLab, which listens at the
  // document; a page may hold this script several times
  if (!window.kvrepro) window.addEventListener("keydown", keepKeys, true);
  window.kvrepro = { draw, picture, load };
})();
