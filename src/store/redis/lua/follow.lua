-- The time here, whether this server is a replica, the newest entry of the stream KEYS[1], and what the stream has after entry
-- ARGV[2], at most ARGV[3] entries.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
-- There is no such entry to delete; only a replica minds.
local refusal = redis.pcall('XDEL', KEYS[1], '0-1')
local replica = type(refusal) == 'table' and string.find(refusal.err or '', 'READONLY', 1, true)
return {
  int(now),
  replica and 1 or 0,
  newest and newest[1] or '0-0',
  redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3]),
}
