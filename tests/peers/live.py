"""live.py URL VIEW PARAMS: after each change, the rows of a view as one line of JSON."""

import asyncio
import json
import sys

sys.path.insert(0, "../../clients/python")

from plutino_live import PlutinoLive


async def main(url, view, params):
    async with PlutinoLive(url) as live:
        subscription = live.subscribe(view, params=json.loads(params))
        async for _ in subscription:
            print(json.dumps(list(subscription.rows.values())), flush=True)


asyncio.run(main(*sys.argv[1:]))
