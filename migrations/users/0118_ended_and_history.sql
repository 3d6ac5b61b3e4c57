-- assignments whose time was over: kept for a while, so that a refusal can say until when somebody had what they miss
create table ended_assignments (
    -- one of the two
    user_id uuid,
    group_id uuid,
    role text not null,
    resource text,
    expires_at timestamptz not null,
    ended_at timestamptz not null default now(),
    constraint ended_assignments_key unique nulls not distinct (user_id, group_id, role, resource),
    constraint ended_assignments_user_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint ended_assignments_group_fkey foreign key (group_id) references groups (id) on delete cascade,
    constraint ended_assignments_role_fkey foreign key (role) references roles (name) on delete cascade
);

create index ended_assignments_group_idx on ended_assignments (group_id) where group_id is not null;
create index ended_assignments_ended_at_idx on ended_assignments (ended_at);
create index ended_assignments_role_idx on ended_assignments (role);

-- what happened to a person, in order; gone with the person
create table user_history (
    sequence bigint generated always as identity,
    user_id uuid not null,
    at timestamptz not null default now(),
    -- the end of the event's type, such as updated or role-given
    what text not null,
    -- subject and client; null: Kronos itself
    by jsonb,
    -- what was otherwise, by name; sealed attributes by name alone
    before jsonb,
    after jsonb,
    constraint user_history_pkey primary key (user_id, sequence),
    constraint user_history_user_fkey foreign key (user_id) references users (id) on delete cascade
);
