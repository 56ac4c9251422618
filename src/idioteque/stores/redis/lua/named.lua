-- Note that the run has the name ARGV[3], for its end. After ARGV[2] milliseconds a name is free without that.
redis.call('SADD', KEYS[1] .. ':names', ARGV[3])
redis.call('PEXPIRE', KEYS[1] .. ':names', ARGV[2])
return 1
