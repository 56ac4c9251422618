-- Keep lines of the run's log, each given by its id and what is written of it, and cut all but the latest; ARGV[3] were
-- left out before. A line begins with what it is sorted by and with its length.
local run = load_run()
if not run then return 0 end
local log, cut = key .. ':log', tonumber(ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HSETNX', log, ARGV[i], ARGV[i + 1]) end
local found, flat = {}, redis.call('HGETALL', log)
for i = 1, #flat, 2 do
  local at, number, bytes = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) ')
  if at then found[#found + 1] = {flat[i], tonumber(at), tonumber(number), tonumber(bytes)} end
end
table.sort(found, function(one, other)
  if one[2] ~= other[2] then return one[2] > other[2] end
  if one[3] ~= other[3] then return one[3] > other[3] end
  return one[1] > other[1]
end)
local total = 0
for place, line in ipairs(found) do
  total = total + line[4]
  if place > {lines_kept} or total > {log_bytes_max} then
    redis.call('HDEL', log, line[1])
    cut = cut + 1
  end
end
if cut > 0 then redis.call('HINCRBY', log, 'cut', cut) end
if not is_open(run) then redis.call('PEXPIRE', log, ARGV[2]) end
return 1
