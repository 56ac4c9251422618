-- Charge a coming start to the step ARGV[5] alone; from ARGV[7] on, the steps around it.
local run = load_run()
local token = tonumber(ARGV[4])
if not run or not is_open(run) then return {'gone'} end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, token) then return {'gone'} end
local step = load(STEP, ARGV[5])
if step.ok >= 0 then return done(step) end
if step.begun == token then
  save(step)
  return {'go', step.attempts}
end
if step.strikes >= MAX_STRIKES or (ARGV[6] == '1' and step.begun ~= 0) then
  save(step)
  return {'exhausted', step.strikes}
end
step.strikes, step.begun, holder.strikes = step.strikes + 1, token, 1
save(step)
for i = 7, #ARGV do
  local outer = load(STEP, ARGV[i])
  if outer.strikes ~= 0 then
    outer.strikes = 0
    save(outer)
  end
end
save_holder(run, holder)
return {'go', step.attempts}
