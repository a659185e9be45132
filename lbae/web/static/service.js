// Requests to the service that this page came from, what goes wrong with them, and the same request as a curl command.

let key = sessionStorage.getItem("key");

export function useKey(text) {
  key = text;
  sessionStorage.setItem("key", text);
}

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
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. It may have been stopped, or the network is gone; try again.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.getElementById("key").hidden = false;
  const fields = await answer.json().catch(() => null);
  throw new Error(fields?.error?.message ?? `The service answered ${answer.status}.`);
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

// Shows what gets the same by curl, with a button that copies it.
export function showCurl(place, commands) {
  const text = commands
    .map(({ path, body, out }) => {
      const words = key ? ["-H 'authorization: Bearer YOUR-KEY'"] : [];
      words.push("-H 'content-type: application/json'", `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`);
      return `curl -o ${out} ${words.join(" ")} ${location.origin}${path}`;
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
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  details.append(summary, pre, copy);
  details.open = place.querySelector("details")?.open ?? false;
  place.replaceChildren(details);
}

// Runs what a control asks for, one at a time: a newer call ends the one before. Says in `status` how it stands.
export function runner(status) {
  let running = null;
  return async (saying, work) => {
    running?.abort();
    const mine = (running = new AbortController());
    status.classList.remove("wrong");
    status.textContent = saying;
    try {
      const said = await work(mine.signal);
      if (running === mine) status.textContent = said ?? "";
    } catch (error) {
      if (error.name === "AbortError") return;
      status.classList.add("wrong");
      status.textContent = error.message;
    }
  };
}
