-- one row for each backup that was ever begun; what is running when its process dies is marked failed by the next one
create table backups (
    id uuid not null,
    state text not null default 'running',
    -- who asked: the token's subject and client
    subject text not null,
    client_id text not null,
    started_at timestamptz not null default now(),
    -- moved on by the process that runs it; old means that the process is gone
    heartbeat_at timestamptz not null default now(),
    finished_at timestamptz,
    tables_done integer not null default 0,
    tables_total integer not null default 0,
    -- of the file on disk
    bytes bigint not null default 0,
    sha256 text,
    file text,
    sealed boolean not null,
    -- why it failed, in words
    failure text,
    constraint backups_pkey primary key (id),
    constraint backups_state_check check (state in ('running', 'completed', 'failed')),
    constraint backups_finished_check check ((state = 'running') = (finished_at is null)),
    constraint backups_completed_check check (state <> 'completed' or (sha256 is not null and file is not null)),
    constraint backups_failed_check check ((state = 'failed') = (failure is not null))
);

-- one at a time
create unique index backups_one_running on backups (state) where state = 'running';
create index backups_state_idx on backups (state, id);
