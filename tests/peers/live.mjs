// live.mjs URL VIEW PARAMS: after each change, the rows of a view as one line of JSON.
import { createRequire } from "node:module";
import { PlutinoLive } from "../../clients/js/plutino-live.js";

// NODE_PATH is searched for CommonJS only.
const WebSocket = createRequire(import.meta.url)("ws");
const [url, view, params] = process.argv.slice(2);
const live = new PlutinoLive(url, { WebSocket });
live.subscribe(view, {
  params: JSON.parse(params),
  onChange: ({ rows }) => console.log(JSON.stringify([...rows.values()])),
});
