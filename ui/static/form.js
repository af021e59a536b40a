// Forms for rows. ui/forms.py has their inputs; the service decides what is valid.

import {Problem} from "./api.js";
import {$} from "./dom.js";

/** An element of ui/templates/ui/forms.html. */
export const clone = (name) => $(`#template-${name}`).content.firstElementChild.cloneNode(true);

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function fieldOf(element, row, locked) {
  const {column, kind, optional, empty, initial: first} = element.dataset;
  const [input, isNull] = element.querySelectorAll("input, select, textarea");
  const isLocked = locked.includes(column);
  input[input.options ? "disabled" : "readOnly"] = isLocked;
  input.autofocus = !isLocked;
  input.addEventListener("input", () => isNull && (isNull.checked = false));
  isNull?.addEventListener("change", () => (input.value = ""));
  const state = () => [input.value, input.validity.badInput, isNull?.checked].join();
  let initial, untouched;
  const set = (value) => {
    initial = value;
    const text = value == null ? "" : kind === "json" ? JSON.stringify(value) : String(value);
    input.value = input.type === "datetime-local" ? text.slice(0, -1) : text;
    if (text && !input.value) {
      // A year before 1 or after 9999.
      input.type = "text";
      input.value = text;
    }
    if (isNull) isNull.checked = value === null;
    untouched = state();
  };
  set(row ? row[column] : first && JSON.parse(first));
  return {
    column,
    read() {
      // The input may show less than the value has, such as LF for CR LF.
      if (state() === untouched && (initial !== undefined || optional)) return initial;
      if (isNull?.checked) return null;
      const {validationMessage, value} = input;
      if (validationMessage || !(value || empty)) throw Error(validationMessage || "Enter a value.");
      if (!value || kind === "json") return JSON.parse(value || empty);
      if (kind === "number") {
        if (/^-?\d{16,}$/.test(value) && BigInt(value) !== BigInt(+value)) throw Error("This number has too many digits.");
        return +value;
      }
      // Browsers leave out seconds that are zero.
      return input.type === "datetime-local" ? `${value.padEnd(19, ":00")}Z` : value;
    },
    rebase: (value) => state() === untouched && set(value),
    fail(message) {
      $(".error", element).textContent = message;
      input.ariaInvalid = message !== "";
    },
  };
}

/** The form "create" or "change". `row` has its values, without it the defaults; the columns `locked` can't be edited. */
export function rowForm(name, row, locked = []) {
  const element = clone(name);
  const fields = [...element.querySelectorAll(".field")].map((each) => fieldOf(each, row, locked));
  return {
    element,
    /** The request body, without the values that `base` has. */
    body(base) {
      const body = {}, errors = [];
      for (const {column, read} of fields) {
        try {
          const value = read();
          if (!same(value, base?.[column])) body[column] = value;
        } catch ({message}) {
          errors.push({loc: ["body", column], msg: message});
        }
      }
      if (errors.length) throw new Problem(422, {errors});
      return body;
    },
    /** Show a newer version of the row in the fields that nobody has edited. */
    rebase: (current) => fields.forEach(({column, rebase}) => rebase(current[column])),
    /** Show errors beside their fields. Return what to say about the others. */
    show(errors) {
      for (const {fail} of fields) fail("");
      let others = "";
      for (const {loc: [, column, ...rest], msg} of errors) {
        const field = fields.find((each) => each.column === column);
        if (field) field.fail([...rest, msg].join(": "));
        else others += `${msg}. `;
      }
      $("[aria-invalid=true]", element)?.focus();
      return others || "Correct the marked fields.";
    },
  };
}
