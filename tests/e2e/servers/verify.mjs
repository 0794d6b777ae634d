// Verifies access tokens as a backend with `jose` would.
// argv: JWKS address, issuer, audience, algorithm, least milliseconds between two fetches (jose's default when absent).
// Reads one token a line from stdin and answers each with one line of JSON; the key set is fetched and cached by jose.
import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [address, issuer, audience, algorithm, cooldown] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(address), cooldown ? { cooldownDuration: Number(cooldown) } : {});

for await (const token of createInterface({ input: process.stdin })) {
  try {
    const options = { issuer, audience, algorithms: [algorithm], typ: "at+jwt", requiredClaims: ["exp", "sub", "jti", "iat"] };
    const { payload, protectedHeader } = await jwtVerify(token, keys, options);
    console.log(JSON.stringify({ payload, header: protectedHeader }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.code ?? String(error) }));
  }
}
