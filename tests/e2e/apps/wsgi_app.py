"""The matrix's API as a plain WSGI application: `wsgi_app:application`."""

import json
import time
from http.client import responses

from filler import chunks, filler


def received(environ):
    """Length of the request's body. What a server hands on of one in chunks differs."""
    if "CONTENT_LENGTH" not in environ and "uwsgi.version" in environ:
        import uwsgi

        return sum(map(len, iter(uwsgi.chunked_read, b"")))
    body = environ["wsgi.input"]
    if length := environ.get("CONTENT_LENGTH"):
        return len(body.read(int(length)))
    return len(body.read()) if "HTTP_TRANSFER_ENCODING" in environ else 0


def application(environ, start_response):
    def answer(status, body=b"", fields=()):
        start_response(f"{status} {responses[status]}", list(fields))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    def sized(status, body):
        return answer(status, [body], [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])

    kind, _, number = environ["PATH_INFO"].strip("/").partition("/")
    match environ["REQUEST_METHOD"], kind:
        case "GET" | "HEAD", "blob":
            return sized(200, filler(int(number)))
        case "GET", "chunked":
            return answer(200, chunks(int(number)), [("Content-Type", "text/plain")])
        case "GET", "status" if number in ("204", "304"):
            return answer(int(number))
        case "GET", "status":
            return sized(int(number), b"as you wish\n")
        case "GET", "slow":
            time.sleep(int(number) / 1000)
            return sized(200, b"slept\n")
        case "DELETE", "items":
            return answer(204)
        case "POST", "upload":
            return sized(200, json.dumps({"received": received(environ)}).encode())
        case "POST", "mirror":
            wanted = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            fields, body = wanted["secret_fields"], json.dumps(wanted["secret_body"]).encode()
            return answer(200, [body], [*map(tuple, fields), ("Content-Length", str(len(body)))])
        case _:
            return sized(404, b"nothing here\n")
