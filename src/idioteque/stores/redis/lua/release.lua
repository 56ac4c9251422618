-- Give the lease of ARGV[3] and token ARGV[4] back, as ARGV[5] says; a failed body is due again at ARGV[6].
local at, run = now(), load_run()
if not run or not is_open(run) then return false end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, tonumber(ARGV[4])) then return false end
holder.token = 0
local is_dirty = 0
if ARGV[5] == 'shutdown' then
  holder.strikes = math.max(0, holder.strikes - 1)
else
  holder.strikes, is_dirty = 0, run.dirty
  if holder == run then run.status = 'waiting' end
  if ARGV[5] == 'failed' then
    run.attempts, run.due, run.error = run.attempts + 1, tonumber(ARGV[6]), ARGV[7]
    note_attempt(run, '', run.attempts, at, -1, ARGV[7])
  end
end
save_holder(run, holder)
return {run.attempts, is_dirty}
