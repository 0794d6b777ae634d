-- Common to the scripts on sessions. All that is kept of one user is one hash, KEYS[1]:
--   s:<session>  generation, state, rotated_at, idle_expiry, absolute_expiry, began, address, device
--   x:<session>  when the revocation of this session, which has been announced, is over
--   cut          at, keep, when it is over: the last end of all sessions
-- Instants are milliseconds since 1970 by this server's clock, whatever the gateways' clocks say; a gateway says
-- how long ago something was. KEYS[2] is the stream of revocations; in a cluster it lives elsewhere, and what is
-- owed to it is handed back to the gateway.
local user, stream = KEYS[1], KEYS[2]

local ACTIVE, REVOKED, CUT = 'a', 'r', 'c'

local function read(id)
  local text = redis.call('HGET', user, 's:' .. id)
  if not text then return nil end
  local g, state, rotated, idle, absolute, began, address, device =
    string.match(text, '^(%d+) (%a) (-?%d+) (-?%d+) (-?%d+) (-?%d+) (%S*) (.*)$')
  -- Not a decision: the gateway answers that the store is unavailable.
  if not g then error('a damaged session') end
  return {
    generation = tonumber(g), state = state, rotated = tonumber(rotated), idle = tonumber(idle),
    absolute = tonumber(absolute), began = tonumber(began), address = address, device = device,
  }
end

local function write(id, f)
  redis.call('HSET', user, 's:' .. id, table.concat({
    int(f.generation), f.state, int(f.rotated), int(f.idle), int(f.absolute), int(f.began), f.address, f.device,
  }, ' '))
end

local function expired(f) return now >= f.idle or now >= f.absolute end

-- The hash goes a minute after the last thing in it.
local function life(instant) return math.min(math.max(instant - now, 0) + 60000, 4000 * 86400000) end

local function keep_until(instant)
  if redis.call('PTTL', user) < life(instant) then redis.call('PEXPIRE', user, int(life(instant))) end
end

-- What a gateway has to put into the stream itself, field by field.
local owed = {}
-- The stream's entries made here: number, then field by field.
local entries = {}

local function announce(over, ...)
  if not stream then
    owed[#owed + 1] = {...}
    return
  end
  entries[#entries + 1] = {add(stream, over, ...), ...}
end

-- Announced once a session: no access token is made for it after its end.
local function announce_session(name, id, lifetime)
  if redis.call('HEXISTS', user, 'x:' .. id) == 1 then return end
  local over = now + lifetime
  -- Before the note that it was: where a script breaks off, what it has written stays.
  announce(over, 'user', name, 'session', id, 'until', int(over))
  if not stream then return end
  redis.call('HSET', user, 'x:' .. id, int(over))
  keep_until(over)
end

local function read_cut()
  local text = redis.call('HGET', user, 'cut')
  if not text then return nil end
  local at, keep, over = string.match(text, '^(-?%d+) (%S*) (-?%d+)$')
  if not at then error('a damaged cut') end
  return { at = tonumber(at), keep = keep, over = tonumber(over) }
end

-- Drops what is over and lets the hash live as long as what is left.
local function prune()
  local last = 0
  local all = redis.call('HGETALL', user)
  for i = 1, #all, 2 do
    local field, over = all[i], nil
    local kind, id = string.match(field, '^(%a):(.*)$')
    if kind == 's' then
      local f = read(id)
      over = math.min(f.idle, f.absolute)
    elseif kind == 'x' then
      over = tonumber(all[i + 1])
    else
      over = read_cut().over
    end
    if over <= now then redis.call('HDEL', user, field) end
    last = math.max(last, over)
  end
  redis.call('PEXPIRE', user, int(life(last)))
end

local function answer(decision, detail) return {entries, owed, decision, detail or ''} end
