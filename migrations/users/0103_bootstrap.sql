-- the first administrator: made once, and whether auth-service has taken the password yet
create table bootstrap (
    only_row boolean not null default true,
    user_id uuid,
    credential_at timestamptz,
    created_at timestamptz not null default now(),
    constraint bootstrap_pkey primary key (only_row),
    constraint bootstrap_only_row_check check (only_row),
    -- an administrator who was deleted is not made again
    constraint bootstrap_user_fkey foreign key (user_id) references users (id) on delete set null
);
