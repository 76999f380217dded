#!/usr/bin/env python3
"""A server that says hello, at each of the addresses it is given: a port of 127.0.0.1, or the path of a Unix socket."""

import http.server
import socketserver
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class OnUnixSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def at(address):
    if address.startswith("/"):
        return OnUnixSocket(address, Handler)
    return http.server.ThreadingHTTPServer(("127.0.0.1", int(address)), Handler)


servers = [at(address) for address in sys.argv[1:]]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
