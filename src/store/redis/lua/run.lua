-- A run of consecutive failed logins: KEYS[1] is the account's hash, field by field its devices, '-' for all unknown
-- ones: failures, last failure, the one before. ARGV: now, device, free failures, first delay, longest delay, failures
-- after which only the owner gets in, how long a run is remembered. Counts a failure in advance and answers 0, or answers how long to
-- wait, in milliseconds.
local account, device = KEYS[1], ARGV[2]
local free, first, longest, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local failures, last, earlier = 0, now, now
local text = redis.call('HGET', account, device)
if text then
  failures, last, earlier = string.match(text, '^(%d+) (-?%d+) (-?%d+)$')
  -- A last failure in the future (the clock went back) becomes now.
  failures, last, earlier = tonumber(failures), math.min(tonumber(last), now), math.min(tonumber(earlier), now)
end
local function write(count, newest, before)
  redis.call('HSET', account, device, int(count) .. ' ' .. int(newest) .. ' ' .. int(before))
end
local wait = 0
if failures >= most then
  -- There is no end to name; this is when asking again is of any use at the earliest.
  wait = math.max(longest, 1000)
elseif failures > free then
  wait = math.max(last + math.min(first * 2 ^ (failures - free - 1), longest) - now, 0)
end
if wait > 0 then
  if text then write(failures, last, earlier) end
  return int(wait)
end
write(failures + 1, now, text and last or now)
redis.call('PEXPIRE', account, ARGV[7])
return '0'
