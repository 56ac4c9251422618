-- Note that a step of the run will be watched for, so that its end looks for watchers; only for the holder.
local run = load_run()
if not run or not is_open(run) then return false end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, tonumber(ARGV[4])) then return false end
run.watched = 1
save(run)
return {run.event_id, run.function_id, run.created, run.epoch, redis.call('HGET', key, 'options')}
