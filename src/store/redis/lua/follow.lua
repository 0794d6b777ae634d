-- The time here, the newest entry of the stream KEYS[1], and what it has after entry ARGV[2], at most ARGV[3] entries.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {
  int(now),
  newest and newest[1] or '0-0',
  redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3]),
}
