-- ARGV: value, type, etag, tags, life in ms, what is expected, an id in case the tags have none.
-- Answers 'created', 'replaced' or 'refused'.
local found, etag = state()
if not as_expected(ARGV[6], etag) then
  return 'refused'
end
local now_stamp = ''
if ARGV[4] ~= '' then
  redis.call('HSETNX', KEYS[2], '', ARGV[7])
  now_stamp = stamp(ARGV[4])
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('UNLINK', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'type', ARGV[2], 'etag', ARGV[3], 'tags', ARGV[4], 'life', ARGV[5],
  'stamp', now_stamp, 'stored', now)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return found == 'hit' and 'replaced' or 'created'
