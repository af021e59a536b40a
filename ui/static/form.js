// A form for a row, from the JSON Schema of a request body and the CQL types. What is valid, the service decides.

import {h} from "./dom.js";

const EXAMPLES = {
  bigint: "-42", varint: "-42", decimal: "21.350", time: "08:30:00.5", duration: "P1Y2M3DT4H5M6.5S",
  inet: "2001:db8::1", uuid: "123e4567-e89b-42d3-a456-426614174000", timeuuid: "8a1dac20-c0a5-11f0-8de9-0242ac120002",
  blob: "AP8Q (base64)",
};
const INPUTS = {date: "date", timestamp: "datetime-local", integer: "number", number: "number"};
const MODES = {bigint: "numeric", varint: "numeric", decimal: "decimal", email: "email", iri: "url"};

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function fieldOf(column, type, schema, required, initial, locked) {
  const nullable = schema.anyOf?.some((each) => each.type === "null");
  const rule = nullable ? schema.anyOf.find((each) => each.type !== "null") : schema;
  const isChoice = !locked && (rule.enum || rule.type === "boolean");
  const isNumber = ["integer", "number"].includes(rule.type);
  const isJson = isChoice || (!isNumber && rule.type !== "string");
  const isText = ["text", "ascii", "blob"].includes(type) && !isJson && !rule.format;
  const pattern = rule.pattern && new RegExp(rule.pattern, "u");
  const allowsEmpty = isText && !rule.minLength && (!pattern || pattern.test(""));

  const id = `field-${column}`;
  const common = {id, readonly: locked, autocomplete: "off", "aria-describedby": `${id}-hint ${id}-error`};
  const values = [initial, ...(nullable ? [null] : []), ...(rule.enum ?? [true, false])];
  const control = isChoice
    ? h("select", common, [...new Set(values)].map((each) => h("option", {value: JSON.stringify(each) ?? ""}, JSON.stringify(each) ?? "Choose …")))
    // No maxlength: browsers count an emoji as two characters.
    : isJson || (isText && !(rule.maxLength <= 500))
      ? h("textarea", {...common, rows: 3, dir: "auto"})
      : h("input", {
        ...common,
        type: (!locked && (INPUTS[type] ?? INPUTS[rule.type])) || "text",
        dir: "auto",
        inputmode: MODES[type] ?? MODES[rule.format],
        min: rule.minimum,
        max: rule.maximum ?? (rule.exclusiveMaximum && rule.exclusiveMaximum - 1),
        step: {timestamp: 0.001}[type] ?? (rule.type === "number" ? "any" : null),
      });
  // Empty text is not null.
  const nothing = nullable && allowsEmpty ? h("input", {type: "checkbox"}) : null;
  const error = h("p", {id: `${id}-error`, class: "error"});

  let shown;
  const set = (value) => {
    initial = value;
    const text = isJson ? JSON.stringify(value) ?? "" : String(value ?? "");
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
  control.addEventListener("input", () => nothing && (nothing.checked = false));
  nothing?.addEventListener("change", () => nothing.checked && (control.value = ""));

  const untouched = () =>
    control.value === shown && !control.validity.badInput && (!nothing || nothing.checked === (initial === null));
  const parse = (text) => {
    // The control may show less than there is, such as LF for CR LF.
    if (untouched() && (initial !== undefined || !required)) return initial;
    if (nothing?.checked) return null;
    if (!control.validity.valid) throw Error(control.validationMessage);
    if (!text && !allowsEmpty) {
      if (nullable) return null;
      if (isJson && !isChoice) return rule.type === "array" ? [] : {};
      if ("default" in schema) return schema.default;
      throw Error("Enter a value.");
    }
    if (isJson) return JSON.parse(text);
    if (isNumber) {
      if (/^-?\d+$/.test(text) && BigInt(text) !== BigInt(+text)) throw Error("The number has too many digits.");
      return +text;
    }
    // Browsers leave out seconds that are zero.
    const value = control.type === "datetime-local" ? `${text.padEnd(19, ":00")}Z` : text;
    if (EXAMPLES[type] && pattern && !pattern.test(value)) throw Error(`Use this form: ${EXAMPLES[type]}`);
    return value;
  };

  const hint = [
    type,
    locked ? "part of the key" : required ? "required" : nullable && "may be null",
    isJson && !isChoice && "as JSON",
    type === "timestamp" && "UTC",
    rule.type === "number" && "NaN and infinity read as null",
    control.min && `from ${control.min}`,
    control.max && `to ${control.max}`,
    EXAMPLES[type] && `for example ${EXAMPLES[type]}`,
  ].filter(Boolean).join(", ");
  return {
    column, control, locked,
    element: h("div", {class: "field"},
      h("label", {for: id}, column),
      control,
      nothing && h("label", {class: "check"}, nothing, `${column} is null`),
      h("small", {id: `${id}-hint`, class: "muted"}, hint),
      error),
    read: () => parse(control.value),
    fail(text) {
      error.textContent = text;
      control.ariaInvalid = String(text !== "");
    },
    unchanged: (value) => same(value, initial),
    rebase(value) {
      if (untouched()) set(value);
      else [initial, shown] = [value, null];
    },
  };
}

/** A form for a row. The columns `locked` can't be edited. */
export function rowForm(facts, schema, row, locked = []) {
  const fields = Object.entries(schema.properties).map(([column, rule]) =>
    fieldOf(column, facts.columns[column], rule, schema.required?.includes(column), row ? row[column] : rule.default,
      locked.includes(column)));
  fields.find((each) => !each.locked)?.control.setAttribute("autofocus", "");
  const focus = () => fields.find(({control}) => control.ariaInvalid === "true")?.control.focus();
  return {
    element: h("div", {}, fields.map(({element}) => element)),
    /** The request body, with `changes` only what was changed; undefined if a value is invalid. */
    body(changes) {
      const body = {};
      let valid = true;
      for (const {column, fail, read, unchanged} of fields) {
        fail("");
        try {
          const value = read();
          if (value !== undefined && !(changes && unchanged(value))) body[column] = value;
        } catch (error) {
          fail(error.message);
          valid = false;
        }
      }
      focus();
      return valid ? body : undefined;
    },
    /** Show errors of the service beside their fields. Return those of no field. */
    show(errors) {
      const others = errors.filter(({loc: [part, column, ...rest], msg}) => {
        const field = part === "body" && fields.find((each) => each.column === column);
        return field ? field.fail([...rest, msg].join(": ")) : true;
      });
      focus();
      return others.map(({loc, msg}) => `${loc.join(".")}: ${msg}`);
    },
    /** Take over a newer version of the row, except where somebody has typed. */
    rebase: (current) => fields.forEach(({column, rebase}) => rebase(current[column])),
  };
}
