-- Record that the step ARGV[5] failed for the ARGV[6]-th time, with the error ARGV[8], and is due again at ARGV[7];
-- the attempt took ARGV[9].
local at, run = now(), load_run()
local token = tonumber(ARGV[4])
if not run or not is_open(run) then return {'gone'} end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, token) then return {'gone'} end
local step = load(STEP, ARGV[5])
if step.ok >= 0 then return done(step) end
step.attempts = math.max(step.attempts, tonumber(ARGV[6]))
step.strikes, step.begun, step.due, step.error = 0, 0, tonumber(ARGV[7]), ARGV[8]
note_progress(holder, true, at)
save(step)
save_holder(run, holder)
note_attempt(run, ARGV[5], tonumber(ARGV[6]), at, tonumber(ARGV[9]), ARGV[8])
return {'go', step.attempts}
