-- End a run without an outcome, unless it has ended.
local at, run = now(), load_run()
if not run then return false end
if is_open(run) then
  run.status, run.finished, run.token = 'cancelled', at, 0
  save(run)
  keep_for_the_retention()
end
return {run.status, run.function_id, run.created, run.finished, run.watched}
