-- wrk: requests each of the targets in the file named by TARGETS in turn, with the field of AUTHORIZATION where there is one.
local requests, next_request = {}, 0
local headers = {}
if os.getenv("AUTHORIZATION") then headers["Authorization"] = os.getenv("AUTHORIZATION") end

init = function()
  for target in io.lines(os.getenv("TARGETS")) do requests[#requests + 1] = wrk.format("GET", target, headers) end
end

request = function()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

done = function(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.bytes, summary.duration, latency:percentile(50),
    summary.errors.status, failed))
end
