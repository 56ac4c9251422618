-- Dismiss the run ARGV[1], which met ARGV[2] at this name, for ARGV[3] milliseconds, unless it has the name meanwhile; return
-- who has it.
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then return ARGV[1] end
redis.call('SET', KEYS[1] .. ':dismissed:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
return ARGV[2]
