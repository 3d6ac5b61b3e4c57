-- How and from where a session was begun, and what its owner calls the device.
alter table sessions
    -- Authentication methods (RFC 8176): pwd, otp, swk, hwk, user, mfa, kba for recovery codes.
    add column amr     text[] not null default '{pwd}',
    -- The network of the login (IPv4 /24, IPv6 /56), as the throttle knows it; never the whole address.
    add column network text,
    -- The name that the owner gave the device.
    add column name    text;
