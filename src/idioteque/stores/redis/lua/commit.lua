-- Record the outcome (ARGV[6], ARGV[7]; it took ARGV[8]) of the step ARGV[5], or of the body, under the lease of ARGV[3]
-- and the token ARGV[4].
local at, run = now(), load_run()
if not run then return {'lost', -1, '', 0, 0, 0} end
local place, token, path, ok, payload = ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), ARGV[7]
local answer
if path == '' then
  answer = commit_body(run, token, ok, payload, at)
  save(run)
  if answer[1] == 'won' then keep_for_the_retention() end
  return {answer, run.function_id, run.status, run.created, run.finished, run.watched}
end
local step, holder = load(STEP, path), load_holder(run, place)
if path == place then
  answer = commit_seat(run, step, holder, token, ok, payload, at)
else
  answer = commit_step(run, step, holder, token, ok, payload, at)
end
if answer[1] == 'won' then
  step.took = tonumber(ARGV[8])
  save(step)
  save_holder(run, holder)
end
return {answer, step.waits and 1 or 0}
