"""Perspective's Python server beside a live view: one table that all clients watch.

Usage: perspective_peer.py CLIENTS ROUNDS ROWS. Runs the server in a process of its own, sends ROWS changed rows a round, waits
until each client has the update, and prints `{"cpu": seconds, "rows": delivered}`: CPU is that of the server. The server
gets the messages that the benchmark sends to Plutino, over a websocket, and updates its table once a round.

Needs `perspective-python`, `tornado` and `websockets`; exits with 77 where one is missing.
"""

import asyncio
import json
import os
import subprocess
import sys

try:
    import perspective
    import tornado.ioloop
    import tornado.web
    import tornado.websocket
    import websockets
    from perspective.handlers.tornado import PerspectiveTornadoHandler
except ImportError as missing:
    print(f"{missing.name} is not installed")
    sys.exit(77)

SCHEMA = {"id": "integer", "site": "string", "t": "float", "sent": "integer"}


def message(number, t):
    row = {"id": number, "site": f"hall-{number % 20:02}", "t": t + 0.5, "sent": 0, "unit": "C", "ok": True}
    return json.dumps(row, separators=(",", ":"))


def serve(rows):
    """The server: `/in` takes messages, `/websocket` is Perspective's own protocol."""
    server = perspective.Server()
    table = server.new_local_client().table(SCHEMA, index="id", name="fleet")

    class Feed(tornado.websocket.WebSocketHandler):
        def open(self):
            self.waiting = []

        def on_message(self, text):
            row = json.loads(text)
            self.waiting.append({name: row[name] for name in SCHEMA})
            if len(self.waiting) == rows:
                table.update(self.waiting)
                self.waiting = []

    app = tornado.web.Application(
        [("/in", Feed), ("/websocket", PerspectiveTornadoHandler, {"perspective_server": server})]
    )
    listening = app.listen(0, "127.0.0.1")
    port = next(iter(listening._sockets.values())).getsockname()[1]
    print(port, flush=True)
    tornado.ioloop.IOLoop.current().start()


def cpu(pid):
    """User and system seconds of a process."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watcher:
    """A client with a view of the whole table."""

    def __init__(self):
        self.updates = 0

    async def watch(self, port):
        self.socket = await websockets.connect(f"ws://127.0.0.1:{port}/websocket", max_size=None, compression=None)
        self.client = perspective.AsyncClient(self.socket.send)
        self.reading = asyncio.create_task(self.read())
        table = await self.client.open_table("fleet")
        self.view = await table.view()
        await self.view.on_update(self.count, mode="row")

    async def read(self):
        async for response in self.socket:
            await self.client.handle_response(response)

    def count(self, *_):
        self.updates += 1


async def measure(port, pid, clients, rounds, rows):
    watchers = [Watcher() for _ in range(clients)]
    for watcher in watchers:
        await watcher.watch(port)
    async with websockets.connect(f"ws://127.0.0.1:{port}/in", compression=None) as feed:
        before = cpu(pid)
        for number in range(rounds):
            for row in range(rows):
                await feed.send(message(row, number))
            while any(watcher.updates <= number for watcher in watchers):
                await asyncio.sleep(0.001)
        print(json.dumps({"cpu": cpu(pid) - before, "rows": clients * rounds * rows}))


def main():
    if sys.argv[1] == "serve":
        return serve(int(sys.argv[2]))
    clients, rounds, rows = map(int, sys.argv[1:4])
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(rows)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        port = int(server.stdout.readline())
        asyncio.run(measure(port, server.pid, clients, rounds, rows))
    finally:
        server.kill()
        server.wait()
    # Threads of the library may still run.
    sys.stdout.flush()
    os._exit(0)


main()
