-- An entry is kept this much longer than the access tokens it is about.
local MARGIN = 3600000

-- Adds an entry that is over at the instant `over` to the stream, and drops those at the head that are over. Each says itself when
-- that is: gateways whose tokens live for different times share the stream while a new configuration is rolled out.
local function add(stream, over, ...)
  local real = clock()
  local entry = redis.call('XADD', stream, '*', ...)
  local window = math.max(over - real, 0) + MARGIN

  local function is_over(item)
    local fields = item[2]
    for i = 1, #fields, 2 do
      local instant = fields[i] == 'until' and tonumber(fields[i + 1])
      if instant then return instant + MARGIN <= real end
    end
    return tonumber(string.match(item[1], '^%d+')) + window <= real
  end
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
  if head[1] and is_over(head[1]) then
    head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1000)
    local first = 1
    while head[first + 1] and is_over(head[first]) do first = first + 1 end
    redis.call('XTRIM', stream, 'MINID', head[first][1])
  end

  if redis.call('PTTL', stream) < window then redis.call('PEXPIRE', stream, int(window)) end
  return entry
end
