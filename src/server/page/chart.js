// chart.js - small charts: they write the paths of an <svg> that is in the page. Each fills its view box.

const box = (svg) => svg.viewBox.baseVal;

// One bar a value, the newest at the right; `most` is as high as the chart.
export function bars(svg, values, most) {
  const { width, height } = box(svg), step = width / 20;
  let path = "";
  values.forEach((value, i) => {
    const x = width - (values.length - i) * step, top = height - Math.max(1, (value / most) * (height - 1));
    path += `M${x.toFixed(2)} ${height}V${top.toFixed(2)}h${(step * 0.7).toFixed(2)}V${height}z`;
  });
  svg.querySelector(".bars").setAttribute("d", path);
}

// A line through the values, the newest at the right, of `places` that there is room for.
export function curve(svg, values, places) {
  const { width, height } = box(svg), most = Math.max(...values, 1), step = width / (places - 1);
  const points = values.map((value, i) => `${(width - (values.length - 1 - i) * step).toFixed(2)} ${(height - 1 - (value / most) * (height - 3)).toFixed(2)}`);
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", line ? `${line}V${height}H${(width - (values.length - 1) * step).toFixed(2)}z` : "");
}
