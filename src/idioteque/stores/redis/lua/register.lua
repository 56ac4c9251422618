-- Have the step ARGV[2] of the run ARGV[1] found, with what ARGV[3] says, by events of the types from ARGV[4] on.
for i = 4, #ARGV do
  redis.call('HSETNX', watchers_of(ARGV[i]), ARGV[1] .. ' ' .. ARGV[2], ARGV[3])
  redis.call('SADD', watched_by(ARGV[1]), ARGV[2] .. '\n' .. ARGV[i])
end
return 1
