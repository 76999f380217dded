// Express with its official client. `node express_app.mjs`, with LISTEN in the environment; packages are found through
// NODE_PATH.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";

const require = createRequire(import.meta.url);
const { setConsumer, useApitally } = require("apitally/express");
const express = require("express");
const { body, param, validationResult } = require("express-validator");

// By the value of X-API-Key, which is also what the consumer is called.
const CONSUMERS = {
  "key-alice": { name: " Alice Doe ", group: " Admins " },
  "key-bob": {},
  ["k".repeat(200)]: { name: "n".repeat(100), group: "g".repeat(100) },
};

const ITEMS = [1, 2, 3, 4, 5].map((id) => ({ id, name: `item ${id}`, price: id / 4 }));
const EDGES = { ok: "e".repeat(50_000), over: "e".repeat(50_001) };
const ZIPPED = gzipSync(JSON.stringify({ items: Array(20).fill(ITEMS).flat(), token: "inside" }));

const app = express();
useApitally(app, { clientId: process.env.APITALLY_CLIENT_ID, env: "side-by-side", appVersion: "1.2.3" });

app.use((req, res, next) => {
  const key = req.get("x-api-key");
  if (key in CONSUMERS) setConsumer(req, { identifier: key, ...CONSUMERS[key] });
  next();
});
app.use(express.json({ limit: "1mb" }), express.text({ limit: "1mb" }), express.raw({ limit: "1mb" }));

const checked = (req, res, next) => {
  const errors = validationResult(req);
  return errors.isEmpty() ? next() : res.status(422).json({ errors: errors.array() });
};
const item = [body("name").isString().isLength({ min: 2 }), body("price").isFloat({ gt: 0 }), checked];

app.get("/items", (req, res) => res.json(ITEMS.slice(0, Number(req.query.limit ?? 5))));
app.post("/items", item, (req, res) => res.status(201).json({ id: 6, ...req.body }));
app.get("/items/:item_id", param("item_id").isInt(), checked, (req, res) => {
  const found = ITEMS.find(({ id }) => id === Number(req.params.item_id));
  return found ? res.json(found) : res.status(404).json({ detail: "no such item" });
});
app.put("/items/:item_id", item, (req, res) => res.json({ id: Number(req.params.item_id), ...req.body }));
app.delete("/items/:item_id", (req, res) => res.status(204).end());
app.get("/users/:user_id/orders/:order_id", (req, res) => res.json(req.params));
app.get("/private", (req, res) =>
  req.get("x-api-key") in CONSUMERS ? res.json({ private: true }) : res.status(401).json({ detail: "say who you are" }),
);
app.post("/login", (req, res) => {
  res.cookie("session", "c-1");
  res.json({ access_token: "t-1", user: { name: req.body.username, api_secret: "s-1" } });
});
app.get("/error", () => {
  throw new TypeError("boom " + "b".repeat(3000));
});
app.get("/stream", async (req, res) => {
  res.type("text/plain");
  for (let number = 0; number < 5; number++) {
    res.write(`piece ${number}\n`.padStart(1000, "."));
    await sleep(20);
  }
  res.end();
});
app.get("/gzip", (req, res) => res.set("Content-Encoding", "gzip").type("application/json").send(ZIPPED));
app.get("/text", (req, res) => res.type("text/plain").send("some text"));
app.get("/html", (req, res) => res.type("text/html").send("<p>some text</p>"));
app.get("/big", (req, res) => res.json({ text: "l".repeat(60_000) }));
app.get("/edge/:kind", (req, res) => res.type("text/plain").send(EDGES[req.params.kind]));
app.post("/echo", (req, res) => res.json({ size: req.body?.length ?? 0 }));
app.get("/slow", async (req, res) => {
  await sleep(35);
  res.json({ slow: true });
});
app.get("/redirect", (req, res) => res.status(307).set("Location", "/items?token=t-1").end());
app.get("/healthz", (req, res) => res.json({ healthy: true }));

app.listen(Number(process.env.LISTEN), "127.0.0.1");
