-- Give a sign of life for the lease of ARGV[3] and token ARGV[4]; say whether it is held.
local at, run = now(), load_run()
if not run or not is_open(run) then return 0 end
local holder = load_holder(run, ARGV[3])
if not is_held_by(holder, tonumber(ARGV[4])) then return 0 end
holder.lease_until, holder.alive = at + tonumber(ARGV[5]), at
save_holder(run, holder)
return 1
