-- Let a failed or cancelled run go on: its own outcome and its steps' failures are forgotten, their results kept.
local run = load_run()
if not run or (run.status ~= 'failed' and run.status ~= 'cancelled') then return false end
-- Whatever a recorded failure holds, in one line: as `error_line` of records.py.
local function error_line(payload)
  local is_json, error = pcall(cjson.decode, payload)
  if not is_json or type(error) ~= 'table' or type(error.type) ~= 'string' then return string.sub(payload, 1, 500) end
  local has_text = type(error.message) == 'string' and error.message ~= ''
  return string.sub(has_text and error.type .. ': ' .. error.message or error.type, 1, 500)
end

if run.ok == 0 then note_attempt(run, '', run.attempts + 1, run.finished, -1, error_line(run.outcome)) end
for _, path in ipairs(paths_of(STEP)) do
  local step = load(STEP, path)
  if step.ok == 0 then note_attempt(run, path, step.attempts + 1, step.committed, step.took, error_line(step.outcome)) end
end
run.status, run.ok, run.outcome, run.finished = 'waiting', -1, nil, -1
run.attempts, run.strikes, run.due, run.token, run.watched, run.trouble = 0, 0, 0, 0, 0, nil
run.epoch = run.epoch + 1
save(run)
for _, path in ipairs(paths_of(STEP)) do
  local step = load(STEP, path)
  if step.ok ~= 1 then
    local is_timer = step.ok < 0 and step.attempts == 0
    if step.taken then redis.call('HDEL', key, 'taken:' .. step.taken) end
    step.ok, step.outcome, step.seq, step.committed, step.took, step.taken = -1, nil, 0, -1, -1, nil
    step.attempts, step.strikes, step.begun = 0, 0, 0
    if not is_timer then step.due = 0 end
    save(step)
    redis.call('HDEL', key, unpack(names_of(SEAT, path)))
  end
end
forget_sent()  -- a message that came when the run had ended is gone
redis.call('PERSIST', key)
redis.call('PERSIST', key .. ':log')
return run.epoch
