-- Note that the step ARGV[1] has taken the event of this key, for ARGV[2] milliseconds.
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
