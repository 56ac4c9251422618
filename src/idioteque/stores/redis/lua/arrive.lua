-- Put the event ARGV[2] of the type ARGV[3] into the mailbox, once; clear away a few of those that are older than ARGV[5]
-- milliseconds; return it as it is there, and everybody who waits for its type.
local at = ARGV[1]
if at == '' then
  local time = redis.call('TIME')
  at = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end
if redis.call('HSETNX', letters, 'event:' .. ARGV[2], ARGV[4]) == 1 then
  redis.call('HSET', letters, 'at:' .. ARGV[2], at, 'type:' .. ARGV[2], ARGV[3])
  redis.call('ZADD', all, at, ARGV[2])
  redis.call('ZADD', of_type(ARGV[3]), at, ARGV[2])
end
local before = string.format('%.0f', tonumber(at) - tonumber(ARGV[5]))
for _, old in ipairs(redis.call('ZRANGEBYSCORE', all, '-inf', '(' .. before, 'LIMIT', 0, 11)) do
  if old ~= ARGV[2] then
    redis.call('ZREM', of_type(letter(old)[4]), old)
    redis.call('ZREM', all, old)
    redis.call('HDEL', letters, 'event:' .. old, 'at:' .. old, 'type:' .. old)
  end
end
return {letter(ARGV[2]), redis.call('HVALS', watchers_of(ARGV[3]))}
