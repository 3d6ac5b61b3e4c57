-- KEYS: the namespace's tags. ARGV: tag, an id in case the tags have none, how long versions are kept in seconds.
-- A version is a number that is never given twice, and the time it was given at.
redis.call('HSETNX', KEYS[1], '', ARGV[2])
local now = tonumber(redis.call('TIME')[1])
local number = redis.call('HINCRBY', KEYS[1], '#', 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%.0f', number, now))
-- A few at random: those older than any entry are forgotten, so that the hash stays as small as what is in use.
for _, tag in ipairs(redis.call('HRANDFIELD', KEYS[1], 8)) do
  local given = string.match(redis.call('HGET', KEYS[1], tag), ':(%d+)$')
  if tag ~= '' and tag ~= '#' and given and now - tonumber(given) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], tag)
  end
end
return 1
