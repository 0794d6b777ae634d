-- Takes back the last count of a run. ARGV: now, device.
local text = redis.call('HGET', KEYS[1], ARGV[2])
local failures, _, earlier = string.match(text or '', '^(%d+) (-?%d+) (-?%d+)$')
if failures and tonumber(failures) > 0 then
  redis.call('HSET', KEYS[1], ARGV[2], int(tonumber(failures) - 1) .. ' ' .. earlier .. ' ' .. earlier)
end
return '0'
