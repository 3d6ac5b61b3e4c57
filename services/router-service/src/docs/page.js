"use strict";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const state = document.getElementById("state");
const services = document.getElementById("services");
const search = document.getElementById("search");

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function resolve(document, schema, depth) {
  if (!schema || typeof schema !== "object") return schema;
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    if (depth > 5) return { name };
    const found = schema.$ref.slice(2).split("/").reduce((at, key) => at && at[key], document);
    return resolve(document, found, depth + 1);
  }
  if (Array.isArray(schema)) return schema.map((item) => resolve(document, item, depth + 1));
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, resolve(document, value, depth + 1)]));
}

function showSchema(document, title, schema) {
  const box = element("details");
  box.append(element("summary", title));
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) {
      box.append(element("pre", JSON.stringify(resolve(document, schema, 0), null, 2)));
    }
  });
  return box;
}

function showOperation(document, path, method, operation) {
  const box = element("details", undefined, "operation");
  const line = element("summary");
  const secured = (operation.security || []).length > 0;
  line.append(element("span", method.toUpperCase(), "method"), element("code", path));
  line.append(element("span", operation.summary || "", "gist"));
  if (secured) line.append(element("span", "token", "key"));
  box.append(line);
  if (operation.description && operation.description !== operation.summary) box.append(element("p", operation.description));
  const parameters = operation.parameters || [];
  if (parameters.length > 0) {
    const table = element("table");
    for (const parameter of parameters.map((one) => resolve(document, one, 0))) {
      const row = element("tr");
      const type = parameter.schema && (parameter.schema.type || (parameter.schema.oneOf ? "one of" : ""));
      row.append(element("td", `${parameter.name}${parameter.required ? "" : "?"}`), element("td", parameter.in));
      row.append(element("td", Array.isArray(type) ? type.join(" | ") : type || ""), element("td", parameter.description || ""));
      table.append(row);
    }
    box.append(table);
  }
  for (const [type, body] of Object.entries((operation.requestBody || {}).content || {})) {
    box.append(showSchema(document, `Request: ${type}`, body.schema));
  }
  for (const [status, answer] of Object.entries(operation.responses || {})) {
    const content = Object.entries(answer.content || {});
    if (content.length === 0) box.append(element("div", `${status} ${answer.description || ""}`));
    for (const [type, body] of content) {
      box.append(showSchema(document, `${status} ${answer.description || ""} (${type})`, body.schema));
    }
  }
  box.dataset.words = `${method} ${path} ${operation.summary || ""} ${operation.description || ""} ${operation.operationId || ""}`.toLowerCase();
  return box;
}

function show(document) {
  const groups = new Map();
  for (const [path, item] of Object.entries(document.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const tag = (item[method].tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(showOperation(document, path, method, item[method]));
    }
  }
  for (const [tag, operations] of groups) {
    const section = element("section");
    section.append(element("h2", tag), ...operations);
    services.append(section);
  }
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of services.children) {
    let visible = 0;
    for (const box of section.querySelectorAll("details.operation")) {
      box.hidden = !words.every((word) => box.dataset.words.includes(word));
      if (!box.hidden) visible += 1;
    }
    section.hidden = visible === 0;
    count += visible;
  }
  state.dataset.count = count;
  state.textContent = `${count} operations${state.dataset.missing ? `; away now: ${state.dataset.missing}` : ""}`;
}

fetch("/openapi.json")
  .then(async (answer) => {
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    state.dataset.missing = answer.headers.get("x-kronos-missing") || "";
    show(await answer.json());
    filter();
    search.addEventListener("input", filter);
  })
  .catch((error) => {
    state.textContent = `/openapi.json can't be read: ${error.message}`;
  });
