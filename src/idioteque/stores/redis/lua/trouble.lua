-- Record why an unfinished run cannot go on by itself: ARGV[3]; create the run if there is none and ARGV[4] on say how,
-- unless it was dismissed.
local run = load_run()
if not run then
  if ARGV[4] == nil or redis.call('EXISTS', KEYS[1] .. ':dismissed') == 1 then return 0 end
  run = create(4)
end
if is_open(run) then run.trouble = ARGV[3] end
save(run)
return 1
