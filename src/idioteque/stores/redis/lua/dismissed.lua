-- Note that the run was dismissed, so that whoever meets it at another name need not stop, for ARGV[2] milliseconds.
redis.call('SET', KEYS[1] .. ':dismissed', 1, 'PX', ARGV[2])
return 1
