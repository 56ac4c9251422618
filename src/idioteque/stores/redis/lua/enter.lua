-- Enter the run ARGV[2] of the function ARGV[3] as created at ARGV[1], unless it is there; return when it was created,
-- and a few runs whose retention is over, which the caller looks after.
local created = redis.call('ZSCORE', list_of('all', ''), ARGV[2])
if not created then
  created = ARGV[1]
  if created == '' then
    local time = redis.call('TIME')
    created = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
  end
  put('all', ARGV[3], created, ARGV[2])
  put('open', ARGV[3], created, ARGV[2])
  redis.call('HSET', base .. ':functions', ARGV[2], ARGV[3])
  redis.call('SADD', base .. ':names', ARGV[3])
end
local over = redis.call('ZRANGEBYSCORE', base .. ':ends', '-inf', '(' .. created, 'LIMIT', 0, 10)
return {created, over}
