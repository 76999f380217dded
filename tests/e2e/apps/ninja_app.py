"""Django Ninja in one file. Run by gunicorn as `ninja_app:application`."""

import time

from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
)

import django

django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from ninja import NinjaAPI, Schema

from filler import ITEMS, chunks, filler, item

api = NinjaAPI(docs_url=None, openapi_url=None)


class Item(Schema):
    name: str
    price: float


class Problem(Schema):
    detail: str


MISSING = Problem(detail="no such item")


@api.get("/items")
def list_items(request: HttpRequest):
    return [item(id) for id in range(10)]


@api.api_operation(["HEAD"], "/items")
def head_of_list(request: HttpRequest):
    return HttpResponse()


@api.post("/items", response={201: dict})
def create_item(request: HttpRequest, body: Item):
    return 201, {"id": ITEMS, **body.dict()}


@api.get("/items/{int:id}", response={200: dict, 404: Problem})
def get_item(request: HttpRequest, id: int):
    return (200, item(id)) if id < ITEMS else (404, MISSING)


@api.put("/items/{int:id}", response={200: dict, 404: Problem})
def replace_item(request: HttpRequest, id: int, body: Item):
    return (200, {"id": id, **body.dict()}) if id < ITEMS else (404, MISSING)


@api.delete("/items/{int:id}", response={204: None, 404: Problem})
def delete_item(request: HttpRequest, id: int):
    return (204, None) if id < ITEMS else (404, MISSING)


@api.api_operation(["HEAD"], "/blob/{int:length}")
def head_of_blob(request: HttpRequest, length: int):
    return HttpResponse(headers={"Content-Length": length})


@api.get("/blob/{int:length}")
def blob(request: HttpRequest, length: int):
    return HttpResponse(filler(length), content_type="application/octet-stream", headers={"Content-Length": length})


@api.get("/chunked/{int:length}")
def chunked(request: HttpRequest, length: int):
    return StreamingHttpResponse(chunks(length), content_type="application/octet-stream")


@api.post("/upload")
def upload(request: HttpRequest):
    # Django itself reads no request body that comes without a Content-Length.
    if "chunked" in request.headers.get("Transfer-Encoding", ""):
        return {"received": len(request.META["wsgi.input"].read())}
    return {"received": len(request.body)}


@api.get("/slow/{int:ms}")
def slow(request: HttpRequest, ms: int):
    time.sleep(ms / 1000)
    return {"slept": ms}


@api.get("/drip/{int:ms}")
def drip(request: HttpRequest, ms: int):
    def drops():
        yield b"first\n"
        time.sleep(ms / 1000)
        yield b"last\n"

    return StreamingHttpResponse(drops(), content_type="text/plain")


@api.get("/status/{int:code}")
def status(request: HttpRequest, code: int):
    return HttpResponse(b"" if code in (204, 304) else b"as you wish\n", status=code, content_type="text/plain")


urlpatterns = [path("", api.urls)]
application = get_wsgi_application()
