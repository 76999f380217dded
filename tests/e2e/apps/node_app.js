// The matrix's API. `node node_app.js http|cluster|fastify`, with LISTEN in the environment; fastify is found through
// NODE_PATH.
"use strict";

const cluster = require("node:cluster");
const http = require("node:http");
const { Readable } = require("node:stream");
const { setTimeout: sleep } = require("node:timers/promises");

const { chunks, filler, listening } = require("./filler.js");

// Status and body of the answer; a body that is a stream has no length.
async function answer(method, url, request) {
  const [kind, number] = url.slice(1).split("?")[0].split("/");
  switch (`${method} ${kind}`) {
    case "GET blob":
    case "HEAD blob":
      return [200, filler(+number)];
    case "GET chunked":
      return [200, Readable.from(chunks(+number))];
    case "GET status":
      return [+number, ["204", "304"].includes(number) ? null : Buffer.from("as you wish\n")];
    case "GET slow":
      await sleep(+number);
      return [200, Buffer.from("slept\n")];
    case "DELETE items":
      return [204, null];
    case "POST upload": {
      let received = 0;
      for await (const piece of request) received += piece.length;
      return [200, Buffer.from(JSON.stringify({ received }))];
    }
    default:
      return [404, Buffer.from("nothing here\n")];
  }
}

async function handle(request, response) {
  const [status, body] = await answer(request.method, request.url, request);
  response.statusCode = status;
  if (body instanceof Readable) return body.pipe(response);
  if (body) response.setHeader("content-length", body.length);
  return response.end(request.method === "HEAD" ? null : body);
}

function serveByHttp() {
  const server = http.createServer(handle);
  server.keepAliveTimeout = 75_000;
  server.listen(listening);
}

function serveByFastify() {
  const app = require("fastify")({ keepAliveTimeout: 75_000 });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (request, payload, done) => done(null, payload));
  app.all("/*", async (request, reply) => {
    const [status, body] = await answer(request.method, request.url, request.body ?? []);
    return reply.code(status).send(body ?? undefined);
  });
  app.listen(listening);
}

const flavour = process.argv[2];
if (flavour === "fastify") serveByFastify();
else if (flavour === "cluster" && cluster.isPrimary) [1, 2].forEach(() => cluster.fork());
else serveByHttp();
