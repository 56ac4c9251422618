-- Forget what finds the step ARGV[2] of the run ARGV[1], or without ARGV[2] any of them.
for _, watched in ipairs(redis.call('SMEMBERS', watched_by(ARGV[1]))) do
  local path, name = string.match(watched, '^(.-)\n(.*)$')
  if ARGV[2] == nil or path == ARGV[2] then
    redis.call('HDEL', watchers_of(name), ARGV[1] .. ' ' .. path)
    redis.call('SREM', watched_by(ARGV[1]), watched)
  end
end
return 1
