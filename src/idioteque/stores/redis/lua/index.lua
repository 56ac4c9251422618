-- The index of all runs: for each standing one list of them all and one for each function, by the time of creation.
-- KEYS[1] is what its keys begin with; a death between a run's change and this one is mended by whoever lists.
local base = KEYS[1]
local STANDINGS = {'open', 'completed', 'failed', 'cancelled'}

local function list_of(standing, of)
  if of == '' then return base .. ':' .. standing end
  return base .. ':' .. standing .. ':' .. of
end

local function put(standing, of, created, run)
  redis.call('ZADD', list_of(standing, ''), created, run)
  redis.call('ZADD', list_of(standing, of), created, run)
end

local function remove(standing, of, run)
  redis.call('ZREM', list_of(standing, ''), run)
  redis.call('ZREM', list_of(standing, of), run)
end
