// An answer's text as elements: paragraphs, lists, bold, code and citations. Everything else stays text.

import { h } from "./page.js";

const INLINE = /\*\*([^*\n]+)\*\*|`([^`\n]+)`|\[(\d{1,2}(?:\s{0,2},\s{0,2}\d{1,2}){0,9})\]/g;
const ITEM = /^\s{0,3}(?:[-*\u2022]|(\d{1,3})[.)])\s+/;

/** The elements of a text; `citation(number)` makes one for a citation, or null where there is no such source. */
export function answerNodes(text, citation) {
  return text.split(/\n{2,}/).filter((block) => block.trim()).flatMap((block) => blockNodes(block, citation));
}

/** The nodes of a document's text: headings of Markdown are bold, everything else stays as it is. */
export function headings(text) {
  return text.split(/^(#{1,6}[ \t]+.+)$/m).map((line, i) => (i % 2 ? h("strong", {}, line.replace(/^#+\s+/, "")) : line));
}

function blockNodes(block, citation) {
  const nodes = [];
  let lines = [];
  let list = null;
  const flush = () => {
    if (lines.length) nodes.push(h("p", {}, ...inline(lines.join("\n"), citation)));
    lines = [];
  };
  for (const line of block.split("\n")) {
    const item = line.match(ITEM);
    if (!item) {
      list = null;
      lines.push(line.replace(/^#{1,6}\s+/, ""));
      continue;
    }
    flush();
    if (!list) nodes.push((list = item[1] ? h("ol", { start: item[1] }) : h("ul", {})));
    list.append(h("li", {}, ...inline(line.slice(item[0].length), citation)));
  }
  flush();
  return nodes;
}

function inline(text, citation) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[1]) nodes.push(h("strong", {}, match[1]));
    else if (match[2]) nodes.push(h("code", {}, match[2]));
    else {
      const made = match[3].split(",").map((number) => citation(Number(number)));
      nodes.push(...(made.every(Boolean) ? made : [match[0]]));
    }
  }
  nodes.push(text.slice(at));
  return nodes;
}
