// What the address holds behind its #: names and values.

const state = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const written = (params) => [...params].map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2F", "/")}`).join("&");

/** Writes what changed into the address, without a step of the history; what is "" is left out. */
function note(changes) {
  const params = state();
  for (const [name, value] of Object.entries(changes)) {
    if (value === "") params.delete(name); else params.set(name, value);
  }
  history.replaceState(null, "", `${location.href.split("#")[0]}${params.size ? `#${written(params)}` : ""}`);
}
