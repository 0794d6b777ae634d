-- The decision of rotation::decide, made where the session is kept. ARGV: now, user's name, session, presented generation,
-- grace, idle time, lifetime of access tokens, address.
local name, id, presented = ARGV[2], ARGV[3], tonumber(ARGV[4])
local grace, idle_ttl, lifetime = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local f = read(id)
if not f then return answer('unknown') end
if f.state ~= ACTIVE or expired(f) then
  -- A gateway that died before it had put the revocation into the stream owes it still.
  if f.state == REVOKED and not stream then announce_session(name, id, lifetime) end
  return answer('dead')
end

local function revoke(decision)
  announce_session(name, id, lifetime)
  f.state = REVOKED
  write(id, f)
  return answer(decision)
end

if presented < 1 or presented > f.generation or presented >= 2 ^ 53 then return revoke('lost_history') end
if presented == f.generation then
  f.generation, f.rotated, f.address = presented + 1, now, ARGV[8]
  f.idle = math.min(now + idle_ttl, f.absolute)
  write(id, f)
  keep_until(f.idle)
  return answer('rotated', int(f.generation))
end
if presented == f.generation - 1 and now <= f.rotated + grace then
  return answer('replay', int(f.generation))
end
return revoke('reuse')
