-- Failures of one client address in a window: KEYS[1] holds failures and the window's end. ARGV: now, failures allowed, length of
-- the window. Counts one in advance and answers 0, or how long to wait, in milliseconds.
local allowed, length = tonumber(ARGV[2]), tonumber(ARGV[3])
local failures, over = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (-?%d+)$')
-- No longer than a window even when the clock went back.
failures, over = tonumber(failures or 0), math.min(tonumber(over or now), now + length)
if over <= now then failures, over = 0, now + length end
local function write(count)
  redis.call('SET', KEYS[1], int(count) .. ' ' .. int(over), 'PX', int(over - now + 60000))
end
if failures >= allowed then
  write(failures)
  return int(over - now)
end
write(failures + 1)
return '0'
