// markdown.js - text that a model writes, as DOM nodes.
//
// Text reaches the page through text nodes only: there is no markup to escape from, whatever it says. Links are http and https
// alone and show where they go; images are shown as links; HTML is text. Every loop is linear in the text, and depth is bounded, so
// that a hostile text costs no more than its length.
//
// Specification: a part of CommonMark and GitHub's tables and strikethrough; a line break is a line break.

const DEPTH_MAX = 8; // of lists and quotes in each other
const OPEN_MAX = 24; // of emphasis and links in each other
const LINK_MAX = 2048;

// ---- blocks: a text to a list of {kind, source, …} ------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}(?! )| *$| )/;
const DIVIDER = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

const isBlank = (line) => line.trim() === "";
const indent = (line) => line.length - line.trimStart().length;
const beginsTable = (lines, i) =>
  lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && DIVIDER.test(lines[i + 1]) &&
  cells(lines[i]).length === cells(lines[i + 1]).length;
const beginsBlock = (lines, i) =>
  FENCE.test(lines[i]) || RULE.test(lines[i]) || HEADING.test(lines[i]) || ITEM.test(lines[i]) ||
  lines[i].trimStart().startsWith(">") || beginsTable(lines, i);

function cells(line) {
  let row = line.trim();
  if (row.startsWith("|")) row = row.slice(1);
  if (row.endsWith("|") && !row.endsWith("\\|")) row = row.slice(0, -1);
  const out = [""];
  for (let i = 0; i < row.length; i++) {
    if (row[i] === "\\" && row[i + 1] === "|") out[out.length - 1] += "|", i++;
    else if (row[i] === "|") out.push("");
    else out[out.length - 1] += row[i];
  }
  return out.map((cell) => cell.trim());
}

// Each taker is given the index of a block's first line, and returns the block and the index after its last.
function takeFence(lines, i) {
  const [, mark, info] = lines[i].match(FENCE);
  const body = [];
  for (i++; i < lines.length; i++) {
    const line = lines[i].trim();
    if (line.length >= mark.length && line === mark[0].repeat(line.length) && indent(lines[i]) < 4) return [{ kind: "code", info, body }, i + 1];
    body.push(lines[i]);
  }
  return [{ kind: "code", info, body }, i];
}

function takeIndented(lines, i) {
  const body = [];
  while (i < lines.length && (isBlank(lines[i]) || indent(lines[i]) >= 4)) body.push(lines[i++].slice(4));
  while (isBlank(body[body.length - 1])) body.pop();
  return [{ kind: "code", info: "", body }, i];
}

function takeQuote(lines, i) {
  const body = [];
  while (i < lines.length && lines[i].trimStart().startsWith(">")) body.push(lines[i++].trimStart().replace(/^> ?/, ""));
  return [{ kind: "quote", body }, i];
}

function takeTable(lines, i) {
  const head = cells(lines[i]);
  const align = cells(lines[i + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : ""));
  const rows = [];
  for (i += 2; i < lines.length && !isBlank(lines[i]) && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
  return [{ kind: "table", head, align, rows }, i];
}

function takeList(lines, i) {
  const first = lines[i].match(ITEM)[2], ordered = first.length > 1;
  const items = [];
  while (i < lines.length) {
    const match = lines[i].match(ITEM);
    if (!match || match[2].length > 1 !== ordered || RULE.test(lines[i])) break;
    const margin = Math.max(match[0].length, match[1].length + match[2].length + 1), body = [lines[i].slice(match[0].length)];
    for (i++; i < lines.length; i++) {
      const inside = indent(lines[i]) >= Math.min(margin, 2 + match[1].length);
      if (isBlank(lines[i]) && (i + 1 === lines.length || isBlank(lines[i + 1]) || indent(lines[i + 1]) < 2)) break;
      if (!isBlank(lines[i]) && !inside && (isBlank(lines[i - 1]) || beginsBlock(lines, i))) break;
      body.push(lines[i].slice(Math.min(margin, indent(lines[i]))));
    }
    items.push(body);
    while (i + 1 < lines.length && isBlank(lines[i]) && ITEM.test(lines[i + 1])) i++;
  }
  return [{ kind: "list", ordered, start: parseInt(first, 10), items }, i];
}

function takeParagraph(lines, i, depth) {
  const body = [lines[i++]];
  while (i < lines.length && !isBlank(lines[i]) && !(depth < DEPTH_MAX && beginsBlock(lines, i))) body.push(lines[i++]);
  return [{ kind: "paragraph", text: body.map((line) => line.trim()).join("\n") }, i];
}

function takeHeading(lines, i) {
  const [all, marks] = lines[i].match(HEADING);
  let text = lines[i].slice(all.length).trim(), end = text.length;
  while (end && text[end - 1] === "#") end--;
  if (end === 0 || text[end - 1] === " ") text = text.slice(0, end).trim();
  return [{ kind: "heading", level: marks.length, text }, i + 1];
}

function take(lines, i, depth) {
  if (FENCE.test(lines[i])) return takeFence(lines, i);
  if (indent(lines[i]) >= 4) return takeIndented(lines, i);
  if (HEADING.test(lines[i])) return takeHeading(lines, i);
  if (RULE.test(lines[i])) return [{ kind: "rule" }, i + 1];
  if (depth < DEPTH_MAX && lines[i].trimStart().startsWith(">")) return takeQuote(lines, i);
  if (depth < DEPTH_MAX && ITEM.test(lines[i])) return takeList(lines, i);
  if (beginsTable(lines, i)) return takeTable(lines, i);
  return takeParagraph(lines, i, depth);
}

function blocks(lines, depth) {
  const out = [];
  for (let i = 0; i < lines.length;) {
    if (isBlank(lines[i])) {
      i++;
      continue;
    }
    const [block, next] = take(lines, i, depth);
    block.source = lines.slice(i, next).join("\n");
    out.push(block);
    i = next;
  }
  return out;
}

// ---- inside of a line: emphasis, code, links -------------------------------------------------------------------------

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const ADDRESS = /https?:\/\/[^\s<>"'`]{1,2048}/y;
const TARGET = /^[ \t]*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:[ \t]+"[^"\n]*")?[ \t]*\)/; // what follows "["…"]("
const isSpace = (c) => c === undefined || /\s/.test(c);
const isWord = (c) => c !== undefined && /[\p{L}\p{N}_]/u.test(c);

function element(name, children = [], className = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  for (const child of children) node.append(child);
  return node;
}

// A link to http or https, or null.
function link(address, children) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") return null;
  const node = element("a", children);
  node.href = url.href;
  node.title = url.href;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  return node;
}

class Line {
  constructor(text) {
    this.text = text;
    this.out = []; // nodes and strings
    this.open = []; // {mark, size, at}: marks that may still be closed, each a string at out[at]
    this.plain = "";
    this.noRun = new Set(); // lengths of backtick runs that do not come again
  }

  flush() {
    if (this.plain) this.out.push(this.plain);
    this.plain = "";
  }

  begin(mark, size, spelling) {
    if (this.open.length >= OPEN_MAX) {
      this.plain += spelling;
      return;
    }
    this.flush();
    this.open.push({ mark, size, at: this.out.length });
    this.out.push(spelling);
  }

  // What came after the `index`th open mark; it and all above are open no more.
  end(index) {
    this.flush();
    const { at } = this.open[index];
    this.open.length = index;
    const children = this.out.splice(at + 1);
    this.out.pop();
    return children;
  }

  topmost(mark) {
    let i = this.open.length - 1;
    while (i >= 0 && this.open[i].mark !== mark) i--;
    return i;
  }

  code(i) {
    let length = 1;
    while (this.text[i + length] === "`") length++;
    const run = "`".repeat(length);
    for (let at = this.noRun.has(length) ? -1 : this.text.indexOf(run, i + length); at >= 0; at = this.text.indexOf(run, at)) {
      let end = at;
      while (this.text[end] === "`") end++;
      if (end - at === length) {
        const body = this.text.slice(i + length, at).replace(/\n/g, " ");
        this.flush();
        this.out.push(element("code", [/^ .*\S.* $/s.test(body) ? body.slice(1, -1) : body]));
        return end;
      }
      at = end;
    }
    this.noRun.add(length);
    this.plain += run;
    return i + length;
  }

  emphasis(i) {
    const mark = this.text[i];
    let left = 1;
    while (this.text[i + left] === mark) left++;
    const end = i + left, before = this.text[i - 1], after = this.text[end];
    if (left > 3 || (mark === "~" && left !== 2)) {
      this.plain += mark.repeat(left);
      return end;
    }
    const closes = !isSpace(before) && (mark !== "_" || !isWord(after));
    const opens = !isSpace(after) && (mark !== "_" || !isWord(before));
    for (let at; closes && left && (at = this.topmost(mark)) >= 0 && this.open[at].size <= left;) {
      const { size } = this.open[at], children = this.end(at);
      this.out.push(element(mark === "~" ? "del" : size === 2 ? "strong" : "em", children));
      left -= size;
    }
    for (const size of left === 3 ? [2, 1] : left ? [left] : []) {
      if (opens) this.begin(mark, size, mark.repeat(size));
      else this.plain += mark.repeat(size);
    }
    return end;
  }

  // At a "]": a link, if "(address)" follows an open "[".
  close(i) {
    const at = this.topmost("[");
    const found = this.text.slice(i + 2, i + 2 + LINK_MAX).match(TARGET);
    if (at < 0 || this.text[i + 1] !== "(" || !found) {
      if (at >= 0) this.open.splice(at, 1);
      this.plain += "]";
      return i + 1;
    }
    const children = this.end(at);
    const node = link(found[1], children.length ? children : [found[1]]);
    if (node) this.open = this.open.filter((entry) => entry.mark !== "["); // no link in a link
    for (const part of node ? [node] : ["[", ...children, "](" + found[0]]) this.out.push(part);
    return i + 2 + found[0].length;
  }

  address(i) {
    ADDRESS.lastIndex = i;
    let [found] = ADDRESS.exec(this.text) ?? [""];
    while (/[.,;:!?*_~]$/.test(found) || (found.endsWith(")") && !found.includes("("))) found = found.slice(0, -1);
    const node = found && !this.open.some((entry) => entry.mark === "[") ? link(found, [found]) : null;
    if (!node) return 0;
    this.flush();
    this.out.push(node);
    return i + found.length;
  }

  step(i) {
    const c = this.text[i], next = this.text[i + 1];
    if (c === "\\" && next !== undefined && PUNCTUATION.test(next)) {
      this.plain += next;
      return i + 2;
    }
    if (c === "\n") {
      this.flush();
      this.out.push(element("br"));
      return i + 1;
    }
    if (c === "`") return this.code(i);
    if (c === "*" || c === "_" || c === "~") return this.emphasis(i);
    if (c === "!" && next === "[") {
      this.begin("[", 2, "![");
      return i + 2;
    }
    if (c === "[") {
      this.begin("[", 1, "[");
      return i + 1;
    }
    if (c === "]") return this.close(i);
    const after = c === "h" && !isWord(this.text[i - 1]) ? this.address(i) : 0;
    if (after) return after;
    this.plain += c;
    return i + 1;
  }
}

function inline(parent, text) {
  const line = new Line(text);
  for (let i = 0; i < text.length;) i = line.step(i);
  line.flush();
  for (const part of line.out) parent.append(part);
  return parent;
}

// ---- blocks to nodes --------------------------------------------------------------------------------------------------

function buildCode(block) {
  const button = element("button", ["Copy"], "copy");
  button.type = "button";
  const pre = element("pre", [element("code", [block.body.join("\n")])]);
  pre.tabIndex = 0; // so that it can be scrolled by keys
  return element("div", [element("div", [element("span", [block.info.trim().slice(0, 40) || "text"]), button]), pre], "code");
}

function buildTable(block) {
  const row = (name, texts) =>
    element("tr", texts.slice(0, block.head.length).map((text, i) => {
      const cell = inline(element(name), text);
      if (block.align[i]) cell.className = block.align[i];
      return cell;
    }));
  const table = element("table", [element("thead", [row("th", block.head)]), element("tbody", block.rows.map((texts) => row("td", texts)))]);
  const frame = element("div", [table], "table");
  frame.tabIndex = 0;
  return frame;
}

function buildItem(body, depth) {
  const task = body[0].match(/^\[([ xX])\] /);
  if (task) body = [(task[1] === " " ? "☐ " : "☑ ") + body[0].slice(4), ...body.slice(1)];
  const inside = blocks(body, depth + 1), item = element("li");
  const tight = inside.filter((block) => block.kind === "paragraph").length < 2;
  for (const block of inside) {
    if (tight && block.kind === "paragraph") inline(item, block.text);
    else item.append(build(block, depth + 1));
  }
  return item;
}

function build(block, depth) {
  switch (block.kind) {
    case "code": return buildCode(block);
    case "heading": return inline(element(`h${Math.min(block.level + 2, 6)}`), block.text);
    case "rule": return element("hr");
    case "quote": return element("blockquote", blocks(block.body, depth + 1).map((inner) => build(inner, depth + 1)));
    case "table": return buildTable(block);
    case "list": {
      const list = element(block.ordered ? "ol" : "ul", block.items.map((body) => buildItem(body, depth)));
      if (block.ordered && block.start !== 1) list.start = block.start;
      return list;
    }
    default: return inline(element("p"), block.text);
  }
}

const shown = new WeakMap(); // element to the sources of its children

// Makes `container` show `text`; blocks that it shows already are left alone, so that a text may grow.
export function render(container, text) {
  const wanted = blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
  const before = shown.get(container) ?? [];
  let same = 0;
  while (same < before.length && same < wanted.length && before[same] === wanted[same].source) same++;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of wanted.slice(same)) container.append(build(block, 0));
  shown.set(container, wanted.map((block) => block.source));
}
