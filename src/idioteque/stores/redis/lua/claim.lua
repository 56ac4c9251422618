-- Take the lease of the body, or of the step that ARGV[3] names, and return all that is known of the run.
local at = now()
local request = {
  owner = ARGV[4], message = ARGV[5], retried = tonumber(ARGV[6]), lease_ms = tonumber(ARGV[7]),
  at_most_once = ARGV[8] == '1',
}
local run = load_run()
if not run then
  if ARGV[9] == nil then return {'unknown'} end
  run = create(9)
end
local refused, holder
if ARGV[3] == '' then
  holder, refused = run, claim(run, request, at)
else
  local step = load(STEP, ARGV[3])
  holder = load(SEAT, ARGV[3])
  refused = claim_step(run, step, holder, ARGV[3], request, at)
  save(step)
  save(holder)
end
save(run)
if not refused then note_delivery(holder, ARGV[3], at) end
return refused or {'started', redis.call('HGETALL', key)}
