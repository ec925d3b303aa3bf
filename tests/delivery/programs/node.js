// An HTTP server of Node's that closes idle connections after a time of our choosing, and says so or not.
//
// In: its settings, as JSON, for its one argument. Out, on standard output: its address, and then each body it was
// pushed as a line of base64, written before the answer. It ends when its standard input does.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const http2 = require("node:http2");

const settings = JSON.parse(process.argv[2]);
let requests = 0;

function answer(request, response) {
  const number = requests++;
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts);
    // What was cut off ends too.
    if (body.length !== Number(request.headers["content-length"])) return;
    if (request.httpVersionMajor === 1 && settings.keepAlive !== undefined) {
      // Node says its own timeout only where nobody else speaks of the connection.
      response.setHeader("Connection", "keep-alive");
      if (settings.keepAlive !== "") response.setHeader("Keep-Alive", settings.keepAlive);
    }
    if (number >= settings.refusedFrom && number < settings.refusedTo) {
      response.statusCode = 429;
      response.setHeader("Retry-After", "1");
      response.end("slower, please");
      return;
    }
    fs.writeSync(1, body.toString("base64") + "\n");
    response.end();
  });
}

let server;
if (settings.certificate === undefined) {
  server = http.createServer(answer);
} else {
  const tls = { cert: fs.readFileSync(settings.certificate), key: fs.readFileSync(settings.key) };
  server = settings.http2 ? http2.createSecureServer(tls, answer) : https.createServer(tls, answer);
}
if (settings.http2) server.setTimeout(settings.idleMs, (session) => session.close());
server.keepAliveTimeout = settings.idleMs;
server.listen(settings.port, "127.0.0.1", () => {
  fs.writeSync(1, `127.0.0.1:${server.address().port}\n`);
});
process.stdin.on("end", () => process.exit(0)).resume();
