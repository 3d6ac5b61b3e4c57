-- groups of people, who have the group's roles as long as they are members
create table groups (
    id uuid not null,
    name text not null,
    name_key text not null,
    description text not null default '',
    -- the last change of the group's roles
    epoch bigint not null default 1,
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint groups_pkey primary key (id),
    constraint groups_name_key_key unique (name_key),
    constraint groups_version_check check (version > 0)
);

create table group_members (
    group_id uuid not null,
    user_id uuid not null,
    added_at timestamptz not null default now(),
    constraint group_members_pkey primary key (group_id, user_id),
    constraint group_members_group_fkey foreign key (group_id) references groups (id) on delete cascade,
    constraint group_members_user_fkey foreign key (user_id) references users (id) on delete cascade
);

create index group_members_user_idx on group_members (user_id, group_id);

create table group_assignments (
    group_id uuid not null,
    role text not null,
    resource text,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    constraint group_assignments_key unique nulls not distinct (group_id, role, resource),
    constraint group_assignments_group_fkey foreign key (group_id) references groups (id) on delete cascade,
    constraint group_assignments_role_fkey foreign key (role) references roles (name) on delete cascade
);

create index group_assignments_role_idx on group_assignments (role, group_id);
create index group_assignments_expires_at_idx on group_assignments (expires_at) where expires_at is not null;
