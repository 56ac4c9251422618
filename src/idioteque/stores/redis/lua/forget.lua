-- Forget the run ARGV[1], which is not stored any more.
local of = redis.call('HGET', base .. ':functions', ARGV[1]) or ''
remove('all', of, ARGV[1])
for _, standing in ipairs(STANDINGS) do remove(standing, of, ARGV[1]) end
redis.call('HDEL', base .. ':functions', ARGV[1])
redis.call('ZREM', base .. ':ends', ARGV[1])
return 1
