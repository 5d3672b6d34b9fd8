// Small parts of the page: elements, messages, the dialog.

const $ = (id) => document.getElementById(id);

/** An element with attributes (on...: listeners; null: left out) and children, which become text nodes. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), (event) => Promise.resolve(value(event)).catch(problem));
    } else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Where a passage stands, on one line. */
export const place = (passage) => [passage.title, ...passage.headings].join(" \u203a ");

/** Tells a screen reader. */
export function announce(text) {
  $("status").textContent = text;
}

let fading = 0;

/** Shows an error for a while. */
export function problem(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { $("problem").hidden = true; }, 8000);
}

/** Asks in a dialog: true, or what was typed; null where it was cancelled. */
export function ask(text, { yes = "OK", input = null } = {}) {
  const dialog = $("dialog");
  $("dialog-text").textContent = text;
  $("dialog-label").textContent = text;
  $("dialog-yes").textContent = yes;
  const field = $("dialog-input");
  field.hidden = input === null;
  field.type = input ?? "text";
  field.value = "";
  return new Promise((resolve) => {
    const close = (answer) => { dialog.onclose = null; dialog.close(); field.value = ""; resolve(answer); };
    dialog.onclose = () => resolve(null);
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      close(input === null ? true : field.value.trim() || null);
    };
    $("dialog-no").onclick = () => close(null);
    dialog.showModal();
  });
}
