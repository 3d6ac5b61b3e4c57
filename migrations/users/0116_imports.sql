-- imports of people: lines are kept as they come, and become people when all of them are there
create table imports (
    id uuid not null,
    -- what is done if lines are refused: none of them is taken, or only the others are
    mode text not null,
    state text not null default 'receiving',
    -- who sent it, for the event
    by jsonb not null,
    lines bigint not null default 0,
    created bigint not null default 0,
    refused bigint not null default 0,
    -- the last line that is a person or was refused
    done_line bigint not null default 0,
    -- an instance that works at it says so; when this is over another one goes on
    claimed_until timestamptz,
    created_at timestamptz not null default now(),
    -- the last sign of life
    updated_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint imports_pkey primary key (id),
    constraint imports_mode_check check (mode in ('allOrNothing', 'skip')),
    constraint imports_state_check check (state in ('receiving', 'waiting', 'done', 'failed'))
);

create index imports_unfinished_idx on imports (created_at) where state in ('receiving', 'waiting');

-- people to be, with everything that a row of users has
create table import_lines (
    import_id uuid not null,
    line bigint not null,
    id uuid not null,
    username text not null,
    username_key text not null,
    email text not null,
    email_key text not null,
    display_name text not null,
    search text not null,
    disabled boolean not null,
    external_id text,
    attributes jsonb not null,
    sealed bytea,
    blind text[] not null,
    constraint import_lines_pkey primary key (import_id, line),
    constraint import_lines_import_fkey foreign key (import_id) references imports (id) on delete cascade
);

-- what is wrong with lines: the first thousand of an import
create table import_problems (
    import_id uuid not null,
    line bigint not null,
    pointer text not null,
    code text not null,
    detail text not null,
    constraint import_problems_import_fkey foreign key (import_id) references imports (id) on delete cascade
);

create index import_problems_import_idx on import_problems (import_id, line);
