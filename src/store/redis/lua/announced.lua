-- In a cluster: the revocation of a session has reached the stream. ARGV: now, session, when it is over.
redis.call('HSET', user, 'x:' .. ARGV[2], ARGV[3])
keep_until(tonumber(ARGV[3]))
return answer('noted')
