// Node's fetch, for tests: `node fetch.mjs METHOD URL TOKEN [FILE]` sends FILE, or reads and prints one line of JSON about what came.
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";

const [method, url, token, file] = process.argv.slice(2);
const headers = token ? { authorization: `Bearer ${token}` } : {};
const body = file ? createReadStream(file) : undefined;
if (file) headers["content-length"] = String(statSync(file).size);
const answer = await fetch(url, { method, headers, body, duplex: file ? "half" : undefined, redirect: "manual" });
const hash = createHash("sha256");
let size = 0;
for await (const chunk of answer.body ?? []) {
  hash.update(chunk);
  size += chunk.length;
}
console.log(JSON.stringify({ status: answer.status, size, sha256: hash.digest("hex"), headers: Object.fromEntries(answer.headers) }));
