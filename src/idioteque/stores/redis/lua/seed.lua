-- Create the run that ARGV[3] on describe, with a history of outcomes: from ARGV[8] on path, success, payload and time
-- taken of each; it waits for its first delivery.
local at = now()
if load_run() then return 0 end
local run = create(3)
run.status = 'waiting'
for i = 8, #ARGV, 4 do
  local step = load(STEP, ARGV[i])
  record(run, step, tonumber(ARGV[i + 1]), ARGV[i + 2], at)
  step.took = tonumber(ARGV[i + 3])
  save(step)
end
save(run)
return 1
