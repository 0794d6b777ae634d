-- Takes back one count of a window.
local failures, over = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (-?%d+)$')
if failures and tonumber(failures) > 0 then
  redis.call('SET', KEYS[1], int(tonumber(failures) - 1) .. ' ' .. over, 'KEEPTTL')
end
return '0'
