-- The end of one session, known or not. ARGV: now, user's name, session, lifetime of access tokens.
local name, id = ARGV[2], ARGV[3]
-- It begins with a deletion, which is allowed when memory is full, and so is then what follows: logouts go on.
local known = redis.call('HDEL', user, 's:' .. id)
prune()
announce_session(name, id, tonumber(ARGV[4]))
return answer(known == 1 and 'ended' or 'unknown')
