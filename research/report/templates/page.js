"use strict";
// Values under the pointer: the nearest point of every line of a chart.
for (const figure of document.querySelectorAll("figure[data-values]")) {
  const { steps, across, series } = JSON.parse(figure.dataset.values);
  for (const plot of figure.querySelectorAll(".plot")) {
    const low = Number(plot.dataset.low), high = Number(plot.dataset.high), log = plot.dataset.log === "true";
    const height = (y) => log ? Math.log(y / low) / Math.log(high / low) : (y - low) / (high - low);
    const add = (kind, colour) => {
      const element = document.createElement("div");
      element.className = colour === undefined ? kind : `${kind} colour-${colour}`;
      plot.append(element);
      return element;
    };
    const clear = () => plot.querySelectorAll(".rule, .mark, .tip").forEach((element) => element.remove());
    const nearest = (points, x) => {
      let left = 0, right = points.length - 1;
      while (right - left > 1) {
        const middle = (left + right) >> 1;
        if (points[middle][0] < x) left = middle; else right = middle;
      }
      return x - points[left][0] < points[right][0] - x ? points[left] : points[right];
    };
    const show = (event) => {
      clear();
      const box = plot.getBoundingClientRect();
      const pointer = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * steps;
      const longest = series.reduce((a, b) => b.points.length > a.points.length ? b : a);
      const step = nearest(longest.points, pointer)[0];
      add("rule").style.left = `${100 * step / steps}%`;
      const tip = add("tip");
      const line = (name, value) => {
        const row = document.createElement("div"), bold = document.createElement("b");
        bold.textContent = value;
        row.append(name, bold);
        tip.append(row);
      };
      const shown = (x) => (across === "step" ? x : x / steps).toLocaleString("en");
      line(across, shown(step));
      for (const { name, style, colour, points, errors } of series) {
        const end = points[points.length - 1];
        if (end[0] < step || style === "dashed" && end[1] !== points[0][1]) continue;
        const [x, y] = nearest(points, step);
        if (style !== "dashed") {
          const mark = add("mark", colour);
          mark.style.left = `${100 * x / steps}%`;
          mark.style.top = `${100 * (1 - height(y))}%`;
        }
        const own = x === step || style === "dashed" ? "" : ` at ${shown(x)}`;
        const number = (value, digits) => value.toLocaleString("en", { maximumSignificantDigits: digits });
        line(name + own, number(y, 5) + (x in errors ? ` ± ${number(errors[x], 2)}` : ""));
      }
      const place = box.width * step / steps, width = tip.offsetWidth;
      const left = place < box.width / 2 ? Math.min(place + 12, box.width + 10 - width) : Math.max(-40, place - 12 - width);
      tip.style.left = `${left}px`;
    };
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerleave", clear);
  }
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
// A heading sorts the rows of its table: first descending, then ascending; cells without a value stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const buttons = [...table.querySelectorAll("button.sort")];
  const value = (row, column) => {
    const { dataset, textContent } = row.cells[column];
    return dataset.sort === undefined ? textContent.trim() : Number(dataset.sort);
  };
  const missing = (one) => one === "" || one !== one;  // no value, or no number
  buttons.forEach((button, column) => button.addEventListener("click", () => {
    const heading = button.parentElement, ascending = heading.ariaSort === "descending";
    buttons.forEach((other) => { other.parentElement.ariaSort = null; });
    heading.ariaSort = ascending ? "ascending" : "descending";
    const [body] = table.tBodies, rows = [...body.rows];
    rows.sort((left, right) => {
      const a = value(left, column), b = value(right, column);
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (a < b ? -1 : a > b ? 1 : 0) * (ascending ? 1 : -1);
    });
    body.append(...rows);
  }));
}
