-- Return up to ARGV[4] runs of the list ARGV[1] whose score is below ARGV[2], from the place ARGV[3] on, the lowest first.
return redis.call('ZRANGEBYSCORE', base .. ':' .. ARGV[1], '-inf', '(' .. ARGV[2], 'LIMIT', ARGV[3], ARGV[4])
