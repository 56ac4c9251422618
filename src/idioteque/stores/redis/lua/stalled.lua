-- Say whether nothing has held the run since ARGV[3]: as `is_stalled` of ledger.py does.
local before, run = tonumber(ARGV[3]), load_run()
if not run or not is_open(run) or run.created >= before or run.due >= before then return 0 end
local function is_held(holder)
  return holder.alive >= before or (holder.token ~= 0 and holder.lease_until >= before)
end
if is_held(run) then return 0 end
for _, path in ipairs(paths_of(SEAT)) do
  if is_held(load(SEAT, path)) then return 0 end
end
for _, path in ipairs(paths_of(STEP)) do
  local step = load(STEP, path)
  if (step.ok < 0 and step.due or step.committed) >= before then return 0 end
end
return 1
