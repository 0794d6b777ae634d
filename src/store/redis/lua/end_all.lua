-- The end of all sessions that began at or before the cut, except one. ARGV: now, user's name, the cut by the clock of the
-- gateway that made it, its age, session to keep or nothing, lifetime of access tokens.
local name, at, keep, lifetime = ARGV[2], tonumber(ARGV[3]), ARGV[5], tonumber(ARGV[6])
local here = now - tonumber(ARGV[4])
prune()
local all = redis.call('HKEYS', user)
for i = 1, #all do
  local id = string.match(all[i], '^s:(.*)$')
  local f = id and read(id)
  if f and id ~= keep and f.state == ACTIVE and f.began <= here then
    f.state = CUT
    write(id, f)
    -- The first 48 bits of a session's id are its beginning by the clock of the gateway that opened it. Where that runs
    -- ahead of the clock that made the cut, gateways would take the session for a later one: so it is named.
    if tonumber(string.sub(id, 1, 12), 16) > at then announce_session(name, id, lifetime) end
  end
end
local cut = read_cut()
if cut and cut.at > here then
  here, keep = cut.at, cut.keep
elseif cut and cut.at == here and cut.keep ~= keep then
  keep = ''
end
local over = now + lifetime
redis.call('HSET', user, 'cut', int(here) .. ' ' .. keep .. ' ' .. int(over))
keep_until(over)
announce(over, 'user', name, 'at', ARGV[3], 'keep', ARGV[5], 'until', int(over))
return answer('ended')
