"""Prints what an endpoint sends. Needs `pip install websockets`.

    python3 examples/client.py ws://localhost:10081/dashboard
"""

import asyncio
import json
import sys

import websockets


async def main(url):
    async with websockets.connect(url) as endpoint:
        async for message in endpoint:
            rows = json.loads(message)
            for row in rows if isinstance(rows, list) else [rows]:
                print("  ".join(f"{key}: {value}" for key, value in row.items()))


url = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:10081/dashboard"
try:
    asyncio.run(main(url))
except KeyboardInterrupt:
    pass
except (OSError, websockets.WebSocketException) as error:
    sys.exit(f"{url}: {error}")
