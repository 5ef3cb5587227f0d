// A TLS websocket peer: `echo.mjs server CERT KEY` or `echo.mjs client CERT URL`. It returns what it gets.
import { createRequire } from "node:module";
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
const { WebSocket, WebSocketServer } = createRequire(import.meta.url)("ws");
const [role, cert, last] = process.argv.slice(2);
const echo = (ws) => ws.on("message", (data, binary) => ws.send(data, { binary }));
if (role === "server") {
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(last) });
  new WebSocketServer({ server }).on("connection", echo);
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
} else {
  const ws = new WebSocket(last, { ca: readFileSync(cert) });
  echo(ws);
  ws.on("open", () => console.log("open"));
}
