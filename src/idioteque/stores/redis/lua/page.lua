-- Return up to ARGV[4] runs that stand as ARGV[1] says, of the function ARGV[2] or any, the newest first, from behind the
-- run ARGV[3]; of one moment the greater id comes first.
local list, rank = list_of(ARGV[1], ARGV[2]), 0
if ARGV[3] ~= '' then
  local created = redis.call('ZSCORE', list_of('all', ''), ARGV[3])
  if not created then return {} end
  rank = redis.call('ZCOUNT', list, '(' .. created, '+inf')
  for _, run in ipairs(redis.call('ZRANGEBYSCORE', list, created, created)) do
    if run >= ARGV[3] then rank = rank + 1 end
  end
end
return redis.call('ZREVRANGE', list, rank, rank + tonumber(ARGV[4]) - 1)
