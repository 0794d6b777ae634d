-- A new session. ARGV: now, session, age of its beginning, generation, rotated_at, idle_expiry and absolute_expiry counted
-- from its beginning, address, device.
local id, began = ARGV[2], now - tonumber(ARGV[3])
local f = {
  generation = tonumber(ARGV[4]), state = ACTIVE, began = began, rotated = began + tonumber(ARGV[5]),
  idle = began + tonumber(ARGV[6]), absolute = began + tonumber(ARGV[7]), address = ARGV[8], device = ARGV[9],
}
-- Whoever ended all sessions meant this one too, when it began before.
local cut = read_cut()
if cut and cut.at >= began and cut.keep ~= id then f.state = CUT end
-- The first write of a script is the one that Redis refuses when its memory is full.
write(id, f)
prune()
return answer('opened')
