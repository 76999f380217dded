// Bodies for the Node apps. Their bytes read like HTTP, so that whoever looks for messages inside bodies finds some.
"use strict";

const FILLER = Buffer.from(
  "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n",
);
// Lengths that chunks come in, in turn: smaller than a line, larger than a buffer.
const CHUNKS = [1, 7, 1000, 16384, 40000];

const filler = (length) => Buffer.alloc(length, FILLER);

function* chunks(length) {
  for (let turn = 0; length > 0; turn += 1) {
    const size = Math.min(CHUNKS[turn % CHUNKS.length], length);
    yield filler(size);
    length -= size;
  }
}

// Where LISTEN says: a port of 127.0.0.1, or the path of a Unix socket.
const listening = /^\d+$/.test(process.env.LISTEN)
  ? { host: "127.0.0.1", port: +process.env.LISTEN }
  : { path: process.env.LISTEN };

module.exports = { chunks, filler, listening };
