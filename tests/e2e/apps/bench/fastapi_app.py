"""FastAPI with as little as an API has, and an official client where the environment says so. Run by uvicorn as
`fastapi_app:app`."""

import os

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="Bench")

if client_id := os.environ.get("APITALLY_CLIENT_ID"):
    from apitally.fastapi import ApitallyMiddleware

    app.add_middleware(ApitallyMiddleware, client_id=client_id, env="bench")

if write_token := os.environ.get("APITALLY_WRITE_TOKEN"):
    import apitally

    apitally.init(app, write_token=write_token, env="bench")


class Item(BaseModel):
    id: int
    name: str
    price: float


@app.get("/items/{item_id}")
async def get_item(item_id: int) -> Item:
    return Item(id=item_id, name=f"item {item_id}", price=item_id / 4)
