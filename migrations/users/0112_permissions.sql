-- the permissions that there are, each declared by one service
create table permissions (
    name text not null,
    service text not null,
    description text not null default '',
    declared_at timestamptz not null default now(),
    constraint permissions_pkey primary key (name),
    constraint permissions_name_check check (name ~ '^[a-z][a-z0-9-]*:[a-z][a-z0-9-]*$')
);

create index permissions_service_idx on permissions (service);
