-- Record that messages of the steps from ARGV[3] on were accepted.
if not load_run() then return 0 end
for i = 3, #ARGV do
  local seat = load(SEAT, ARGV[i])
  seat.sent, seat.owner, seat.message = 1, seat.owner or '', seat.message or ''
  save(seat)
end
return 1
