-- A lease on part of what a caller may do: the generic cell rate algorithm, as in limits.rs, in microseconds. KEYS[1] holds the
-- time at which the requests granted so far would have arrived, had they come evenly spaced. ARGV: instant in milliseconds or
-- nothing, microseconds one request uses up, requests allowed at once, the share of what is left that one lease takes (one in so
-- many). Answers how many requests are granted and for how many microseconds, or 0 and how long to wait.
local time = redis.call('TIME')
local here = ARGV[1] ~= '' and now * 1000 or time[1] * 1000000 + time[2]
local interval, allowed, share = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tolerance = interval * (allowed - 1)
-- A clock that was set back must not lock anybody out for as long.
local arrival = math.min(tonumber(redis.call('GET', KEYS[1]) or here), here + tolerance + interval)
arrival = math.max(arrival, here)
local ahead = arrival - here
if ahead > tolerance then return {'0', int(ahead - tolerance)} end
local free = math.floor((tolerance - ahead) / interval) + 1
local granted = math.max(math.floor(free / share), 1)
arrival = arrival + granted * interval
redis.call('SET', KEYS[1], int(arrival), 'PX', int(math.ceil((arrival - here) / 1000) + 1000))
return {int(granted), int(granted * interval)}
