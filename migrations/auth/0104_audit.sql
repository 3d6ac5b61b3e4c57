-- Security events, append-only: each row's hash covers its canonical bytes and the row before it, so that a change shows.
create table audit (
    sequence  bigint      not null,
    at        timestamptz not null,
    kind      text        not null,
    -- Whom it happened to: user id or client id; null for a name that nobody has.
    subject   text,
    -- Who did it; null for somebody who was not logged in.
    actor     text,
    data      text        not null,
    -- What is hashed: the fields above, each with its length before it, time in microseconds.
    canonical bytea       not null,
    prev_hash bytea       not null,
    hash      bytea       not null,
    constraint audit_pkey primary key (sequence),
    constraint audit_prev_hash_key unique (prev_hash),
    constraint audit_hash_check check (length(hash) = 32 and length(prev_hash) = 32)
);

create index audit_by_subject on audit (subject, sequence desc);

-- The end of the chain: always one row, locked by whoever appends.
create table audit_head (
    id       smallint not null default 1,
    sequence bigint   not null,
    hash     bytea    not null,
    constraint audit_head_pkey primary key (id),
    constraint audit_head_one_check check (id = 1)
);

insert into audit_head (sequence, hash) values (0, decode(repeat('00', 32), 'hex'));

create function refuse_audit_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit table is append-only';
end
$$;

create trigger audit_append_only before update or delete on audit
    for each row execute function refuse_audit_change();
create trigger audit_no_truncate before truncate on audit
    for each statement execute function refuse_audit_change();
