// The demo backend: says what the gateway told it about the caller.
import http from "node:http";

http.createServer((request, response) => {
  const { "x-user-id": id, "x-user-email": email, "x-user-roles": roles } = request.headers;
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ path: request.url, id, email, roles }) + "\n");
}).listen(3000);
