-- wrk: every request carries the next of the tokens in the file named by TOKENS (none: no Authorization header).
local tokens, requests, next_request = {}, {}, 0
local file, path = os.getenv("TOKENS"), os.getenv("REQUEST_PATH") or "/api/items"
if file then for line in io.lines(file) do tokens[#tokens + 1] = line end end

init = function()
  if #tokens == 0 then requests[1] = wrk.format("GET", path) end
  for i, token in ipairs(tokens) do requests[i] = wrk.format("GET", path, { ["Authorization"] = "Bearer " .. token }) end
end

request = function()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

done = function(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %d %.1f %d %d %d %d\n", summary.requests, summary.requests / (summary.duration / 1e6),
    latency:percentile(50), latency:percentile(99), summary.errors.status, failed))
end
