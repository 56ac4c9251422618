-- Let a failed or cancelled run go on: its own outcome and its steps' failures are forgotten, their results kept.
local run = load_run()
if not run or (run.status ~= 'failed' and run.status ~= 'cancelled') then return false end
run.status, run.ok, run.outcome, run.finished = 'waiting', -1, nil, -1
run.attempts, run.strikes, run.due, run.token, run.watched, run.trouble = 0, 0, 0, 0, 0, nil
run.epoch = run.epoch + 1
save(run)
for _, name in ipairs(redis.call('HKEYS', key)) do
  if string.sub(name, 1, #STEP.field) == STEP.field then
    local step = load(STEP, string.sub(name, #STEP.field + 1))
    if step.ok ~= 1 then
      local is_timer = step.ok < 0 and step.attempts == 0
      if step.taken then redis.call('HDEL', key, 'taken:' .. step.taken) end
      step.ok, step.outcome, step.seq, step.committed, step.took, step.taken = -1, nil, 0, -1, -1, nil
      step.attempts, step.strikes, step.begun = 0, 0, 0
      if not is_timer then step.due = 0 end
      save(step)
      redis.call('HDEL', key, unpack(names_of(SEAT, step.path)))
    end
  elseif string.sub(name, 1, #SEAT.field) == SEAT.field then
    -- A message that came when the run had ended is gone.
    local seat = load(SEAT, string.sub(name, #SEAT.field + 1))
    if seat.sent ~= 0 then
      seat.sent = 0
      save(seat)
    end
  end
end
redis.call('PERSIST', key)
return run.epoch
