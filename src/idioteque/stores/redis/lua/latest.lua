-- Note the event ARGV[1], accepted at ARGV[2]; return which of those noted was accepted last. Kept for ARGV[3] milliseconds.
local known = redis.call('HMGET', KEYS[1], 'holder', 'at')
local at = known[2] and tonumber(known[2]) or -1
if tonumber(ARGV[2]) > at or (tonumber(ARGV[2]) == at and ARGV[1] > (known[1] or '')) then
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'at', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('HGET', KEYS[1], 'holder')
