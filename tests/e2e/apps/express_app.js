// Express. `node express_app.js`, with LISTEN in the environment; express is found through NODE_PATH.
"use strict";

const express = require("express");

const { chunks, filler, listening } = require("./filler.js");

const ITEMS = 1000;

const item = (id) => ({ id, name: `item ${id}`, price: id / 4 });
const valid = (body) => typeof body?.name === "string" && typeof body?.price === "number";
const missing = (res) => res.status(404).json({ detail: "no such item" });
const drained = (stream) => new Promise((resolve) => stream.once("drain", resolve));

async function send(res, pieces) {
  for (const piece of pieces) {
    if (!res.write(piece)) await drained(res);
  }
  res.end();
}

function* pieces(length) {
  const piece = filler(1 << 20);
  for (; length > 0; length -= piece.length) yield piece.subarray(0, length);
}

const app = express();
const json = express.json();

app.get("/items", (req, res) => res.json(Array.from({ length: 10 }, (_, id) => item(id))));
app.post("/items", json, (req, res) =>
  valid(req.body) ? res.status(201).json({ id: ITEMS, ...req.body }) : res.status(422).json({ detail: "invalid" }),
);
app.get("/items/:id", (req, res) => (req.params.id < ITEMS ? res.json(item(+req.params.id)) : missing(res)));
app.put("/items/:id", json, (req, res) => {
  if (!valid(req.body)) return res.status(422).json({ detail: "invalid" });
  return req.params.id < ITEMS ? res.json({ id: +req.params.id, ...req.body }) : missing(res);
});
app.delete("/items/:id", (req, res) => (req.params.id < ITEMS ? res.status(204).end() : missing(res)));
app.get("/blob/:length", (req, res) => res.send(filler(+req.params.length)));
app.get("/chunked/:length", (req, res) => send(res, chunks(+req.params.length)));
app.get("/sized-stream/:length", (req, res) => {
  res.setHeader("content-length", req.params.length);
  return send(res, pieces(+req.params.length));
});
app.post("/upload", (req, res) => {
  let received = 0;
  req.on("data", (piece) => (received += piece.length));
  req.on("end", () => res.json({ received }));
});
app.get("/slow/:ms", (req, res) => setTimeout(() => res.json({ slept: +req.params.ms }), +req.params.ms));
app.get("/drip/:ms", (req, res) => {
  res.write("first\n");
  setTimeout(() => res.end("last\n"), +req.params.ms);
});
app.get("/status/:code", (req, res) => {
  res.status(+req.params.code);
  return ["204", "304"].includes(req.params.code) ? res.end() : res.type("text").send("as you wish\n");
});

const server = require("node:http").createServer(app);
server.listen(listening);
server.keepAliveTimeout = 75_000;
