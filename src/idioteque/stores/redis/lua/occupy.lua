-- Let the run ARGV[2] have a name that nobody has, or that it is handed on by ARGV[3]; return who has it, and since when.
-- A run that was dismissed here is told of the same one, and 1.
local at = ARGV[1]
if at == '' then
  local time = redis.call('TIME')
  at = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end
local met = redis.call('GET', KEYS[1] .. ':dismissed:' .. ARGV[2])
if met then return {{met, at}, at, 1} end
local holder = redis.call('HGET', KEYS[1], 'holder')
if not holder or holder == ARGV[3] then redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'at', at) end
return {redis.call('HMGET', KEYS[1], 'holder', 'at'), at, 0}
