-- roles, what they inherit, and the closure of that: kept on write, so that no check ever recurses
create table roles (
    name text not null,
    description text not null default '',
    permissions text[] not null,
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint roles_pkey primary key (name),
    constraint roles_name_check check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    constraint roles_version_check check (version > 0)
);

-- which roles grant a permission, or a wildcard that covers it
create index roles_permissions_idx on roles using gin (permissions);

create table role_inherits (
    role text not null,
    inherits text not null,
    constraint role_inherits_pkey primary key (role, inherits),
    constraint role_inherits_role_fkey foreign key (role) references roles (name) on delete cascade,
    constraint role_inherits_inherits_fkey foreign key (inherits) references roles (name),
    constraint role_inherits_self_check check (role <> inherits)
);

create index role_inherits_inherits_idx on role_inherits (inherits);

-- each role includes itself and all that it inherits; the path is the shortest one, both ends included
create table role_closure (
    role text not null,
    includes text not null,
    path text[] not null,
    constraint role_closure_pkey primary key (role, includes),
    constraint role_closure_role_fkey foreign key (role) references roles (name) on delete cascade,
    constraint role_closure_includes_fkey foreign key (includes) references roles (name) on delete cascade,
    constraint role_closure_path_check check (path[1] = role and path[cardinality(path)] = includes)
);

create index role_closure_includes_idx on role_closure (includes);
