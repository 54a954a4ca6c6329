"use strict";
// The console's only script: passkeys, and lists that stay current. Pages work without it where codes are used.

const toBytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const byId = (id) => document.getElementById(id);

async function post(path, body) {
  const headers = { "content-type": "application/json", "guard-csrf": document.body.dataset.csrf || "" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.message);
  return said;
}

function complain(error) {
  const alert = byId("alert");
  const left = error.name === "NotAllowedError";
  alert.textContent = left ? "The passkey was not used: it was cancelled, or it took too long." : error.message;
  alert.hidden = false;
  alert.scrollIntoView({ block: "nearest" });
}

let working = false; // a page that is deciding is not replaced under the person's hands

async function busy(button, work) {
  byId("alert").hidden = true;
  working = button.disabled = true;
  try {
    await work();
  } catch (error) {
    complain(error);
    working = button.disabled = false;
  }
}

// ---------------------------------------------------------------- passkeys

const described = (list) => list.map((one) => ({ ...one, id: toBytes(one.id) }));

async function assertion(asked) {
  const wanted = asked.publicKey;
  const publicKey = { ...wanted, challenge: toBytes(wanted.challenge), allowCredentials: described(wanted.allowCredentials) };
  const made = await navigator.credentials.get({ publicKey });
  return {
    once: asked.once,
    credential: toText(made.rawId),
    client_data: toText(made.response.clientDataJSON),
    authenticator_data: toText(made.response.authenticatorData),
    signature: toText(made.response.signature),
  };
}

async function logIn(button) {
  await post("/v1/session", await assertion(await post("/v1/session/assertion", {})));
  location.replace(button.dataset.next);
}

async function enrol() {
  const invitation = location.hash.slice(1);
  const asked = await post("/v1/enrolment", { invitation });
  const wanted = asked.publicKey;
  const publicKey = {
    ...wanted,
    challenge: toBytes(wanted.challenge),
    user: { ...wanted.user, id: toBytes(wanted.user.id) },
    excludeCredentials: described(wanted.excludeCredentials),
  };
  const made = await navigator.credentials.create({ publicKey });
  const done = await post("/v1/enrolment/passkey", {
    invitation,
    once: asked.once,
    client_data: toText(made.response.clientDataJSON),
    attestation: toText(made.response.attestationObject),
  });
  history.replaceState(null, "", "/enrol");
  byId("enrolled-name").textContent = done.subject;
  byId("enrolment").hidden = true;
  byId("enrolled").hidden = false;
  working = false;
}

async function vote(decision) {
  const { id, view } = byId("challenge").dataset;
  const { elements } = byId("vote");
  const note = elements.note.value;
  const also = {};
  for (const name of ["also_uses", "also_minutes", "also_when"])
    if (decision === "approve" && elements[name]?.value.trim()) also[name] = elements[name].value.trim();
  const asked = await post(`/v1/challenges/${id}/assertion`, { decision, view_digest: view, ...also });
  const evidence = { kind: "approval", method: "webauthn", view_digest: view, ...also, ...(await assertion(asked)) };
  if (decision === "approve") await post(`/v1/challenges/${id}/proofs`, { ...evidence, note });
  else await post(`/v1/challenges/${id}/deny`, { ...evidence, because: note });
  location.replace(`/challenges/${id}?done=${decision}`);
}

// ---------------------------------------------------------------- what changes

const html = window.trustedTypes
  ? trustedTypes.createPolicy("guard", { createHTML: (text) => text }) // only the console's own, escaped pages
  : { createHTML: (text) => text };

// One answer after the other: an older one that arrives late must not replace a newer one.
let refreshing = Promise.resolve();
const inTurn = (work) => (refreshing = refreshing.then(work, work));

async function refreshList(place) {
  const answer = await fetch(place.dataset.live + location.search);
  if (answer.status === 401) return location.reload();
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(html.createHTML(await answer.text()), "text/html");
  const at = document.activeElement?.getAttribute("href");
  place.replaceChildren(...fresh.body.childNodes);
  if (at) place.querySelector(`[href="${CSS.escape(at)}"]`)?.focus();
}

async function refreshChallenge(place) {
  const answer = await fetch(`/v1/challenges/${place.dataset.id}`);
  if (!answer.ok) return;
  const now = await answer.json();
  if (working) return;
  if (String(now.version) === place.dataset.version && now.state === place.dataset.state) return;
  if (byId("vote")?.elements.note.value) complain(new Error("This challenge has changed. Reload the page to see how."));
  else location.replace(`/challenges/${place.dataset.id}`);
}

function listen() {
  const list = byId("waiting");
  const challenge = byId("challenge");
  const open = challenge && ["pending", "satisfied"].includes(challenge.dataset.state);
  if (!list && !open) return;
  let source;
  const begin = () => {
    source = new EventSource("/v1/events");
    source.addEventListener("change", (event) => {
      if (list) {
        inTurn(() => refreshList(list));
        document.title = document.title.replace(/^\d+/, JSON.parse(event.data).waiting);
      } else inTurn(() => refreshChallenge(challenge));
    });
    source.addEventListener("error", async () => {
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      const answer = await fetch("/v1/session");
      if (answer.status === 401) location.reload();
      else setTimeout(begin, 5000);
    });
  };
  // A hidden page gives its connection back: browsers open six to one host.
  document.addEventListener("visibilitychange", () => (document.hidden ? source.close() : begin()));
  if (document.hidden) source = { close() {} };
  else begin();
}

function countDown() {
  for (const place of document.querySelectorAll("[data-expires]")) {
    const left = Math.max(0, Number(place.dataset.expires) - Date.now() / 1000);
    place.textContent = left >= 60 ? `${Math.floor(left / 60)} min left` : `${Math.floor(left)} s left`;
  }
}

byId("passkey-login")?.addEventListener("click", (event) => busy(event.target, () => logIn(event.target)));
byId("passkey-enrol")?.addEventListener("click", (event) => busy(event.target, enrol));
for (const button of document.querySelectorAll("[data-passkey]"))
  button.addEventListener("click", () => busy(button, () => vote(button.dataset.passkey)));
listen();
setInterval(countDown, 5000);
