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
local refused
if ARGV[3] == '' then
  refused = claim(run, request, at)
else
  local step, seat = load(STEP, ARGV[3]), load(SEAT, ARGV[3])
  refused = claim_step(run, step, seat, ARGV[3], request, at)
  save(step)
  save(seat)
end
save(run)
return refused or {'started', redis.call('HGETALL', key)}
