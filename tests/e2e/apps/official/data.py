"""What the apps in Python answer with, and whom they know."""

import gzip
import json
import os

CLIENT_ID = os.environ.get("APITALLY_CLIENT_ID")
WRITE_TOKEN = os.environ.get("APITALLY_WRITE_TOKEN")
# Seconds that every answer takes, at least.
PAUSE = float(os.environ.get("PAUSE", "0"))
ENV = "side-by-side"
VERSION = "1.2.3"

# By the value of X-API-Key, which is also what the consumer is called: name and group.
CONSUMERS = {
    "key-alice": (" Alice Doe ", " Admins "),
    "key-bob": (None, None),
    "k" * 200: ("n" * 100, "g" * 100),
}

ITEMS = {id: {"id": id, "name": f"item {id}", "price": id / 4} for id in range(1, 6)}
LARGE = {"text": "l" * 60_000}
EDGES = {"ok": "e" * 50_000, "over": "e" * 50_001}
ZIPPED = gzip.compress(json.dumps({"items": list(ITEMS.values()) * 20, "token": "inside"}).encode(), mtime=0)
BOOM = "boom " + "b" * 3000


def pieces():
    """Five of 1000 bytes."""
    for number in range(5):
        yield f"piece {number}\n".rjust(1000, ".").encode()
