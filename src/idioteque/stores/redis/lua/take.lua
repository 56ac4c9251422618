-- Record the event ARGV[4] as the outcome of the step ARGV[3] that waited for it; a run takes an event once.
local at, run = now(), load_run()
if not run then return {'lost', -1, '', 0, 0, 0} end
local step = load(STEP, ARGV[3])
if step.ok >= 0 or not is_open(run) then return lost(step, false) end
if redis.call('HSETNX', key, 'taken:' .. ARGV[4], ARGV[3]) == 0 then return {'stale'} end
step.taken = ARGV[4]
record(run, step, tonumber(ARGV[5]), ARGV[6], at)
save(step)
save(run)
return won(false, 0, step.seq)
