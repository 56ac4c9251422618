-- Say how the run ARGV[1] of the function ARGV[2], created at ARGV[3], stands: ARGV[4]; kept until ARGV[5], or for ever.
put('all', ARGV[2], ARGV[3], ARGV[1])
for _, standing in ipairs(STANDINGS) do
  if standing == ARGV[4] then
    put(standing, ARGV[2], ARGV[3], ARGV[1])
  else
    remove(standing, ARGV[2], ARGV[1])
  end
end
redis.call('HSET', base .. ':functions', ARGV[1], ARGV[2])
if ARGV[5] == '' then
  redis.call('ZREM', base .. ':ends', ARGV[1])
else
  redis.call('ZADD', base .. ':ends', ARGV[5], ARGV[1])
end
return 1
