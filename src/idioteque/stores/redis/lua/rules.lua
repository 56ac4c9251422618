-- The rules by which a run changes: those of ledger.py, which explains them, name by name.
local MAX_STRIKES, TAKEOVER_AFTER_MS, NEVER_MS = {max_strikes}, {takeover_after_ms}, {never_ms}

local function is_open(run) return run.status == 'running' or run.status == 'waiting' end
local function is_held_by(holder, token) return token ~= 0 and holder.token == token end

local function is_held_by_another(holder, token, at)
  return holder.token ~= 0 and holder.token ~= token and holder.lease_until > at
end

local function is_overtaken(run, holder, token, at)
  return is_held_by_another(holder, token, at) or (run.epoch > 0 and holder.token ~= token)
end

local function finished(run) return {'finished', run.status, run.ok, run.outcome or '', run.function_id} end

local function lost(row, held, wake)
  return {'lost', row.ok, row.outcome or '', held and 1 or 0, wake or 0, row.kind == STEP and row.seq or 0}
end
local function won(held, wake, seq) return {'won', held and 1 or 0, wake or 0, seq or 0} end
local function done(step) return {'done', step.ok, step.outcome} end

local function is_abandoned(holder, request, at)
  return holder.message == request.message and request.retried >= holder.retried
    and at - holder.alive > TAKEOVER_AFTER_MS
end

local function forget_trouble(run, path)
  local of = run.trouble and (string.match(run.trouble, '^[a-z_]+@([^\n]*)\n') or '')
  if of == path then run.trouble = nil end
end

local function take_lease(run, holder, path, request, attempts, due, at)
  if holder.token ~= 0 and holder.owner == request.owner then return nil end
  if holder.token ~= 0 and holder.lease_until > at and not is_abandoned(holder, request, at) then
    return {'busy', holder.token, holder.lease_until - at}
  end
  if due > at then
    holder.token = 0
    return {'waiting', attempts, due - at}
  end
  run.tokens = run.tokens + 1
  holder.token, holder.owner, holder.message = run.tokens, request.owner, request.message
  holder.retried, holder.lease_until, holder.alive = request.retried, at + request.lease_ms, at
  holder.strikes = holder.strikes + 1
  run.status = 'running'
  forget_trouble(run, path)
  return nil
end

local function claim(run, request, at)
  if not is_open(run) then return finished(run) end
  local refused = take_lease(run, run, '', request, run.attempts, run.due, at)
  if not refused then run.dirty = 0 end
  return refused
end

local function claim_step(run, step, seat, path, request, at)
  if not is_open(run) then return finished(run) end
  if step.ok >= 0 then
    forget_trouble(run, path)
    return {'settled', seat.wake}
  end
  local is_new = seat.owner ~= request.owner or seat.token == 0
  local refused = take_lease(run, seat, path, request, step.attempts, step.due, at)
  if not refused and is_new and (seat.strikes > MAX_STRIKES or (request.at_most_once and step.begun ~= 0)) then
    seat.token = 0
    return {'exhausted', seat.strikes}
  end
  return refused
end

local function record(run, step, ok, payload, at)
  run.seq = run.seq + 1
  step.ok, step.outcome, step.seq, step.committed = ok, payload, run.seq, at
  step.strikes, step.due = 0, 0
end

local function note_progress(holder, held, at)
  holder.strikes = holder.token ~= 0 and 1 or 0
  if held then holder.alive = at end
end

local function commit_step(run, step, holder, token, ok, payload, at)
  local held = is_held_by(holder, token)
  if step.ok >= 0 or not is_open(run) then return lost(step, held) end
  if ok == 0 and is_overtaken(run, holder, token, at) then return {'stale'} end
  record(run, step, ok, payload, at)
  note_progress(holder, held, at)
  return won(held, 0, step.seq)
end

local function commit_seat(run, step, seat, token, ok, payload, at)
  if step.ok >= 0 or not is_open(run) then return lost(step, false, seat.wake) end
  if ok == 0 and is_overtaken(run, seat, token, at) then return {'stale'} end
  record(run, step, ok, payload, at)
  seat.token, seat.strikes = 0, 0
  local owes = run.dirty == 0
  if owes then run.dirty, run.gen = 1, run.gen + 1 end
  seat.wake = run.gen
  return won(false, owes and run.gen or 0, step.seq)
end

local function commit_body(run, token, ok, payload, at)
  if not is_open(run) then return lost(run, false) end
  if ok == 0 and is_overtaken(run, run, token, at) then return {'stale'} end
  run.ok, run.outcome, run.finished = ok, payload, at
  run.status = ok == 1 and 'completed' or 'failed'
  run.token, run.strikes = 0, 0
  return won(false)
end
