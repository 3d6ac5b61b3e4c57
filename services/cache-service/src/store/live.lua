-- Begins every script. KEYS: the entry (a hash), the namespace's tags (a hash: tag → version; '' → which life of Redis made
-- them; '#' → the last version given).

-- The versions of these tags now, as one text. Nobody has invalidated a tag that has no version.
local function stamp(tags)
  local names = { '' }
  for tag in string.gmatch(tags, '[^,]+') do
    names[#names + 1] = tag
  end
  local versions = redis.call('HMGET', KEYS[2], unpack(names))
  for i, version in ipairs(versions) do
    versions[i] = version or '-'
  end
  return table.concat(versions, ',')
end

-- 'hit', 'miss' or 'invalidated', and the etag of a hit. An invalidated entry is removed.
local function state()
  local entry = redis.call('HMGET', KEYS[1], 'etag', 'tags', 'stamp')
  if not entry[1] then
    return 'miss', ''
  end
  if entry[2] ~= '' and stamp(entry[2]) ~= entry[3] then
    redis.call('UNLINK', KEYS[1])
    return 'invalidated', ''
  end
  return 'hit', entry[1]
end

-- Whether the entry is still what the caller saw: '*' anything, '' nothing, otherwise an etag.
local function as_expected(expected, etag)
  return expected == '*' or expected == etag
end
