-- Delete the run if it ended before ARGV[3]: return its event and the names that it had; 0 for one that stays, and 1
-- where there is none.
local run = load_run()
if not run then return 1 end
if is_open(run) or run.finished >= tonumber(ARGV[3]) then return 0 end
local names = redis.call('SMEMBERS', key .. ':names')
redis.call('DEL', key, key .. ':names', key .. ':log')
return {run.event_id, names}
