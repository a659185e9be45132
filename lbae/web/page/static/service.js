// Requests to the service that this page came from, what goes wrong with them, and the same request as a curl command.

let key = sessionStorage.getItem("key");
let bundle = null; // the one that all the page shows was made with

export function useKey(text) {
  key = text;
  sessionStorage.setItem("key", text);
}

// From now on an answer that another bundle made is none to use: a "bundle" event, and an Error for what is under way.
export function useBundle(fingerprint) {
  bundle = fingerprint;
}

const addressOf = (path) => new URL(`.${path}`, document.baseURI).href; // the service may be mounted below a prefix

// The answer to a request; an Error whose message can be shown when there is none.
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
    throw new Error("The service does not answer. It may have been stopped, or the network is gone; try again.");
  }
  const made = answer.headers.get("x-bundle");
  if (bundle && made && made !== bundle) {
    bundle = null;
    const reason = new Error("The service has changed to another bundle, and what was made with the one before is gone; try again.");
    document.dispatchEvent(new CustomEvent("bundle", { detail: reason }));
    throw reason;
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.getElementById("key").hidden = false;
  const { message, param } = (await answer.json().catch(() => null))?.error ?? {};
  throw new Error(message ? (param ? `${param}: ${message}` : message) : `The service answered ${answer.status}.`);
}

export async function askJson(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

export const pictureOf = ({ image, media_type }) => `data:${media_type ?? "image/png"};base64,${image}`;

// Images of packed latents as addresses that <img> shows.
export async function decoded(latents, signal) {
  const { results } = await askJson("/v1/decode", { latents }, signal);
  return results.map(pictureOf);
}

// Copies an element's text; where the browser allows that on secure pages only, the old way, or it is left selected.
async function copied(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// Shows what gets the same by curl, with a button that copies it.
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

// Runs what a control asks for, one at a time: a newer call ends the one before, and a change of the bundle ends all. Says in
// `status` how it stands, and whether the work was done.
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
      if (running === mine && status.textContent === shown) say(said ?? ""); // else another has something to say
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
