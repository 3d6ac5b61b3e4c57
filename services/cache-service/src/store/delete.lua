-- ARGV: what is expected. Answers 1, or 0 if it was not so.
local _, etag = state()
if not as_expected(ARGV[1], etag) then
  return 0
end
redis.call('UNLINK', KEYS[1])
return 1
