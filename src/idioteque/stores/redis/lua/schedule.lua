-- Fix when the timer or wait ARGV[5] ends, and what it waits for (ARGV[7], or nothing); the first time stands.
local run = load_run()
if not run or not is_open(run) then return {'gone'} end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, tonumber(ARGV[4])) then return {'gone'} end
local step = load(STEP, ARGV[5])
if step.ok >= 0 then return done(step) end
if step.due == 0 then step.due = tonumber(ARGV[6]) end
step.waits = ARGV[7]
save(step)
return {'due', step.due}
