"""FastAPI with its official client: that of the hub, or with a write token the newer one. Run by uvicorn as
`fastapi_app:app`."""

import asyncio

from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from data import BOOM, CLIENT_ID, CONSUMERS, EDGES, ENV, ITEMS, LARGE, PAUSE, VERSION, WRITE_TOKEN, ZIPPED, pieces

app = FastAPI(title="Side by side", version=VERSION)

if CLIENT_ID:
    from apitally.fastapi import ApitallyConsumer, ApitallyMiddleware

    def consumer(request: Request):
        key = request.headers.get("x-api-key")
        if key not in CONSUMERS:
            return None
        name, group = CONSUMERS[key]
        return ApitallyConsumer(key, name=name, group=group)

    app.add_middleware(
        ApitallyMiddleware,
        client_id=CLIENT_ID,
        env=ENV,
        app_version=VERSION,
        openapi_url="/openapi.json",
        consumer_callback=consumer,
    )

if WRITE_TOKEN:
    import apitally

    @app.middleware("http")
    async def consumer_of(request: Request, answer):
        key = request.headers.get("x-api-key")
        if key in CONSUMERS:
            name, group = CONSUMERS[key]
            apitally.set_consumer(key, name=name, group=group)
        await asyncio.sleep(PAUSE)
        return await answer(request)

    apitally.init(app, write_token=WRITE_TOKEN, env=ENV, app_version=VERSION)


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)


class Login(BaseModel):
    username: str
    password: str
    card: dict | None = None
    tokens: list[dict] | None = None


@app.get("/items")
async def list_items(limit: int = 5):
    return list(ITEMS.values())[:limit]


@app.post("/items", status_code=201)
async def create_item(item: Item):
    return {"id": 6, **item.model_dump()}


@app.get("/items/{item_id}")
async def get_item(item_id: int):
    if item_id not in ITEMS:
        raise HTTPException(404, "no such item")
    return ITEMS[item_id]


@app.put("/items/{item_id}")
async def replace_item(item_id: int, item: Item):
    return {"id": item_id, **item.model_dump()}


@app.delete("/items/{item_id}", status_code=204)
async def delete_item(item_id: int):
    return None


@app.get("/users/{user_id}/orders/{order_id}")
async def get_order(user_id: str, order_id: str):
    return {"user": user_id, "order": order_id}


@app.get("/private")
async def private(x_api_key: str | None = Header(default=None)):
    if x_api_key not in CONSUMERS:
        raise HTTPException(401, "say who you are")
    return {"private": True}


@app.post("/login")
async def login(login: Login):
    response = JSONResponse({"access_token": "t-1", "user": {"name": login.username, "api_secret": "s-1"}})
    response.set_cookie("session", "c-1")
    return response


@app.get("/error")
async def error():
    raise ValueError(BOOM)


@app.get("/stream")
async def stream():
    async def slowly():
        for piece in pieces():
            yield piece
            await asyncio.sleep(0.02)

    return StreamingResponse(slowly(), media_type="text/plain")


@app.get("/gzip")
async def zipped():
    return Response(ZIPPED, media_type="application/json", headers={"Content-Encoding": "gzip"})


@app.get("/text")
async def text():
    return PlainTextResponse("some text")


@app.get("/html")
async def html():
    return HTMLResponse("<p>some text</p>")


@app.get("/big")
async def big():
    return LARGE


@app.get("/edge/{kind}")
async def edge(kind: str):
    return PlainTextResponse(EDGES[kind])


@app.post("/echo")
async def echo(request: Request):
    return {"size": len(await request.body())}


@app.get("/slow")
async def slow():
    await asyncio.sleep(0.035)
    return {"slow": True}


@app.get("/redirect")
async def redirect():
    return Response(status_code=307, headers={"Location": "/items?token=t-1"})


@app.get("/healthz")
async def healthz():
    return {"healthy": True}
