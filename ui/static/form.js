// A form for a row, from the JSON Schema of a body and the CQL types. The service decides what is valid.

import {Problem} from "./api.js";
import {h} from "./dom.js";

const HINTS = {
  timestamp: "UTC",
  float: "NaN and infinity read as null",
  double: "NaN and infinity read as null",
  decimal: "such as 21.350",
  time: "such as 08:30:00.5",
  duration: "such as P1Y2M3DT4H5M6.5S",
  inet: "such as 2001:db8::1",
  blob: "base64, such as AP8Q",
  uuid: "such as 123e4567-e89b-42d3-a456-426614174000",
  timeuuid: "UUID of version 1",
};

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function fieldOf(column, type, schema, required, initial, locked) {
  // null | T, but not inet: its alternatives have no type.
  const rule = schema.anyOf?.find((each) => each.type && each.type !== "null") ?? schema;
  const nullable = rule !== schema;
  const isNumber = /integer|number/.test(rule.type);
  const isChoice = rule.type === "boolean" && !locked;
  const isJson = !isNumber && rule.type !== "string";
  const isText = !isJson && !rule.format && /^(text|ascii|blob)$/.test(type);
  const allowsEmpty = isText && !rule.minLength;

  const id = `field-${column}`;
  const common = {id, readonly: locked, autofocus: !locked, dir: "auto", "aria-describedby": `${id}-hint ${id}-error`};
  // No maxlength: browsers count an emoji as two.
  const control = isChoice
    ? h("select", common, h("option", {value: ""}, nullable ? "null" : "Choose …"), h("option", {}, "true"), h("option", {}, "false"))
    : isJson || (isText && !(rule.maxLength < 500))
      ? h("textarea", {...common, rows: 3})
      : h("input", {
        ...common,
        type: isNumber ? "number" : {date: "date", timestamp: "datetime-local"}[type],
        inputmode: {email: "email", iri: "url"}[rule.format],
        min: rule.minimum,
        max: rule.maximum ?? (rule.exclusiveMaximum && rule.exclusiveMaximum - 1),
        step: rule.type === "integer" ? 1 : isNumber ? "any" : 0.001,
      });
  const nothing = nullable && allowsEmpty ? h("input", {type: "checkbox"}) : null;
  control.addEventListener("input", () => nothing && (nothing.checked = false));
  nothing?.addEventListener("change", () => nothing.checked && (control.value = ""));

  let shown;
  const set = (value) => {
    initial = value;
    const text = value == null ? "" : isJson ? JSON.stringify(value) : String(value);
    control.value = control.type === "datetime-local" ? text.slice(0, -1) : text;
    // Pickers have no years before 1 or after 9999.
    if (text && !control.value) {
      control.type = "text";
      control.value = text;
    }
    shown = control.value;
    if (nothing) nothing.checked = value === null;
  };
  set(initial);
  const untouched = () =>
    control.value === shown && !control.validity.badInput && !(nothing && nothing.checked !== (initial === null));

  function read() {
    const text = control.value;
    // The input may show less than the value has, such as LF for CR LF.
    if (untouched() && (initial !== undefined || !required)) return initial;
    if (nothing?.checked) return null;
    if (!control.validity.valid) throw Error(control.validationMessage);
    if (!text && !allowsEmpty) {
      if (nullable) return null;
      if (rule.type === "array") return [];
      if ("default" in schema) return schema.default;
      throw Error("Enter a value.");
    }
    if (isJson) return JSON.parse(text);
    if (isNumber && /^-?\d+$/.test(text) && BigInt(text) !== BigInt(+text)) throw Error("This number has too many digits.");
    if (isNumber) return +text;
    // Browsers leave out seconds that are zero.
    return control.type === "datetime-local" ? `${text.padEnd(19, ":00")}Z` : text;
  }

  const error = h("p", {id: `${id}-error`, class: "error"});
  const hints = [type, required && "required", locked && "part of the key", isJson && !isChoice && "as JSON", HINTS[type]];
  return {
    column,
    element: h("div", {class: "field"},
      h("label", {for: id}, column),
      control,
      nothing && h("label", {class: "check"}, nothing, `${column} is null`),
      h("small", {id: `${id}-hint`, class: "muted"}, hints.filter(Boolean).join(", ")),
      error),
    read(changes) {
      const value = read();
      return changes && same(value, initial) ? undefined : value;
    },
    fail(text) {
      error.textContent = text;
      control.ariaInvalid = String(text !== "");
    },
    rebase(value) {
      if (untouched()) set(value);
      else [initial, shown] = [value];
    },
  };
}

/** A form for a row. The columns `locked` can't be edited. */
export function rowForm(facts, schema, row, locked = []) {
  const fields = Object.entries(schema.properties).map(([column, rule]) => fieldOf(
    column, facts.columns[column], rule, schema.required?.includes(column), row ? row[column] : rule.default,
    locked.includes(column)));
  const element = h("div", {}, fields.map((each) => each.element));
  return {
    element,
    /** The request body, with `changes` only what was edited. Raise a Problem if it is not valid. */
    body(changes) {
      const errors = [];
      const values = fields.map(({column, read}) => {
        try {
          return [column, read(changes)];
        } catch ({message}) {
          errors.push({loc: ["body", column], msg: message});
        }
      });
      if (errors.length) throw new Problem(422, {errors});
      return Object.fromEntries(values.filter(([, value]) => value !== undefined));
    },
    /** Show errors beside their fields. Return the others. */
    show(errors) {
      for (const {fail} of fields) fail("");
      const others = errors.filter(({loc: [part, column, ...rest], msg}) => {
        const field = part === "body" && fields.find((each) => each.column === column);
        field?.fail?.([...rest, msg].join(": "));
        return !field;
      });
      element.querySelector("[aria-invalid=true]")?.focus();
      return others.map(({loc, msg}) => `${loc.join(".")}: ${msg}`);
    },
    /** Show a newer version of the row, except where somebody has typed. */
    rebase: (current) => fields.forEach(({column, rebase}) => rebase(current[column])),
  };
}
