"""Django Ninja with its official client: that of the hub, or with a write token the newer one. Run by gunicorn as
`ninja_app:application`."""

import time

from django.conf import settings

from data import BOOM, CLIENT_ID, CONSUMERS, EDGES, ENV, ITEMS, LARGE, PAUSE, VERSION, WRITE_TOKEN, ZIPPED, pieces

middleware = ["django.middleware.common.CommonMiddleware"]
if CLIENT_ID:
    middleware.insert(0, "apitally.django_ninja.ApitallyMiddleware")
if WRITE_TOKEN:
    middleware.append("ninja_app.consumer_middleware")

settings.configure(
    ALLOWED_HOSTS=["*"],
    APITALLY_MIDDLEWARE={
        "client_id": CLIENT_ID,
        "env": ENV,
        "app_version": VERSION,
        "consumer_callback": "ninja_app.consumer",
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "ninja"],
    MIDDLEWARE=middleware,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
)

if WRITE_TOKEN:
    import apitally

    apitally.init(write_token=WRITE_TOKEN, env=ENV, app_version=VERSION)

import django

django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from ninja import Field, NinjaAPI, Schema
from ninja.errors import HttpError

api = NinjaAPI(title="Side by side", version=VERSION)


def consumer(request: HttpRequest):
    from apitally.django_ninja import ApitallyConsumer

    key = request.headers.get("X-API-Key")
    if key not in CONSUMERS:
        return None
    name, group = CONSUMERS[key]
    return ApitallyConsumer(key, name=name, group=group)


def consumer_middleware(answer):
    def with_consumer(request: HttpRequest):
        key = request.headers.get("X-API-Key")
        if key in CONSUMERS:
            name, group = CONSUMERS[key]
            apitally.set_consumer(key, name=name, group=group)
        time.sleep(PAUSE)
        return answer(request)

    return with_consumer


class Item(Schema):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)


class Login(Schema):
    username: str
    password: str
    card: dict | None = None
    tokens: list[dict] | None = None


@api.get("/items")
def list_items(request: HttpRequest, limit: int = 5):
    return list(ITEMS.values())[:limit]


@api.post("/items", response={201: dict})
def create_item(request: HttpRequest, item: Item):
    return 201, {"id": 6, **item.dict()}


@api.get("/items/{item_id}")
def get_item(request: HttpRequest, item_id: int):
    if item_id not in ITEMS:
        raise HttpError(404, "no such item")
    return ITEMS[item_id]


@api.put("/items/{item_id}")
def replace_item(request: HttpRequest, item_id: int, item: Item):
    return {"id": item_id, **item.dict()}


@api.delete("/items/{item_id}", response={204: None})
def delete_item(request: HttpRequest, item_id: int):
    return 204, None


@api.get("/users/{user_id}/orders/{order_id}")
def get_order(request: HttpRequest, user_id: str, order_id: str):
    return {"user": user_id, "order": order_id}


@api.get("/private")
def private(request: HttpRequest):
    if request.headers.get("X-API-Key") not in CONSUMERS:
        raise HttpError(401, "say who you are")
    return {"private": True}


@api.post("/login")
def login(request: HttpRequest, login: Login, response: HttpResponse):
    response.set_cookie("session", "c-1")
    return {"access_token": "t-1", "user": {"name": login.username, "api_secret": "s-1"}}


@api.get("/error")
def error(request: HttpRequest):
    raise ValueError(BOOM)


@api.get("/stream")
def stream(request: HttpRequest):
    def slowly():
        for piece in pieces():
            yield piece
            time.sleep(0.02)

    return StreamingHttpResponse(slowly(), content_type="text/plain")


@api.get("/gzip")
def zipped(request: HttpRequest):
    return HttpResponse(ZIPPED, content_type="application/json", headers={"Content-Encoding": "gzip"})


@api.get("/text")
def text(request: HttpRequest):
    return HttpResponse("some text", content_type="text/plain")


@api.get("/html")
def html(request: HttpRequest):
    return HttpResponse("<p>some text</p>")


@api.get("/big")
def big(request: HttpRequest):
    return LARGE


@api.get("/edge/{kind}")
def edge(request: HttpRequest, kind: str):
    return HttpResponse(EDGES[kind], content_type="text/plain")


@api.post("/echo")
def echo(request: HttpRequest):
    return {"size": len(request.body)}


@api.get("/slow")
def slow(request: HttpRequest):
    time.sleep(0.035)
    return {"slow": True}


@api.get("/redirect")
def redirect(request: HttpRequest):
    return HttpResponse(status=307, headers={"Location": "/items?token=t-1"})


@api.get("/healthz")
def healthz(request: HttpRequest):
    return {"healthy": True}


urlpatterns = [path("", api.urls)]
application = get_wsgi_application()
