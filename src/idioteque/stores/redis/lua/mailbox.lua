-- The mailbox: events that may have come before anybody waited for them, and who waits. KEYS[1] is what its keys begin with.
local base = KEYS[1]
local letters, all = base .. ':letters', base .. ':all'

local function of_type(name) return base .. ':type:' .. name end
local function watchers_of(name) return base .. ':watchers:' .. name end
local function watched_by(run) return base .. ':watched:' .. run end

local function letter(event)
  local values = redis.call('HMGET', letters, 'event:' .. event, 'at:' .. event, 'type:' .. event)
  return {event, values[1], values[2], values[3]}
end
