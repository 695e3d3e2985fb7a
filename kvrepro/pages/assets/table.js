// Tables that sort by a click on a head and filter below it. Without this script they are plain tables.
"use strict";
(() => {
  const element = (name, settings = {}) => Object.assign(document.createElement(name), settings);

  // what a field is sorted by: a number where the page gives one, else its text
  const keyOf = (cell) => (cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key));

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  }

  // a bound such as ">50" or "<= 3" where the field is a number, else a part of the text
  function test(wanted) {
    const bound = /^([<>]=?|=)\s*(-?[\d.,]+)$/.exec(wanted);
    if (!bound) return (cell) => cell.textContent.toLowerCase().includes(wanted.toLowerCase());
    const limit = Number(bound[2].replace(/,/g, ""));
    const holds = { "<": (v) => v < limit, "<=": (v) => v <= limit, ">": (v) => v > limit, ">=": (v) => v >= limit, "=": (v) => v === limit };
    return (cell) => cell.dataset.key !== undefined && holds[bound[1]](Number(cell.dataset.key));
  }

  function enhance(table) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const filters = [];

    function sort(index) {
      const head = heads[index];
      const falls = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const isEmpty = (row) => row.cells[index].textContent.trim() === "\u2013";
      rows.sort((one, other) => {
        // what was not measured stands last either way
        if (isEmpty(one) !== isEmpty(other)) return isEmpty(one) ? 1 : -1;
        const order = compare(keyOf(one.cells[index]), keyOf(other.cells[index]));
        return falls ? -order : order;
      });
      body.append(...rows);
    }

    const count = element("output");
    function filter() {
      const tests = filters.flatMap(({ index, control, isChoice }) => {
        const wanted = control.value.trim();
        if (!wanted) return [];
        return [[index, isChoice ? (cell) => cell.textContent.trim() === wanted : test(wanted)]];
      });
      let shown = 0;
      for (const row of rows) {
        row.hidden = !tests.every(([index, holds]) => holds(row.cells[index]));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    }

    const line = element("tr");
    heads.forEach((head, index) => {
      const name = head.textContent.trim();
      const button = element("button", { type: "button", textContent: name });
      button.addEventListener("click", () => sort(index));
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      const place = element("td");
      const kind = head.dataset.filter;
      if (kind) {
        const isChoice = kind === "choice";
        const control = element(isChoice ? "select" : "input");
        if (isChoice) {
          const values = [...new Set(rows.map((row) => row.cells[index].textContent.trim()))].sort(compare);
          control.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
        } else {
          control.type = "search";
          control.placeholder = kind === "number" ? "> 50" : "text";
        }
        control.setAttribute("aria-label", `Filter ${name}`);
        control.addEventListener("input", filter);
        place.append(control);
        filters.push({ index, control, isChoice });
      }
      line.append(place);
    });
    table.tHead.append(line);

    const clear = element("button", { type: "button", textContent: "Clear filters" });
    clear.addEventListener("click", () => {
      filters.forEach(({ control }) => { control.value = ""; });
      filter();
    });
    const tools = element("div", { className: "tools" });
    tools.append(clear, count);
    table.parentElement.before(tools);
    filter();

    // columns up to the row's name stay at the left; on a narrow screen only the name does
    const last = rows.length ? [...rows[0].cells].findIndex((cell) => cell.tagName === "TH") : -1;
    function stick() {
      const first = window.innerWidth < 900 ? last : 0;
      const all = [...table.tHead.rows, ...rows];
      all.forEach((row) => [...row.cells].slice(0, last + 1).forEach((cell, i) => cell.classList.toggle("stuck", i >= first)));
      const widths = heads.map((head) => head.getBoundingClientRect().width);
      const lefts = widths.map((_, i) => widths.slice(first, i).reduce((sum, width) => sum + width, 0));
      const pixels = (value) => `${Math.floor(value)}px`;
      all.forEach((row) => { for (let i = first; i <= last; i += 1) row.cells[i].style.left = pixels(lefts[i]); });
      table.style.setProperty("--head", pixels(table.tHead.rows[0].offsetHeight));
      // what is gone to by keyboard is not to lie below what sticks
      table.parentElement.style.scrollPadding = `${pixels(table.tHead.offsetHeight)} 0 0 ${pixels(lefts[last + 1] || 0)}`;
    }
    stick();
    window.addEventListener("resize", stick);
  }

  document.querySelectorAll("table[data-sortable]").forEach(enhance);
})();
