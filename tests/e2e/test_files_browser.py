"""A browser's own fetch against file routes; skipped where there is no Chromium (Debian: chromium)."""

import os
import shutil
import signal
import subprocess

import pytest

from conftest import PASSWORD, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

PAGE = """
<!doctype html><title>files</title><script>
const hex = async (buffer) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", buffer))].map((b) => b.toString(16).padStart(2, "0")).join("");
(async () => {
  const out = {};
  let headers = {};
  try {
    const login = await fetch("/auth/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ email: "EMAIL", password: "PASSWORD" }) });
    headers = { Authorization: "Bearer " + (await login.json()).access_token };
    out.sizes = {};
    for (const size of [0, 1, 65536, 5000000]) {
      const content = new Uint8Array(size).map((_, n) => (n * 31) % 251);
      const url = "/files/" + encodeURIComponent("ein Fünftel + 20% " + size + ".bin");
      const put = await fetch(url, { method: "PUT", headers, body: content });
      const got = await fetch(url, { headers });
      out.sizes[size] = [put.status, got.status, (await hex(await got.arrayBuffer())) === (await hex(content))];
    }
    const url = "/files/" + encodeURIComponent("ein Fünftel + 20% 65536.bin");
    const part = await fetch(url, { headers: { ...headers, Range: "bytes=10-19" } });
    out.part = [part.status, [...new Uint8Array(await part.arrayBuffer())]];
    const etag = (await fetch(url, { method: "HEAD", headers })).headers.get("ETag");
    out.unchanged = (await fetch(url, { headers: { ...headers, "If-None-Match": etag }, cache: "no-store" })).status;
    out.refused = (await fetch(url)).status;
    out.listed = (await (await fetch("/files/?list", { headers })).json()).objects.length;
    const link = (await (await fetch(url + "?share", { method: "POST", headers })).json()).url;
    out.shared = (await (await fetch(link)).arrayBuffer()).byteLength;
    // A page that somebody stored runs nothing with the rights of this one.
    await fetch("/files/evil.html", { method: "PUT", headers: { ...headers, "Content-Type": "text/html" }, body: "<script>parent.postMessage('ran', '*')<" + "/script>" });
    const evil = (await (await fetch("/files/evil.html?share", { method: "POST", headers })).json()).url;
    out.evil = await new Promise((resolve) => {
      addEventListener("message", () => resolve("ran"));
      const frame = document.createElement("iframe");
      frame.onload = () => setTimeout(() => resolve("shown"), 200);
      frame.src = evil;
      document.body.append(frame);
    });
  } catch (error) { out.error = String(error); }
  await fetch("/files/result", { method: "PUT", headers, body: JSON.stringify(out) });
})();
</script>
"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_browsers_fetch_stores_and_reads_files(gateways, s3, tmp_path):
    email = "ann@example.com"
    page = PAGE.replace("EMAIL", email).replace("PASSWORD", PASSWORD)
    gateway = gateways(s3.store("media", s3.bucket()) + f"""
[[routes]]
path = "/files/{{*key}}"
files = {{ store = "media", prefix = "users/{{sub}}/", methods = ["GET", "PUT"], share = "1h" }}
[[routes]]
path = "/page"
auth = "none"
respond = {{ content_type = "text/html; charset=utf-8", body = '''{page}''' }}
""")
    account = gateway.register(email)
    # crypto.subtle wants a secure context, which localhost is.
    browser = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-sync", "--disable-component-update", "--remote-debugging-port=0", f"--user-data-dir={tmp_path}/profile", f"http://localhost:{gateway.port}/page"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        # What the page found it stores as a file as well.
        result = eventually(lambda: (answer := gateway.get("/files/result", account.access)).status_code == 200 and answer, 90, "the page's result")
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
    assert result.json() == {
        "sizes": {"0": [201, 200, True], "1": [201, 200, True], "65536": [201, 200, True], "5000000": [201, 200, True]},
        "part": [206, [n * 31 % 251 for n in range(10, 20)]],
        "unchanged": 304,
        "refused": 401,
        "listed": 4,
        "shared": 65536,
        "evil": "shown",
    }
