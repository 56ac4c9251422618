-- A run is one hash, KEYS[1]. A row of it (the run, a step, or the seat of a step) keeps its numbers, in the order given
-- here, in one field and each of its texts in a field of its own; -1 stands for what is not known.
-- ARGV[1] is the time in milliseconds, or nothing: then it is the server's. ARGV[2] is how long an ended run is kept.
local key = KEYS[1]

local RUN = {
  numbers = {'created', 'finished', 'ok', 'attempts', 'strikes', 'due', 'epoch', 'seq', 'tokens', 'token', 'lease_until',
    'alive', 'retried', 'dirty', 'gen', 'watched'},
  field = 'run',
  zero = '0 -1 -1 0 0 0 0 0 0 0 0 0 0 0 0 0',
  texts = {'status', 'outcome', 'error', 'trouble', 'owner', 'message', 'event_id', 'function_id'},
  prefix = '',
}
local STEP = {
  numbers = {'ok', 'seq', 'attempts', 'strikes', 'begun', 'due', 'committed', 'took'},
  field = 'step:',
  zero = '-1 0 0 0 0 0 -1 -1',
  texts = {'outcome', 'error', 'taken', 'waits'},
  prefix = 'step.',
}
local SEAT = {
  numbers = {'token', 'lease_until', 'alive', 'retried', 'strikes', 'wake', 'sent'},
  field = 'seat:',
  zero = '0 0 0 0 0 0 0',
  texts = {'owner', 'message'},
  prefix = 'seat.',
}

local function now()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function whole(number) return string.format('%.0f', number) end

local function names_of(kind, path)
  local names = {kind.field .. path}
  for _, text in ipairs(kind.texts) do
    names[#names + 1] = kind == RUN and text or kind.prefix .. text .. ':' .. path
  end
  return names
end

local function load(kind, path)
  local names = names_of(kind, path)
  local was = redis.call('HMGET', key, unpack(names))
  local row = {kind = kind, path = path, names = names, was = was}
  local n = 0
  for number in string.gmatch(was[1] or kind.zero, '%S+') do
    n = n + 1
    row[kind.numbers[n]] = tonumber(number)
  end
  for i, text in ipairs(kind.texts) do row[text] = was[i + 1] or nil end
  return row
end

local function save(row)
  local numbers, fields, gone = {}, {}, {}
  for i, name in ipairs(row.kind.numbers) do numbers[i] = whole(row[name]) end
  local now_is = {table.concat(numbers, ' ')}
  for i, text in ipairs(row.kind.texts) do now_is[i + 1] = row[text] or false end
  for i, name in ipairs(row.names) do
    if now_is[i] ~= row.was[i] then
      if now_is[i] then
        fields[#fields + 1], fields[#fields + 2] = name, now_is[i]
      else
        gone[#gone + 1] = name
      end
    end
  end
  if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
end

-- The paths of all rows of a kind.
local function paths_of(kind)
  local paths, length = {}, #kind.field
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, length) == kind.field then paths[#paths + 1] = string.sub(name, length + 1) end
  end
  return paths
end

local function exists(row) return row.was[1] ~= false end

local function load_run()
  local run = load(RUN, '')
  return exists(run) and run or nil
end

-- Whose lease a path names: the body's, or that of a step with deliveries of its own.
local function load_holder(run, path)
  if path == '' then return run end
  return load(SEAT, path)
end

local function save_holder(run, holder)
  save(run)
  if holder ~= run then save(holder) end
end

local function create(first)
  local run = load(RUN, '')
  run.created, run.event_id, run.function_id = tonumber(ARGV[first]), ARGV[first + 1], ARGV[first + 2]
  run.status, run.owner, run.message = 'running', '', ''
  redis.call('HSET', key, 'event', ARGV[first + 3], 'options', ARGV[first + 4])
  return run
end

-- What people look at later, bounded: the last {deliveries_kept} deliveries that took a lease, and of each step the last
-- {attempts_kept} attempts that failed, a line for each.
local function note_delivery(holder, path, at)
  local said = {holder.token, path, holder.message, holder.retried, whole(at)}
  redis.call('HSET', key, 'came:' .. holder.token % {deliveries_kept}, table.concat(said, '\n'))
end

local function note_attempt(run, path, attempt, at, took, said)
  local name, lines = 'tried:' .. path, {}
  local begin = whole(run.epoch) .. ' ' .. whole(attempt) .. ' '
  for line in string.gmatch(redis.call('HGET', key, name) or '', '[^\n]+') do
    if string.sub(line, 1, #begin) == begin then return end
    lines[#lines + 1] = line
  end
  lines[#lines + 1] = begin .. whole(at) .. ' ' .. whole(took) .. ' ' .. string.gsub(said or '', '%s+', ' ')
  if #lines > {attempts_kept} then table.remove(lines, 1) end
  redis.call('HSET', key, name, table.concat(lines, '\n'))
end

-- Only a run that has ended is forgotten, and only after the retention.
local function keep_for_the_retention()
  redis.call('PEXPIRE', key, ARGV[2])
  redis.call('PEXPIRE', key .. ':log', ARGV[2])
end

-- Messages of steps' own count as not sent.
local function forget_sent()
  for _, path in ipairs(paths_of(SEAT)) do
    local seat = load(SEAT, path)
    if seat.sent ~= 0 then
      seat.sent = 0
      save(seat)
    end
  end
end
