-- Keep an event for all functions that it starts, for ARGV[2] milliseconds from its last start; the first one stays.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('GET', KEYS[1])
