-- Mails that people asked for, and the single-use links in them.
alter table credentials
    -- The address as it is compared; null for rows that were written before this column was.
    add column email_key         text,
    add column email_verified_at timestamptz;

update credentials set email_key = lower(btrim(email));

create index credentials_by_email on credentials (email_key);

-- A request is only noted while its sender waits, so that the answer takes as long whether there is such an account or not.
create table mail_requests (
    id         uuid        not null,
    kind       text        not null,
    -- The address, as it is compared.
    email_key  text        not null,
    language   text        not null,
    created_at timestamptz not null default now(),
    constraint mail_requests_pkey primary key (id),
    constraint mail_requests_kind_check check (kind in ('password-reset', 'verification'))
);

-- SHA-256 of a random text that was mailed; used once by deleting it.
create table links (
    token_hash bytea       not null,
    purpose    text        not null,
    user_id    uuid        not null,
    -- The address that it was sent to: another one in the meantime, and the link proves nothing.
    email_key  text        not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint links_pkey primary key (token_hash),
    constraint links_purpose_check check (purpose in ('password-reset', 'verification'))
);

create index links_by_user on links (user_id, purpose);
create index links_by_expiry on links (expires_at);
