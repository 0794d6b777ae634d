-- At the head of every script. ARGV[1] is the instant itself in tests, which turn the clock; otherwise it is empty.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local now = tonumber(ARGV[1]) or clock()

-- Doubles hold whole numbers up to 2^53 exactly; `tostring` would write large ones with an exponent.
local function int(number) return string.format('%.0f', number) end
