"""A TLS websocket peer: `echo.py server CERT KEY` or `echo.py client CERT URL`. It returns what it gets."""
import asyncio, ssl, sys
import websockets

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    role, cert, last = sys.argv[1:4]
    if role == "server":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, last)
        async with websockets.serve(echo, "localhost", 0, ssl=tls, family=2) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await asyncio.Future()
    else:
        tls = ssl.create_default_context(cafile=cert)
        async with websockets.connect(last, ssl=tls) as ws:
            print("open", flush=True)
            await echo(ws)

asyncio.run(main())
