"""The matrix's API as a plain ASGI application: `asgi_app:app`."""

import asyncio
import json

from filler import chunks, filler


async def body_length(receive):
    length, more = 0, True
    while more:
        event = await receive()
        length += len(event.get("body", b""))
        more = event.get("more_body", False)
    return length


async def lifespan(receive, send):
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)

    async def answer(status, body=b"", sized=True):
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))] if sized else []
        await send({"type": "http.response.start", "status": status, "headers": fields})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    async def stream(pieces):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    kind, _, number = scope["path"].strip("/").partition("/")
    received = await body_length(receive)
    match scope["method"], kind:
        case "GET" | "HEAD", "blob":
            await answer(200, filler(int(number)))
        case "GET", "chunked":
            await stream(chunks(int(number)))
        case "GET", "status" if number in ("204", "304"):
            await answer(int(number), sized=False)
        case "GET", "status":
            await answer(int(number), b"as you wish\n")
        case "GET", "slow":
            await asyncio.sleep(int(number) / 1000)
            await answer(200, b"slept\n")
        case "DELETE", "items":
            await answer(204, sized=False)
        case "POST", "upload":
            await answer(200, json.dumps({"received": received}).encode())
        case _:
            await answer(404, b"nothing here\n")
