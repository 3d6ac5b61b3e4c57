-- When the first of a user's rights ends by itself: what is known is not gone by after that, and no token lives longer.
alter table grants add column valid_until timestamptz;
