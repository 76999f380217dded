// What Node can put in front of a response, and responses without a body. `node interim_app.js`, with PORT in the
// environment.
"use strict";

const http = require("node:http");

const server = http.createServer((req, res) => {
  req.resume();
  const code = Number(req.url.split("/").at(-1)) || 200;
  if (req.url.startsWith("/interim/")) {
    res.writeProcessing();
    res.writeEarlyHints({ link: "</style.css>; rel=preload" });
    res.writeContinue();
    res.writeEarlyHints({ link: "</script.js>; rel=preload" });
  }
  req.on("end", () => {
    res.statusCode = code;
    if (code === 304) res.setHeader("etag", '"1"');
    if (req.url.startsWith("/whole")) res.setHeader("content-length", "11");
    if (code === 204 || code === 304) return res.end();
    res.write("hello ");
    res.end("world");
  });
});
server.keepAliveTimeout = 75_000;
server.listen(Number(process.env.PORT), "127.0.0.1");
