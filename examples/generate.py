"""Makes the data sets of the examples: the same ones each time."""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
START = 1_760_000_000_000  # ms since the epoch


def write(name, rows):
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    (HERE / name).write_text(text)


def telemetry(chance):
    sites = [("Oslo", 59.91), ("Pune", 18.52), ("Lima", -12.05)]
    for i in range(200):
        city, latitude = chance.choice(sites)
        yield {
            "device": f"pump-{chance.randrange(12):02}",
            "temperature": round(chance.gauss(68, 9), 1),
            "vibration": round(abs(chance.gauss(2, 1.2)), 2),
            "status": chance.choice(["ok", "ok", "ok", "ok", "service"]),
            "site": {"city": city, "latitude": latitude},
            "cells": [round(chance.uniform(3.1, 4.2), 2) for _ in range(3)],
            "ts": START + 250 * i,
        }


def trades(chance):
    prices = {"ACME": 120.0, "GLOBEX": 64.0, "INITECH": 18.5}
    time = START
    for i in range(300):
        time += chance.randrange(40, 400)
        symbol = chance.choice(list(prices))
        prices[symbol] = round(prices[symbol] * (1 + chance.gauss(0, 0.002)), 2)
        # Feeds are not in order: some trades are told a little late.
        yield {"symbol": symbol, "price": prices[symbol], "size": chance.randrange(1, 50) * 10,
               "ts": time - (chance.randrange(900) if i % 17 == 0 else 0)}


def quotes(chance):
    prices = {"ACME": 120.0, "GLOBEX": 64.0, "INITECH": 18.5}
    for i in range(200):
        symbol = chance.choice(list(prices))
        half = round(prices[symbol] * chance.uniform(0.0002, 0.002), 2)
        yield {"symbol": symbol, "bid": round(prices[symbol] - half, 2), "ask": round(prices[symbol] + half, 2),
               "ts": START + 300 * i}


def game(chance):
    players = ["ada", "bob", "cyd", "dee", "eve"]
    for i in range(240):
        kind = chance.choices(["hit", "move", "chat"], [4, 5, 1])[0]
        row = {"player": chance.choice(players), "event": kind, "match": 1 + i // 80}
        if kind == "hit":
            row["points"] = chance.randrange(1, 11)
            row["at"] = {"x": chance.randrange(100), "y": chance.randrange(100)}
        elif kind == "chat":
            row["text"] = chance.choice(["  need HELP at the gate", "gg", "well played ", "help me", "brb"])
        yield row


def requests(chance):
    time = START
    for _ in range(400):
        time += chance.randrange(20, 140)
        service = chance.choices(["api", "web", "auth"], [5, 4, 1])[0]
        slow = chance.random() < 0.06
        yield {
            "service": service,
            "path": chance.choice(["/", "/login", "/items", "/search"]),
            "status": chance.choices([200, 304, 404, 500, 503], [80, 8, 6, 4, 2])[0],
            "ms": chance.randrange(200, 900) if slow else chance.randrange(3, 60),
            "ts": time,
        }


for name, rows in [
    ("telemetry/data.ndjson", telemetry),
    ("market/trades.ndjson", trades),
    ("market/quotes.ndjson", quotes),
    ("game/data.ndjson", game),
    ("dashboard/data.ndjson", requests),
]:
    write(name, rows(random.Random(name)))
