-- Say whether nothing has held the run since ARGV[3]: as `is_stalled` of ledger.py does.
local before, run = tonumber(ARGV[3]), load_run()
if not run or not is_open(run) or run.created >= before or run.due >= before then return 0 end
local function is_held(holder)
  return holder.alive >= before or (holder.token ~= 0 and holder.lease_until >= before)
end
if is_held(run) then return 0 end
local waits, has_more, ended = false, run.token ~= 0, {}
for _, path in ipairs(paths_of(STEP)) do
  local step = load(STEP, path)
  if step.ok >= 0 then
    ended[path] = true
    if step.committed >= before then return 0 end
  elseif step.due >= NEVER_MS then
    waits = true
  elseif step.due >= before then
    return 0
  elseif not string.find(path, '/', 1, true) then
    has_more = true
  end
end
for _, path in ipairs(paths_of(SEAT)) do
  local seat = load(SEAT, path)
  if is_held(seat) then return 0 end
  has_more = has_more or seat.token ~= 0 or (seat.sent ~= 0 and not ended[path])
end
return (has_more or not waits) and 1 or 0
