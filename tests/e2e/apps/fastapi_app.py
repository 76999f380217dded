"""FastAPI. Run by uvicorn as `fastapi_app:app`.

With UPSTREAM and DATABASE (both `host:port`) set, the app is also a client: it opens a connection to each when
it starts and another when first asked.
"""

import asyncio
import http.client
import os
import socket
import threading

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from filler import ITEMS, chunks, filler, item

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


class Item(BaseModel):
    name: str
    price: float


def missing():
    return JSONResponse({"detail": "no such item"}, status_code=404)


@app.api_route("/items", methods=["GET", "HEAD"])
async def list_items():
    return [item(id) for id in range(10)]


@app.post("/items", status_code=201)
async def create_item(body: Item):
    return {"id": ITEMS, **body.model_dump()}


@app.get("/items/{id}")
async def get_item(id: int):
    return item(id) if id < ITEMS else missing()


@app.put("/items/{id}")
async def replace_item(id: int, body: Item):
    return {"id": id, **body.model_dump()} if id < ITEMS else missing()


@app.delete("/items/{id}")
async def delete_item(id: int):
    return Response(status_code=204) if id < ITEMS else missing()


@app.api_route("/blob/{length}", methods=["GET", "HEAD"])
async def blob(length: int):
    return Response(filler(length), media_type="application/octet-stream")


@app.get("/chunked/{length}")
async def chunked(length: int):
    async def body():
        for chunk in chunks(length):
            yield chunk

    return StreamingResponse(body(), media_type="application/octet-stream")


@app.get("/sized-stream/{length}")
async def sized_stream(length: int):
    """Any length without holding it in memory."""

    async def body():
        piece = filler(1 << 20)
        left = length
        while left > 0:
            yield piece[:left]
            left -= len(piece)

    return StreamingResponse(body(), media_type="application/octet-stream", headers={"content-length": str(length)})


@app.post("/upload")
async def upload(request: Request):
    received = 0
    async for piece in request.stream():
        received += len(piece)
    return {"received": received}


@app.get("/slow/{ms}")
async def slow(ms: int):
    await asyncio.sleep(ms / 1000)
    return {"slept": ms}


@app.get("/drip/{ms}")
async def drip(ms: int):
    async def drops():
        yield b"first\n"
        await asyncio.sleep(ms / 1000)
        yield b"last\n"

    return StreamingResponse(drops(), media_type="text/plain")


@app.get("/status/{code}")
async def status(code: int):
    return Response(b"" if code in (204, 304) else b"as you wish\n", status_code=code, media_type="text/plain")


class Upstream:
    """One kept-alive HTTP connection to another server."""

    def __init__(self):
        self.lock = threading.Lock()
        self.connection = http.client.HTTPConnection(os.environ["UPSTREAM"])

    def call(self):
        with self.lock:
            self.connection.request("GET", "/upstream/7")
            return {"answer": self.connection.getresponse().read().decode()}


class Database:
    """One connection to a database. It greets; then each command is answered by a line with a length and, read
    on its own, a value of that length. The value of `REQ` reads like a request."""

    def __init__(self):
        self.lock = threading.Lock()
        host, port = os.environ["DATABASE"].split(":")
        self.stream = socket.create_connection((host, int(port))).makefile("rwb", buffering=0)
        assert self.stream.readline().startswith(b"+ready")

    def call(self, command=b"ROW"):
        with self.lock:
            self.stream.write(b"*1\r\n$3\r\n" + command + b"\r\n")
            length = int(self.stream.readline().removeprefix(b"$"))
            value = b""
            while len(value) < length:
                value += self.stream.read(length - len(value))
            return {"answer": len(value)}


opened_at_start = {}
opened_when_asked = {}

for name, peer in (("UPSTREAM", Upstream), ("DATABASE", Database)):
    if name in os.environ:
        opened_at_start[name] = peer()
        opened_at_start[name].call()


def when_asked(name, peer):
    if name not in opened_when_asked:
        opened_when_asked[name] = peer()
    return opened_when_asked[name]


@app.get("/upstream/old")
def upstream_old():
    return opened_at_start["UPSTREAM"].call()


@app.get("/upstream/new")
def upstream_new():
    return when_asked("UPSTREAM", Upstream).call()


@app.get("/database/old")
def database_old():
    return opened_at_start["DATABASE"].call()


@app.get("/database/new")
def database_new():
    return when_asked("DATABASE", Database).call(b"REQ")
