// Requests to the service that this page came from, their errors, and the same requests as curl commands.

let key = sessionStorage.getItem("key");
let bundle = null; // fingerprint of the bundle that made everything on the page

export function useKey(text) {
  key = text;
  sessionStorage.setItem("key", text);
}

// From now on, a response of another bundle is an Error, and dispatches a "bundle" event that aborts what is under way.
export function useBundle(fingerprint) {
  bundle = fingerprint;
}

const addressOf = (path) => new URL(`.${path}`, document.baseURI).href; // the service may be mounted below a prefix

// Returns the response to a request, or throws an Error whose message can be shown to the user.
export async function ask(path, body, signal) {
  const options = { headers: key ? { Authorization: `Bearer ${key}` } : {}, signal };
  if (body) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(addressOf(path), options);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new Error("The service does not respond. It may have stopped, or the network may be down; try again.");
  }
  const made = answer.headers.get("x-bundle");
  if (bundle && made && made !== bundle) {
    bundle = null;
    const reason = new Error("The service now uses another bundle, so results of the previous one were discarded; try again.");
    document.dispatchEvent(new CustomEvent("bundle", { detail: reason }));
    throw reason;
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.getElementById("key").hidden = false;
  const { message, param } = (await answer.json().catch(() => null))?.error ?? {};
  throw new Error(message ? (param ? `${param}: ${message}` : message) : `The service responded with status ${answer.status}.`);
}

export async function askJson(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

export const pictureOf = ({ image, media_type }) => `data:${media_type ?? "image/png"};base64,${image}`;

// The images of packed latents, as data URLs for <img>.
export async function decoded(latents, signal) {
  const { results } = await askJson("/v1/decode", { latents }, signal);
  return results.map(pictureOf);
}

// Copies an element's text. On pages by plain HTTP browsers have no clipboard API: there it selects the text and tries execCommand.
async function copied(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// Shows the curl commands that get the same result, with a button that copies them.
export function showCurl(place, commands) {
  const text = commands
    .map(({ path, body, out }) => {
      const words = key ? ["-H 'authorization: Bearer YOUR-KEY'"] : [];
      words.push("-H 'content-type: application/json'", `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`);
      return `curl -o ${out} ${words.join(" ")} ${addressOf(path)}`;
    })
    .join("\n");
  const details = document.createElement("details");
  const [summary, pre, copy] = ["summary", "pre", "button"].map((name) => document.createElement(name));
  summary.textContent = "The same with curl";
  pre.textContent = text;
  pre.tabIndex = 0;
  copy.textContent = "Copy";
  copy.type = "button";
  copy.addEventListener("click", async () => {
    copy.textContent = (await copied(pre)) ? "Copied" : "Selected: copy it with the keyboard";
  });
  details.append(summary, pre, copy);
  details.open = place.querySelector("details")?.open ?? false;
  place.replaceChildren(details);
}

// Returns a function that runs one piece of work at a time: a newer call or a swap of the bundle aborts the current one. It shows
// progress and errors in `status`, and resolves to whether the work was done.
export function runner(status) {
  let running = null;
  document.addEventListener("bundle", (event) => running?.abort(event.detail));
  return async (saying, work) => {
    running?.abort();
    const mine = (running = new AbortController());
    let shown;
    const say = (text) => (shown = status.textContent = text);
    status.classList.remove("wrong");
    say(saying);
    try {
      const said = await work(mine.signal, say);
      if (running === mine && status.textContent === shown) say(said ?? ""); // else another runner has written there
      return running === mine;
    } catch (error) {
      if (error.name === "AbortError") return false;
      status.classList.add("wrong");
      status.textContent = error.message;
      return false;
    } finally {
      if (running === mine) running = null;
    }
  };
}
