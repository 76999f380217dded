"""Django Ninja with as little as an API has, and an official client where the environment says so. Run by gunicorn as
`ninja_app:application`."""

import os

from django.conf import settings

client_id = os.environ.get("APITALLY_CLIENT_ID")
write_token = os.environ.get("APITALLY_WRITE_TOKEN")

settings.configure(
    ALLOWED_HOSTS=["*"],
    APITALLY_MIDDLEWARE={"client_id": client_id, "env": "bench"},
    INSTALLED_APPS=["django.contrib.contenttypes", "ninja"],
    MIDDLEWARE=["apitally.django_ninja.ApitallyMiddleware"] if client_id else [],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for measuring",
)

if write_token:
    import apitally

    apitally.init(write_token=write_token, env="bench")

import django

django.setup()

from django.core.wsgi import get_wsgi_application
from django.urls import path
from ninja import NinjaAPI, Schema

api = NinjaAPI(title="Bench")


class Item(Schema):
    id: int
    name: str
    price: float


@api.get("/items/{item_id}", response=Item)
def get_item(request, item_id: int):
    return Item(id=item_id, name=f"item {item_id}", price=item_id / 4)


urlpatterns = [path("", api.urls)]
application = get_wsgi_application()
