-- who holds which role, on which resource (null: everywhere), until when (null: without end)
create table assignments (
    user_id uuid not null,
    role text not null,
    resource text,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    constraint assignments_key unique nulls not distinct (user_id, role, resource),
    constraint assignments_user_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint assignments_role_fkey foreign key (role) references roles (name) on delete cascade
);

create index assignments_role_idx on assignments (role, user_id);
create index assignments_expires_at_idx on assignments (expires_at) where expires_at is not null;
