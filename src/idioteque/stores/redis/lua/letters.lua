-- Return the events of the types from ARGV[2] on that were accepted since ARGV[1].
local found = {}
for i = 2, #ARGV do
  for _, event in ipairs(redis.call('ZRANGEBYSCORE', of_type(ARGV[i]), ARGV[1], '+inf')) do
    found[#found + 1] = letter(event)
  end
end
return found
