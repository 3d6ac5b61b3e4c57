-- Answers the etag, or '' if there is no entry.
local _, etag = state()
return etag
