// Questions to the server that this page came from; nothing else is ever asked.

export class Problem extends Error {}

async function answered(response) {
  if (response.ok) return response.status === 204 ? null : response.json();
  let said = `the server answered ${response.status}`;
  try {
    said = (await response.json()).error ?? said;
  } catch {
    // no JSON: the status says it
  }
  throw new Problem(said);
}

async function ask(path, options = {}) {
  try {
    return await answered(await fetch(path, { credentials: "same-origin", ...options }));
  } catch (error) {
    if (error instanceof TypeError) throw new Problem("the server does not answer; does it still run?");
    throw error;
  }
}

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== false && value != null);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

export const get = (path, values = {}, options = {}) => ask(`api/${path}?${query(values)}`, options);

export const post = (path, values, options = {}) =>
  ask(`api/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(values),
    ...options,
  });

// the name of the file is not sent: it may be a patient's
export const send = (path, values, file, options = {}) =>
  ask(`api/upload/${path}?${query(values)}`, {
    method: "POST",
    headers: { "content-type": "application/octet-stream" },
    body: file,
    ...options,
  });

export const pictureOf = (id, backbone) => `api/picture?${query({ id, backbone })}`;

// the token stands behind # in the address that was printed; it becomes a cookie, and goes away
export async function enter() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  history.replaceState(null, "", "#search");
  await ask("api/session", { method: "POST", headers: { authorization: `Bearer ${found[1]}` } });
}
