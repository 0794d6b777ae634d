// A backend on Node's own HTTP parser. Records every request it receives and echoes it.
// GET /__requests answers with what was recorded, DELETE /__requests forgets it.
// Query parameters steer the answer: ?status=503, ?bytes=1000, ?delay=500 (ms), ?chunked, ?hop (hop-by-hop response fields).
import http from "node:http";
import { WebSocketServer } from "ws";

let recorded = [];
const sockets = new WebSocketServer({ noServer: true });

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    if (request.url === "/__requests") {
      const body = JSON.stringify(recorded);
      if (request.method === "DELETE") recorded = [];
      response.writeHead(200, { "Content-Type": "application/json" });
      return response.end(body);
    }
    const body = Buffer.concat(chunks);
    const seen = {
      method: request.method,
      url: request.url,
      version: request.httpVersion,
      rawHeaders: request.rawHeaders,
      rawTrailers: request.rawTrailers,
      body: body.length <= 4096 ? body.toString("latin1") : null,
      bodyBytes: body.length,
    };
    recorded.push(seen);
    const query = new URL(request.url, "http://backend").searchParams;
    const status = Number(query.get("status") ?? 200);
    const answer = query.has("bytes") ? "x".repeat(Number(query.get("bytes"))) : JSON.stringify(seen);
    const headers = { "Content-Type": "application/json", "X-Backend": "node", Server: "backend/1" };
    if (query.has("hop")) {
      headers["Connection"] = "x-secret-hop";
      headers["X-Secret-Hop"] = "1";
      headers["Keep-Alive"] = "timeout=3";
      headers["Proxy-Authenticate"] = "Basic";
    }
    if (!query.has("chunked")) headers["Content-Length"] = Buffer.byteLength(answer);
    const send = () => {
      response.writeHead(status, headers);
      response.end(status === 204 || status === 304 ? undefined : answer);
    };
    const delay = Number(query.get("delay") ?? 0);
    delay ? setTimeout(send, delay) : send();
  });
});

server.on("upgrade", (request, socket, head) => {
  recorded.push({ method: request.method, url: request.url, rawHeaders: request.rawHeaders, upgrade: true });
  sockets.handleUpgrade(request, socket, head, (ws) => {
    ws.send(JSON.stringify({ headers: request.headers, url: request.url }));
    ws.on("message", (data, binary) => ws.send(data, { binary }));
  });
});

server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
