-- Answers {state, etag, value, type, tags, age in ms, life in ms}; the later ones only for a hit.
local found, etag = state()
if found ~= 'hit' then
  return { found }
end
local entry = redis.call('HMGET', KEYS[1], 'value', 'type', 'tags', 'stored', 'life')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return { found, etag, entry[1], entry[2], entry[3], math.max(0, now - entry[4]), tonumber(entry[5]) }
