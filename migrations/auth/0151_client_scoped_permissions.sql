-- What a client may do on some resources alone: [{"permission", "resource", "expiresAt"}].
alter table clients add column scoped_permissions jsonb not null default '[]';
