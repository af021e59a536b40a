// A form for a row, from the JSON Schema of a body and the CQL types. The service decides what is valid.

import {Problem} from "./api.js";
import {h} from "./dom.js";

const HINTS = {
  timestamp: "UTC", decimal: "such as 21.350", time: "such as 08:30:00.5", duration: "such as P1Y2M3DT4H5M6.5S",
  inet: "such as 2001:db8::1", blob: "base64, such as AP8Q", uuid: "such as 123e4567-e89b-42d3-a456-426614174000",
  timeuuid: "UUID of version 1",
};

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function fieldOf(column, type, schema, required, initial, locked) {
  // Alternatives have a type only if one of them is null.
  const rule = schema.anyOf?.find((each) => each.type && each.type !== "null") ?? schema;
  const nullable = rule !== schema;
  const isNumber = /integer|number/.test(rule.type);
  const isJson = !isNumber && rule.type !== "string";
  const isText = /^(text|ascii|blob)$/.test(type) && !rule.format;
  const allowsEmpty = isText && !rule.minLength;
  const id = `field-${column}`;
  const common = {id, readonly: locked, autofocus: !locked, dir: "auto", "aria-describedby": `${id}-help`};
  // No maxlength: browsers count an emoji as two.
  const input =
    rule.type === "boolean" && !locked
      ? h("select", common, h("option", {value: ""}, nullable ? "null" : "Choose …"), ["true", "false"].map((each) => h("option", {}, each)))
      : isJson || (isText && !(rule.maxLength < 500))
        ? h("textarea", common)
        : h("input", {
          ...common,
          type: isNumber ? "number" : {date: "date", timestamp: "datetime-local"}[type],
          inputmode: {email: "email", iri: "url"}[rule.format],
          min: rule.minimum,
          max: rule.maximum,
          step: {number: "any", string: 0.001}[rule.type],
        });
  const isNull = nullable && allowsEmpty ? h("input", {type: "checkbox"}) : null;
  input.addEventListener("input", () => isNull && (isNull.checked = false));
  isNull?.addEventListener("change", () => (input.value = ""));
  const state = () => [input.value, input.validity.badInput, isNull?.checked].join();
  let untouched;
  const set = (value) => {
    initial = value;
    const text = value == null ? "" : isJson ? JSON.stringify(value) : String(value);
    input.value = input.type === "datetime-local" ? text.slice(0, -1) : text;
    if (text && !input.value) {
      // A year before 1 or after 9999.
      input.type = "text";
      input.value = text;
    }
    if (isNull) isNull.checked = value === null;
    untouched = state();
  };
  set(initial);
  const error = h("span", {class: "error"});
  const hints = [type, required && "required", locked && "part of the key", isJson && "as JSON",
    rule.type === "number" && "NaN and infinity read as null", HINTS[type]];

  return {
    column,
    element: h("div", {class: "field"},
      h("label", {for: id}, column),
      input,
      isNull && h("label", {class: "check"}, isNull, `${column} is null`),
      h("small", {id: `${id}-help`}, error, hints.filter(Boolean).join(", "))),
    read() {
      // The input may show less than the value has, such as LF for CR LF.
      if (state() === untouched && (initial !== undefined || !required)) return initial;
      if (isNull?.checked) return null;
      const {validationMessage, value} = input;
      if (validationMessage) throw Error(validationMessage);
      if (!value && !allowsEmpty) {
        if (nullable) return null;
        if (rule.type === "array") return [];
        if ("default" in schema) return schema.default;
        throw Error("Enter a value.");
      }
      if (isJson) return JSON.parse(value);
      if (/^-?\d{16,}$/.test(value) && isNumber && BigInt(value) !== BigInt(+value)) throw Error("This number has too many digits.");
      if (isNumber) return +value;
      // Browsers leave out seconds that are zero.
      return input.type === "datetime-local" ? `${value.padEnd(19, ":00")}Z` : value;
    },
    rebase: (value) => state() === untouched && set(value),
    fail(message) {
      error.textContent = message;
      input.ariaInvalid = message !== "";
    },
  };
}

/** A form for a row. The columns `locked` can't be edited. */
export function rowForm(facts, schema, row, locked = []) {
  const fields = Object.entries(schema.properties).map(([column, rule]) => fieldOf(column, facts.columns[column], rule,
    schema.required?.includes(column), row ? row[column] : rule.default, locked.includes(column)));
  const note = facts.versioned ? null : "Save replaces the row that has this key, also what others change meanwhile.";
  const element = h("div", {}, note, fields.map((each) => each.element));
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
      element.querySelector("[aria-invalid=true]")?.focus();
      return others || "Correct the marked fields.";
    },
  };
}
